"""`interlock demo`: run the demonstration and write its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from interlock.cli.output import json_option, print_json, print_table
from interlock.errors import InputError, StorageError


@click.command("demo")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Directory for the report and the journal.",
)
@click.option("--requests", default=10_000, show_default=True, help="Requests to the arm.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=20_260,
    show_default=True,
    help="Seed of the requests.",
)
@click.option("--prove", is_flag=True, help="Prove a network's slices too; takes a minute.")
@json_option
def command(output: Path, requests: int, seed: int, prove: bool, as_json: bool) -> int:
    """Serve a robot arm, tamper with its bundle, kill a run and resume it.

    With the extra `detect`, judge prompts, mails and pages for injections; where a text model is
    there, summarise this package's source as well. Writes
    OUTPUT/report.html, one page that needs nothing else, and OUTPUT/journal.sqlite; with --prove
    also OUTPUT/net.html, the proofs and their keys. Ends with 1 where a promise does not hold, and
    says which.
    """
    if not 1000 <= requests <= 1_000_000:
        raise InputError(
            f"--requests is {requests}; the demo's figures need 1000 or more, and all requests are "
            "held in memory: 1000000 at most"
        )
    from interlock.demo import journalled, page
    from interlock.report.page import write

    _make(output)
    _check_own(output)
    with journalled.alone(output / "journal.sqlite"):
        found = _steps(output, requests, seed, prove, lambda line: click.echo(line, err=as_json))
        report = write(page.build(found), output / "report.html")
    if as_json:
        print_json(_document(found, report))
    else:
        _print(found, report)
    return 1 if found.broken() else 0


def _steps(output: Path, requests: int, seed: int, prove: bool, say: Callable[[str], None]) -> Any:
    from interlock.demo import arm, journalled, signing, tamper
    from interlock.demo.found import Demo
    from interlock.strict.arm.shipped import SHIPPED

    say(f"serving {requests:,} requests to the arm, 35% of them near-singular")
    served = arm.serve(requests, seed)
    say("flipping one byte of the bundle")
    refusal = tamper.flip_one_byte(SHIPPED, seed)
    say("running the same requests with a journal, killing the run half-way, resuming it")
    resumed = journalled.run_killed_and_resumed(output / "journal.sqlite", requests, seed)
    signed = None
    if signing.available():
        say("signing the bundle, and verifying it with the right and a wrong key")
        signed = signing.sign_and_verify(SHIPPED)
    else:
        say("skipped: signing the bundle; `make demo-all` adds the extra `sign`")
    proof = _proved(output, seed, prove, say)
    judged = _judged(say)
    return Demo(served, refusal, resumed, signed, proof, _summarised(output, say), judged)


def _proved(output: Path, seed: int, prove: bool, say: Callable[[str], None]) -> Any:
    from importlib.util import find_spec

    if not prove or find_spec("ezkl") is None:
        say("skipped: proving a network's slices; `make demo-all` adds the extra `zk` and proves")
        return None
    from interlock.demo import proved
    from interlock.report.page import write
    from interlock.verified.report_page import build

    say("proving a network's slices on a scanned digit, and tampering with a proof")
    found = proved.prove_and_verify(output, seed, say)
    page = build(found.result, found.metadata, plans=found.plans, trusted=found.verdict.trusted)
    write(page, output / "net.html")
    return found


def _judged(say: Callable[[str], None]) -> Any:
    from interlock.demo import prompts

    missing = prompts.missing()
    if missing is not None:
        say(f"skipped: judging prompts, for want of {missing}")
        return None
    say(f"judging {len(prompts.PROMPTS)} prompts, mails and pages for injections")
    return prompts.judge()


def _summarised(output: Path, say: Callable[[str], None]) -> Any:
    from interlock.demo import summaries

    missing = summaries.missing()
    if missing is not None:
        say(f"skipped: summarising its own source, for want of {missing}; `make model` adds it")
        return None
    say("summarising the package's own source, killing the run, resuming it (some minutes)")
    return summaries.run_killed_and_resumed(output / "summary")


def _check_own(output: Path) -> None:
    """Raise InputError where a directory that is to be replaced is no earlier demonstration's."""
    if (output / "journal.sqlite").exists():
        return
    for name in ("net", "proofs", "summary"):
        if (output / name).exists():
            raise InputError(
                f"--output is {output}, where {name!r} is of no earlier demonstration",
                hint="name an empty directory",
            )


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make the directory {directory}: {error.strerror}",
            hint="choose a directory that can be written to with --output",
        ) from None


