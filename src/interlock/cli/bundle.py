"""`interlock bundle`: pack, check, show, sign and verify bundles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interlock.cli.output import json_option, print_json, print_table
from interlock.errors import BundleFormatError, ConfigError

if TYPE_CHECKING:
    from interlock.bundle.metadata import Metadata

_DIRECTORY = click.argument("directory", type=click.Path(path_type=Path))
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(help="Pack, check, show, sign and verify bundles.")
def command() -> None:
    """Pack, check, show, sign and verify bundles."""


@command.command()
@click.argument("model", type=_FILE)
@_DIRECTORY
@click.option(
    "--metadata",
    "metadata_file",
    type=_FILE,
    help="metadata.json to take along. Without it the graph's signature is used as it is.",
)
@click.option("--name", help="The model's name, where there is no --metadata.")
@click.option("--file", "extra", type=_FILE, multiple=True, help="A further file; repeatable.")
@click.option("--probe/--no-probe", default=True, help="Run the model in a process of its own.")
@json_option
def pack(
    model: Path,
    directory: Path,
    metadata_file: Path | None,
    name: str | None,
    extra: tuple[Path, ...],
    probe: bool,
    as_json: bool,
) -> int:
    """Write the ONNX file MODEL with its metadata as a bundle to DIRECTORY.

    External tensors beside MODEL are put into it. A bundle that is in DIRECTORY already is
    replaced in one step; anything else there is left alone.
    """
    from interlock.bundle import pack as pack_bundle
    from interlock.bundle.pack import describe

    if metadata_file is not None and name is not None:
        raise ConfigError("--name and --metadata are both given")
    files = {path.name: path.read_bytes() for path in extra}
    if len(files) < len(extra):
        raise ConfigError("two files given with --file have the same name")
    metadata = None if metadata_file is None else _metadata(metadata_file)
    with _named(model):
        if metadata is None:
            metadata = describe(model, model.stem if name is None else name)
        bundle = pack_bundle(directory, model, metadata, files, probe=probe)
    if as_json:
        print_json({"path": str(bundle.path), "digest": bundle.digest, "probed": probe})
    else:
        click.echo(f"{bundle.path}\n{bundle.digest}")
    return 0


def _metadata(path: Path) -> Metadata:
    from interlock.bundle.manifest import METADATA
    from interlock.bundle.metadata import parse_metadata

    try:
        return parse_metadata(path.read_bytes())
    except BundleFormatError as error:
        told = error.message.removeprefix(f"{METADATA}: ")
        raise ConfigError(f"--metadata {path}: {told}") from None


@contextmanager
def _named(model: Path) -> Iterator[None]:
    """Refusals name the file by the user's name, and do not advise what is being done already."""
    from interlock.bundle.manifest import MODEL

    try:
        yield
    except BundleFormatError as error:
        rest = error.message.removeprefix(MODEL)
        usual = error.hint == BundleFormatError.default_hint
        raise BundleFormatError(
            error.message if rest == error.message else f"{model}{rest}",
            hint="export the model as ONNX again" if usual else error.hint,
        ) from None


@command.command()
@_DIRECTORY
@click.option("--expected-digest", help="sha256:<hex> that you trust; any other is refused.")
@click.option(
    "--require-signature",
    type=_FILE,
    metavar="KEY",
    help="PEM file of the EC public key that must have signed the bundle.",
)
@click.option("--probe/--no-probe", default=True, help="Run the model in a process of its own.")
@json_option
def check(
    directory: Path,
    expected_digest: str | None,
    require_signature: Path | None,
    probe: bool,
    as_json: bool,
) -> int:
    """Check the bundle in DIRECTORY as loading it does.

    Without --expected-digest or --require-signature this catches accidents only: whoever can
    change the files can change the manifest as well.
    """
    from interlock.bundle import load

    bundle = load(
        directory,
        expected_digest=expected_digest,
        require_signature=require_signature,
        probe=probe,
    )
    if as_json:
        print_json(
            {
                "path": str(directory),
                "digest": bundle.digest,
                "signed_by": bundle.signed_by,
                "probed": probe,
                "trusted": expected_digest is not None or bundle.signed_by is not None,
            }
        )
    else:
        click.echo(f"sound: {bundle.digest}")
        if bundle.signed_by is not None:
            click.echo(f"signed by {bundle.signed_by}")
    return 0


@command.command()
@_DIRECTORY
@json_option
def show(directory: Path, as_json: bool) -> int:
    """Print what the bundle in DIRECTORY declares, after checking it without running it."""
    from interlock.bundle import load

    bundle = load(directory, probe=False)
    metadata = bundle.metadata
    document: dict[str, Any] = {
        "path": str(directory),
        "digest": bundle.digest,
        "name": metadata.name,
        "kind": metadata.kind,
        "inputs": metadata.inputs,
        "outputs": metadata.outputs,
        "batch_axis": metadata.batch_axis,
        "strict": metadata.strict,
        "smoke_vectors": len(metadata.smoke),
        "provenance": metadata.provenance,
        "extensions": metadata.extensions,
        "files": {name: len(data) for name, data in bundle.files.items()},
    }
    if as_json:
        print_json(document)
        return 0
    click.echo(f"{metadata.name}  ({metadata.kind})\n{bundle.digest}\n")
    print_table(
        ("", "name", "dtype", "shape"),
        [
            (role, spec.name, spec.dtype, " x ".join(map(str, spec.shape)) or "scalar")
            for role, specs in (("input", metadata.inputs), ("output", metadata.outputs))
            for spec in specs
        ],
    )
    if metadata.strict is not None:
        strict = metadata.strict
        click.echo(f"\ntau_infer {strict.tau_infer!r}, tau_train {strict.tau_train!r}")
    click.echo("")
    print_table(("file", "bytes"), list(document["files"].items()))
    return 0


@command.command()
@_DIRECTORY
@click.option("--key", type=_FILE, required=True, help="PEM file of the EC private key.")
@json_option
def sign(directory: Path, key: Path, as_json: bool) -> int:
    """Sign the bundle in DIRECTORY with a local EC key. Needs the extra `sign`, no network."""
    from interlock.bundle.sign import sign as sign_bundle

    digest = sign_bundle(directory, key)
    if as_json:
        print_json({"path": str(directory), "digest": digest, "signed": True})
    else:
        click.echo(f"signed: {digest}")
    return 0


@command.command()
@_DIRECTORY
@click.option("--key", type=_FILE, required=True, help="PEM file of the EC public key.")
@json_option
def verify(directory: Path, key: Path, as_json: bool) -> int:
    """Verify the signature of the bundle in DIRECTORY, and every file through it."""
    from interlock.bundle.sign import verify as verify_bundle

    digest, signer = verify_bundle(directory, key)
    if as_json:
        print_json({"path": str(directory), "digest": digest, "signed_by": signer})
    else:
        click.echo(f"verified: {digest}\nsigned by {signer}")
    return 0
