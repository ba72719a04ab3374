"""`interlock summarize`: summaries of a source tree, each with where it comes from."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import click
import msgspec

from interlock.cli.output import json_option, print_json, print_table
from interlock.errors import ConfigError, InterruptedRunError
from interlock.kernel.progress import Progress

_MODES = click.Choice(["lines", "concatenated", "syntax"])
_INPUTS = click.Choice(["signatures", "stripped", "full"])
DEFAULT_MODEL = "smollm2"


@click.command("summarize")
@click.argument("path")
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("interlock-summary"),
    show_default=True,
    help="Directory for the files, and for the journal that a run resumes from.",
)
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="A model of `interlock models list` or its directory; none for extractive summaries.",
)
@click.option(
    "--model-for",
    multiple=True,
    metavar="LANGUAGE=MODEL",
    help="Another model for sources in a language; repeatable.",
)
@click.option(
    "--provider",
    multiple=True,
    metavar="NAME",
    help="Execution provider of ONNX Runtime, such as CUDAExecutionProvider; in order.",
)
@click.option("--chunks", type=_MODES, default="lines", show_default=True, help="How to cut.")
@click.option(
    "--chunk-lines", type=click.IntRange(min=1), default=300, show_default=True, help="Most lines."
)
@click.option(
    "--input",
    "view",
    type=_INPUTS,
    default="signatures",
    show_default=True,
    help="What of a chunk the model sees.",
)
@click.option(
    "--instances",
    type=click.IntRange(1, 1024),
    default=2,
    show_default=True,
    help="Summaries at a time, over one model in memory.",
)
@click.option("--isolate", is_flag=True, help="Every instance in a process with its own model.")
@click.option("--memory-limit", metavar="SIZE", help="Of each such process, such as 2GB.")
@click.option("--max-input-tokens", type=click.IntRange(min=16), help="Most tokens of an input.")
@click.option("--line-width", type=click.IntRange(min=20), help="Most characters a summary's line.")
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=600, show_default=True, help="Seconds each."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of draws.")
@click.option("--include", multiple=True, metavar="PATTERN", help="Only files that match one.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Files and folders to leave out.")
@click.option("--vendored", is_flag=True, help="Take vendored folders in.")
@click.option("--generated", is_flag=True, help="Take generated files in.")
@click.option("--data", is_flag=True, help="Take data files in, such as JSON and CSV.")
@click.option(
    "--baseline",
    type=click.IntRange(min=0),
    default=0,
    help="So many chunks one at a time first, to measure parallel efficiency.",
)
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Another file for the journal.",
)
@click.option("--dry-run", is_flag=True, help="Only count and estimate; nothing is written.")
@json_option
def command(
    path: str,
    output: Path,
    model: str,
    model_for: tuple[str, ...],
    provider: tuple[str, ...],
    chunks: Any,
    chunk_lines: int,
    view: Any,
    instances: int,
    isolate: bool,
    memory_limit: str | None,
    max_input_tokens: int | None,
    line_width: int | None,
    timeout: float,
    seed: int,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    vendored: bool,
    generated: bool,
    data: bool,
    baseline: int,
    journal: Path | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Summarise the source tree at PATH: chunks, files, folders, and the whole.

    PATH is a directory, a file, or a Git repository on this disk, bare ones included. Every summary
    of the model is checked against its source; one that does not pass is drawn again with another
    seed, and then replaced by the source's own words, marked as such. Interrupted or killed, the
    same command goes on where it was; after an edit, it makes anew only what the edit touches.
    Exit code 1 where a summary was refused or failed.
    """
    from interlock.summarize import Options, Selection

    options = Options(
        chunks=chunks,
        chunk_lines=chunk_lines,
        view=view,
        instances=instances,
        max_input_tokens=max_input_tokens,
        width=line_width,
        seconds=timeout,
        seed=seed,
        selection=Selection(include, exclude, vendored, generated, data),
    )
    limit = None if memory_limit is None else _bytes(memory_limit)
    if limit is not None and not isolate:
        raise ConfigError("--memory-limit is for processes", hint="add --isolate")
    from interlock.summarize.workers import Names

    names = Names(None if model == "none" else model, _by_language(model_for), provider)
    if dry_run:
        return _dry_run(path, output, options, names, journal, as_json)
    return _run(path, output, options, names, isolate, limit, baseline, journal, as_json)


def _by_language(pairs: tuple[str, ...]) -> dict[str, str]:
    """Language in lower case -> name of a model; raises ConfigError for what is no such pair."""
    found = {}
    for pair in pairs:
        language, equals, name = pair.partition("=")
        if not equals or not language or not name:
            raise ConfigError(f"--model-for is {pair!r}; it must have the form LANGUAGE=MODEL")
        if language.lower() in found:
            raise ConfigError(f"--model-for names {language!r} twice")
        found[language.lower()] = name
    return found