def _document(found: Any, report: Path) -> dict[str, Any]:
    served, resumed = found.served, found.resumed
    return {
        "requests": len(served.requests),
        "counts": {name: int(rows.sum()) for name, _, rows in served.counts()},
        "answered": served.answered,
        "unsafe": served.unsafe,
        "masks": {
            "accepted": served.masks.accepted,
            "flagged": served.masks.flagged,
            "unsafe": served.masks.unsafe,
            "mean_error": served.masks.mean_error,
        },
        "bundle": served.bundle.digest,
        "tampered": {"code": found.refusal.code, "message": found.refusal.message},
        "signed": None if found.signed is None else found.signed.verified,
        "proved": None if found.proved is None else _proofs(found.proved),
        "journal": {
            "acknowledged": resumed.acknowledged,
            "lost": resumed.lost,
            "repeated": resumed.repeated,
            "sent_again": resumed.sent_again,
        },
        "summaries": None
        if found.summaries is None
        else {
            "summaries": found.summaries.summaries,
            "acknowledged": found.summaries.acknowledged,
            "lost": found.summaries.lost,
            "repeated": found.summaries.repeated,
            "chunks": found.summaries.chunks,
            "own": found.summaries.own,
            "page": str(found.summaries.page.resolve()),
        },
        "prompts": None if found.prompts is None else _prompts(found.prompts),
        "broken": found.broken(),
        "report": str(report.resolve()),
    }


def _proofs(proved: Any) -> dict[str, Any]:
    return {
        "slices": len(proved.result.execution_results),
        "proved": proved.result.proved,
        "overall_security": proved.result.overall_security,
        "accepted": proved.verdict.accepted,
        "tampered": [str(reason) for reason in proved.tampered.reasons],
    }


def _prompts(prompts: Any) -> dict[str, Any]:
    return {
        "caught": list(prompts.caught),
        "disturbed": list(prompts.disturbed),
        "seconds": prompts.seconds,
        "model": prompts.model,
    }


def _show_prompts(prompts: Any) -> None:
    from interlock.cli.detect import show

    click.echo()
    for prompt in prompts.judged:
        kind = "hostile" if prompt.hostile else "harmless"
        show(f"{kind} {prompt.found.place}: {_begin(prompt.text)}", prompt.text, prompt.found)
    caught, hostile = prompts.caught
    disturbed, harmless = prompts.disturbed
    click.echo(
        f"\n{caught} of {hostile} hostile prompts flagged or held, {disturbed} of {harmless} "
        f"harmless ones, in {prompts.seconds:.1f} s"
    )


def _begin(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


def _print(found: Any, report: Path) -> None:
    served, resumed = found.served, found.resumed
    total = len(served.requests)
    rows: list[tuple[str, str, str]] = [
        (name, f"{int(mask.sum()):,}", f"{mask.mean():.1%}") for name, _, mask in served.counts()
    ]
    rows += [
        ("unsafe, by the independent judge", f"{served.unsafe}", ""),
        ("tampered bundle", "refused" if found.refusal.noticed else "NOT NOTICED", ""),
        ("killed half-way: lost, repeated", f"{resumed.lost}, {resumed.repeated}", ""),
    ]
    if found.proved is not None:
        result = found.proved.result
        noticed = "NOT NOTICED" if found.proved.tampered.accepted else "refused"
        rows += [
            ("slices proved", f"{result.proved} of {len(result.execution_results)}", ""),
            ("flipped bit in a proof", noticed, ""),
        ]
    click.echo()
    print_table([f"{total:,} requests", "", "share"], rows)
    if found.summaries is not None:
        summarised = found.summaries
        click.echo(
            f"\n{summarised.summaries} summaries of its own source, {summarised.own:.0%} of the "
            f"chunks by the model; lost, repeated after the kill: {summarised.lost}, "
            f"{summarised.repeated}\n{summarised.page.resolve()}"
        )
    if found.prompts is not None:
        _show_prompts(found.prompts)
    for sentence in found.broken():
        click.echo(f"broken promise: {sentence}")
    click.echo(f"\nreport: {report.resolve()}")
