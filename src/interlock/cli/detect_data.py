"""`interlock detect evaluate` and `calibrate`: a detector and labelled texts."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interlock.cli.detect_options import PLACES, check_writable, detector_options, opened
from interlock.cli.output import json_option, print_json, print_table
from interlock.kernel.replace_file import replace_file

if TYPE_CHECKING:
    from interlock.detect.detector import Detector
    from interlock.detect.evaluate import Scored
    from interlock.detect.labelled import Labelled

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
DATA = click.option(
    "--data",
    type=_FILE,
    required=True,
    multiple=True,
    help="Labelled texts: .parquet, .csv, .tsv, .jsonl or .json; repeatable.",
)
TEXT = click.option("--text", default="text", show_default=True, help="Column of the texts.")
LABEL = click.option(
    "--label", default="label", show_default=True, help="Column of the labels, 1 for an attack."
)
SOURCE = click.option(
    "--source", default="source", show_default=True, help="Column of the sources, if there is one."
)
PLACE = click.option(
    "--place",
    type=PLACES,
    default="auto",
    show_default=True,
    help="Of texts without a place in a column `place`.",
)
SCORES = click.option(
    "--scores",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep scores here as they come; the same command goes on from them.",
)


@click.command()
@DATA
@TEXT
@LABEL
@SOURCE
@PLACE
@SCORES
@detector_options
@json_option
def evaluate(
    data: tuple[Path, ...],
    text: str,
    label: str,
    source: str,
    place: str,
    scores: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Measure a detector on labelled texts, at the threshold that it has.

    Shares have 95% intervals. A text that nothing judged counts as held, and is counted.
    """
    from interlock.detect.evaluate import evaluate as figures

    rows = read(data, text, label, source, place)
    detector, scored = _scored(rows, options, scores)
    found = figures(scored, detector.confidence_threshold)
    found["model"] = detector.model_info["model_id"]
    found["bundle"] = detector.model_info["bundle"]
    if as_json:
        print_json(found)
    else:
        _print(found)
    return 1 if scored.unjudged else 0


@click.command()
@DATA
@TEXT
@LABEL
@SOURCE
@PLACE
@SCORES
@click.option(
    "--fpr", type=float, default=0.01, show_default=True, help="False-positive rate to keep to."
)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("calibration.json"),
    show_default=True,
    help="Where the calibration goes.",
)
@detector_options
@json_option
def calibrate(
    data: tuple[Path, ...],
    text: str,
    label: str,
    source: str,
    place: str,
    scores: Path | None,
    fpr: float,
    output: Path,
    as_json: bool,
    **options: Any,
) -> int:
    """Find thresholds for your own traffic, from harmless texts of it.

    Attacks are not needed, and only tell the recall. A text that comes again counts once. The
    thresholds hold for texts like these and for this bundle; give the file to the other verbs with
    --calibration.
    """
    import msgspec

    from interlock.detect.calibration import calibrate as fitted
    from interlock.detect.calibration import check_enough
    from interlock.errors import ConfigError, InputError

    if options.get("calibration") is not None:
        raise ConfigError("--calibration is what this verb makes; leave it out")
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output is {output}; there is no directory {output.parent}")
    check_writable(output)
    if output.resolve() in {path.resolve() for path in data}:
        raise ConfigError(f"--output is {output}, which is also --data")
    if scores is not None and output.resolve() == scores.resolve():
        raise ConfigError(f"--output is {output}, which is also --scores")
    every = read(data, text, label, source, place)
    rows = once(every)
    check_enough(sum(not row.attack for row in rows), fpr)
    detector, scored = _scored(rows, options, scores)
    if scored.unjudged:
        raise InputError(
            f"{scored.unjudged} of {len(rows)} texts were not judged; a threshold from the rest "
            "would be too high",
            hint="`interlock detect scan` says why",
        )
    bundle = str(detector.model_info["bundle"])
    found = fitted(scored.scores, scored.attacks, bundle=bundle, fpr=fpr)
    replace_file(output, found.encode())
    if as_json:
        print_json({**msgspec.to_builtins(found), "output": str(output)})
        return 0
    low, high = found.interval
    print_table(
        ("environment", "threshold"),
        [(name, f"{value:.4f}") for name, value in found.thresholds.items()],
    )
    click.echo(
        f"\nfalse-positive rate of production on {found.harmless:,} harmless texts: "
        f"{found.measured:.3%} (95%: {low:.3%} to {high:.3%})"
    )
    if found.recall is not None:
        click.echo(f"recall on {found.attacks:,} attacks: {found.recall:.1%}")
    click.echo(f"\n{output}")
    return 0


