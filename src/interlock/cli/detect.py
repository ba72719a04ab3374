"""`interlock detect`: judge texts, measure a detector, fit it to one's own traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from interlock.cli.detect_bench import bench
from interlock.cli.detect_data import calibrate, evaluate
from interlock.cli.detect_explain import explain
from interlock.cli.detect_options import PLACES, detector_options, opened, text_of
from interlock.cli.detect_train import train
from interlock.cli.output import json_option, print_json
from interlock.errors import InputError

if TYPE_CHECKING:
    from interlock.detect.results import Detection


@click.group(help="Find prompt injections in texts.")
def command() -> None:
    """Find prompt injections in texts."""


for _verb in (bench, calibrate, evaluate, explain, train):
    command.add_command(_verb)


@command.command()
@click.argument("files", metavar="FILE…", nargs=-1, required=True)
@click.option("--place", type=PLACES, default="auto", show_default=True, help="Of the texts.")
@click.option("--lines", is_flag=True, help="Every line is a text of its own.")
@detector_options
@json_option
def scan(files: tuple[str, ...], place: str, lines: bool, as_json: bool, **options: Any) -> int:
    """Judge the text in each FILE, or on standard input for -.

    Ends with 0 where every text may pass and 1 where one is flagged or held. JSON holds no text,
    only where in it something stands out.
    """
    if files.count("-") > 1:
        # The second would be empty, and so look clean.
        raise InputError("standard input can be read once; - stands twice")
    texts = [found for name in files for found in _texts(name, lines)]
    if not texts:
        click.echo("there is no text in it: nothing was judged", err=True)
    detector = opened(options)
    if as_json:
        answers = [(name, detector.scan(text, place)) for name, text in texts]
        documents = [{"file": name, **found.to_dict()} for name, found in answers]
        print_json(documents[0] if len(files) == 1 and not lines else {"results": documents})
        return 0 if all(found.clean for _, found in answers) else 1
    clean = True
    for name, text in texts:
        found = detector.scan(text, place)
        clean &= found.clean
        show(name, text, found)
    return 0 if clean else 1


def show(name: str, text: str, found: Detection) -> None:
    """Print an answer for a person: the verdict, why, and the stretches that stand out."""
    from rich.console import Console
    from rich.text import Text

    from interlock.detect.excerpt import excerpts

    console = Console(highlight=False, soft_wrap=True)
    style = {"allow": "green", "flag": "yellow"}.get(found.action.value, "bold red")
    score = "not judged" if found.score is None else f"{found.score:.3f}"
    head = Text.assemble((f"{found.action.value:8}", style), f" {score}  {name}")
    if found.family is not None:
        head.append(f"  {found.family}", "dim")
    console.print(head)
    if found.clean:
        return
    for reason in found.reasons:
        console.print(Text(f"  {reason}"))
    for segments in excerpts(text, found.spans):
        line = Text("  │ ", "dim")
        for segment in segments:
            line.append(segment.text, _STYLES.get(segment.source))
        console.print(line)


_STYLES: dict[str | None, str] = {"rule": "bold underline red", "window": "underline"}


def _texts(name: str, lines: bool) -> list[tuple[str, str]]:
    shown = "standard input" if name == "-" else name
    text = text_of(name)
    if not lines:
        return [(shown, text)]
    # Not splitlines: U+2028 and its like would cut one line's order into harmless pieces.
    rows = enumerate(text.split("\n"), 1)
    return [(f"{shown}:{at}", line.removesuffix("\r")) for at, line in rows if line.strip()]
