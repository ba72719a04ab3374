"""`interlock detect explain`: why a text got its answer."""

from __future__ import annotations

from typing import Any

import click

from interlock.cli.detect_options import PLACES, detector_options, opened, text_of
from interlock.cli.output import json_option, print_json, print_table


@click.command()
@click.argument("file")
@click.option("--place", type=PLACES, default="auto", show_default=True, help="Of the text.")
@click.option("--words", is_flag=True, help="Take each word of the worst window out, and compare.")
@detector_options
@json_option
def explain(file: str, place: str, words: bool, as_json: bool, **options: Any) -> int:
    """Show how the answer for the text in FILE, or on standard input for -, came about.

    Readings without disguises, rules that hit, the worst windows with what each signal says, the
    time of each stage. Prints parts of the text.
    """
    from interlock.detect.explain import explain as explained

    text = text_of(file)
    detector = opened(options)
    found = explained(detector, text, place, words=words)
    if as_json:
        print_json(found)
    else:
        _print(found)
    return 0 if found["detection"]["action"] == "allow" else 1


def _print(found: dict[str, Any]) -> None:
    answer = found["detection"]
    click.echo(f"action: {answer['action']}, band: {answer['band']}, family: {answer['family']}")
    for reason in answer["reasons"]:
        click.echo(f"  {reason}")
    if len(found["readings"]) > 1:
        click.echo("\nreadings")
        print_table(
            ("taken off", "text"),
            [(", ".join(of["via"]) or "nothing", of["text"]) for of in found["readings"]],
        )
    if found["rules"]:
        click.echo("\nrules")
        print_table(
            ("rule", "family", "severity", "seen through", "text"),
            [
                (of["rule"], of["family"], of["severity"], ", ".join(of["via"]), of["text"])
                for of in found["rules"]
            ],
        )
    if found["windows"]:
        click.echo("\nworst windows, logits above 0 speak for an attack")
        print_table(
            ("score", "logit", "encoder", "n-grams", "rules", "family", "text"),
            [
                (
                    f"{of['score']:.3f}",
                    *(f"{of[part]:+.2f}" for part in ("logit", "encoder", "ngrams", "rules")),
                    of["family"],
                    of["text"],
                )
                for of in found["windows"]
            ],
        )
    if found["words"]:
        click.echo("\nwords of the worst window, and how much the score falls without each")
        print_table(("fall", "word"), [(f"{of['fall']:+.3f}", of["word"]) for of in found["words"]])
    click.echo("\nmilliseconds: " + ", ".join(
        f"{stage} {spent:.2f}" for stage, spent in answer["timings"].items()
    ))  # fmt: skip