def _dry_run(
    path: str, output: Path, options: Any, names: Any, journal: Path | None, as_json: bool
) -> int:
    from interlock.summarize import estimate

    asks = names.default is not None or bool(names.by_language)
    model = names.describe()
    if model is None:
        click.echo(
            f"no tokenizer of {', '.join(names.all)} is to be had: tokens are estimated by the "
            "length of the texts",
            err=True,
        )
    found = estimate(path, output, options, model=model, journal=journal, with_model=asks)
    if as_json:
        print_json(found)
        return 0
    print_table(
        ("", "estimate"),
        [
            ("files", f"{found.files:,}, {found.skipped:,} left out"),
            ("lines", f"{found.lines:,}"),
            ("chunks", f"{found.chunks:,}"),
            ("summaries", f"{found.nodes:,}, {found.reused:,} there already"),
            ("tokens", f"{found.tokens:,}" + ("" if found.counted else " by their length")),
            ("time", f"{found.seconds:,.0f} s on {options.instances} instances, by the speed of "
                     f"{found.rate_from}"),
            ("disk", f"{found.disk_bytes / 1e6:,.1f} MB"),
        ],
    )  # fmt: skip
    return 0


def _run(
    path: str,
    output: Path,
    options: Any,
    names: Any,
    isolate: bool,
    limit: int | None,
    baseline: int,
    journal: Path | None,
    as_json: bool,
) -> int:
    from interlock.kernel.progress import open_progress
    from interlock.summarize import contracts, summarize, workers
    from interlock.summarize.checkout import local_path
    from interlock.summarize.session import check_journal, check_output
    from interlock.summarize.tree import resolved_root

    # A wrong path or a run under way is told before a model takes its seconds to open.
    check_output(resolved_root(local_path(path)), output)
    check_journal(output, journal)
    started = time.perf_counter()
    models = names.open(instances=1 if isolate else options.instances, cores=contracts.cores())
    executor = workers.open_executor(
        models,
        instances=options.instances,
        seconds=options.seconds,
        isolate=names if isolate else None,
        memory_limit=limit,
    )
    init_seconds = time.perf_counter() - started

    def progress(total: int, done: int) -> AbstractContextManager[Progress]:
        return open_progress("summaries", total=total, done=done)

    with closing(models), executor:
        try:
            done = summarize(
                path,
                output,
                options,
                model=models,
                executor=executor,
                journal=journal,
                init_seconds=init_seconds if models.name else None,
                baseline=baseline,
                progress=progress,
            )
        except InterruptedRunError as stopped:
            hint = "run the same command again; it goes on where it was"
            raise InterruptedRunError(stopped.message, hint=hint) from None
    counts = contracts.status_counts(done.finished)
    if as_json:
        print_json(_document(done, counts))
    else:
        _print(done, counts)
    return 1 if any(not status.usable and count for status, count in counts.items()) else 0


def _document(done: Any, counts: Any) -> dict[str, Any]:
    plan = done.finished.plan
    return {
        "run": done.finished.run_id,
        "files": len(plan.files),
        "lines": plan.tree.lines,
        "chunks": len(plan.level("chunk")),
        "counts": {status.value: count for status, count in counts.items()},
        "reused": len(done.finished.reused),
        "contracts": msgspec.to_builtins(done.contracts),
        "outputs": {
            "json": str(done.files.summary_json),
            "markdown": str(done.files.markdown),
            "html": str(done.files.html),
            "map": str(done.files.map_json),
        },
    }


def _print(done: Any, counts: Any) -> None:
    top = done.finished.summary("repository")
    if top is None:
        click.echo("There is no summary of the whole.\n")
    else:
        click.echo(f"{top.text}{' (extractive)' if top.origin == 'extractive' else ''}\n")
    held = {True: "kept", False: "missed", None: ""}
    print_table(
        ("contract", "measured", "bar", ""),
        [(name, value, bar, held[kept]) for name, value, bar, kept in done.contracts.kept()],
    )
    shown = ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)
    click.echo(f"\n{shown}; {len(done.finished.reused):,} were there already")
    click.echo(f"the model's own: {done.contracts.model_share:.1%} of the chunks\n")
    files = done.files
    for file in (files.html, files.markdown, files.summary_json, files.map_json):
        click.echo(str(file))


def _bytes(text: str) -> int:
    """A size such as 512MB or 2GB; raises ConfigError for anything else."""
    import re

    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]i?)?B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ConfigError(f"--memory-limit is {text!r}; it must be a size such as 512MB or 2GB")
    unit = (found[2] or "").upper()
    base = 1024 if unit.endswith("I") else 1000
    size = float(found[1]) * base ** " KMG".index(unit[:1] or " ")
    if size >= 1 << 60:
        raise ConfigError(f"--memory-limit is {text!r}; no machine has so much")
    return int(size)