def _scored(rows: list[Labelled], options: Any, scores: Path | None) -> tuple[Detector, Scored]:
    from interlock.detect.evaluate import score
    from interlock.detect.kept_scores import KeptScores
    from interlock.kernel.progress import open_progress

    detector = opened(options)
    with ExitStack() as stack:
        progress = stack.enter_context(open_progress("texts", total=len(rows)))
        kept = None if scores is None else stack.enter_context(KeptScores(scores, detector))
        scored = score(detector, rows, lambda action: progress.advance({action.status: 1}), kept)
    return detector, scored


def read(data: tuple[Path, ...], text: str, label: str, source: str, place: str) -> list[Labelled]:
    """The rows of all files; raises InputError naming file, row and column."""
    from interlock.detect.labelled import read_labelled

    return [
        row
        for path in data
        for row in read_labelled(path, text=text, label=label, source=source, default_place=place)
    ]


def once(every: list[Labelled]) -> list[Labelled]:
    """Each text of a label and place once; says on standard error how many come again, and how
    many have both labels, of which one is wrong.
    """
    from interlock.detect.labelled import distinct

    rows = distinct(every)
    if len(rows) < len(every):
        click.echo(f"{len(every) - len(rows):,} texts come again and count once", err=True)
    attacks = {row.text for row in rows if row.attack}
    both = len(attacks & {row.text for row in rows if not row.attack})
    if both:
        click.echo(
            f"texts labelled as an attack and as harmless, which count as both: {both:,}", err=True
        )
    return rows


def _print(found: dict[str, Any]) -> None:
    ranges = found["intervals"]
    rows = [
        (name, _share(value), _range(ranges["at_threshold"].get(name)))
        for name, value in found["at_threshold"].items()
    ]
    rows += [
        (
            f"recall at {float(name):.1%} FPR",
            _share(value),
            _range(ranges["recall_at_fpr"].get(name)),
        )
        for name, value in found["recall_at_fpr"].items()
    ]
    rows.append(("AUC", _share(found["auc"]), _range(ranges.get("auc"))))
    click.echo(
        f"{found['n']:,} texts, {found['attacks']:,} attacks, threshold {found['threshold']:.4f}\n"
    )
    print_table(("", "", "95%"), rows)
    if len(found["per_source"]) > 1:
        click.echo()
        print_table(
            ("source", "n", "attacks", "FPR", "recall", "recall at 1% FPR", "AUC"),
            [
                (
                    source,
                    f"{of['n']:,}",
                    f"{of['attacks']:,}",
                    _share(of["at_threshold"]["fpr"]),
                    _share(of["at_threshold"]["recall"]),
                    _share(of["recall_at_fpr"].get("0.01")),
                    _share(of["auc"]),
                )
                for source, of in found["per_source"].items()
            ],
        )
    notes = [
        f"{found[name]:,} {what}"
        for name, what in (
            ("unjudged", "not judged"),
            ("cut", "not read whole"),
            ("anomalies", "unlike all training texts"),
        )
        if found[name]
    ]
    harmless = found["n"] - found["attacks"]
    at_rate = found["recall_at_fpr"].items()
    measured = [float(name) for name, recall in at_rate if recall is not None]
    coarse = [rate for rate in measured if harmless * rate < 1]
    if coarse:
        rates = " and ".join(f"{rate:.1%}" for rate in coarse)
        notes.append(f"{harmless:,} harmless texts are too few to measure a rate of {rates}")
    if notes:
        click.echo("\n" + ", ".join(notes))


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _range(interval: list[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} – {interval[1]:.3f}"
