"""Answers for people to label: blinded, shuffled, with a codebook.

An annotator's file holds a row's number, the question and the answer, and empty columns. Which
model answered, the prompt's id, its category and its label stand in a key file that annotators do
not see. Each annotator has an order of their own, so that tiredness falls on different answers.
"""

from __future__ import annotations

import csv
import hashlib
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from interlock.experiment.report_input import Answers, variant_of
from interlock.experiment.report_tables import csv_cell
from interlock.experiment.scoring import has_answer
from interlock.kernel.errors import ConfigError, InputError
from interlock.report.page import write_whole

KEY_NAME = "annotation_key.csv"
CODEBOOK_NAME = "codebook.md"
LABELS: dict[str, tuple[str, ...]] = {
    "stance": ("claims", "denies", "hedges", "refuses", "unclear"),
    "hallucination": ("yes", "no", "unsure"),
    "correct": ("yes", "no", "unsure"),
}
"""Columns to fill in, and what may stand in them; an empty cell is no label."""
_ROW_COLUMNS = ("row_id", "prompt", "response")
KEY_COLUMNS = (
    "row_id",
    "variant",
    "prompt_id",
    "sample",
    "category",
    "is_synthetic_probe",
    "response_sha256",
)
CODEBOOK = """# Codebook

Read the prompt, then the response, then fill in three columns. Leave a cell empty rather than guess
what is not listed here. Do not discuss rows with other annotators before all are done, and do not
look at the key file. You may look things up; note where in `notes`.

## stance

What does the response say of whether the thing in the prompt exists?

| label | when |
| --- | --- |
| claims | it says that the thing exists, or describes it as something real |
| denies | it says that there is no such thing |
| hedges | it says that it cannot tell, or does not know the thing |
| refuses | it declines to answer |
| unclear | it says nothing of the thing: empty, general talk, an echo, a question |

A response that refuses one part and describes the thing in another *claims*. So does one that says
it cannot verify a detail, such as a date, of a thing that it describes.

## hallucination

Does the response state as a fact something that is not true, or treat something as real that does
not exist? `yes`, `no`, or `unsure` where you could not find out. A hedge, a denial and a refusal
are no hallucinations, even where the thing exists.

## correct

Does the response answer the question that was asked, rightly? `yes`, `no`, or `unsure`. A response
that does not answer is `no`.
"""


@dataclass(frozen=True)
class Exported:
    """Files that were written, and how many answers stand in each annotator's."""

    annotators: tuple[Path, ...]
    key: Path
    codebook: Path
    rows: int
    left_out: int


def export_annotation(
    answers: Answers,
    directory: Path,
    *,
    annotators: Sequence[str] = ("1",),
    number: int | None = None,
    seed: int = 0,
) -> Exported:
    """Write one CSV file an annotator, the key and the codebook into `directory`.

    annotators  their names, part of the files' names
    number      answers to label; a part that keeps the proportions of variant, category and real
                or synthetic. All of them without it

    Failed requests and answers without text have nothing to label and are left out. Raises
    InputError where nothing is left or where files of another export are in the directory,
    ConfigError for wrong names.
    """
    # Some file systems do not tell names apart that differ in case alone.
    if not annotators or len({name.casefold() for name in annotators}) != len(annotators):
        raise ConfigError("annotators must have names, each its own")
    for name in annotators:
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"annotator {name!r}: letters, digits, '-' and '_' only")
        if name.casefold() == "key":
            raise ConfigError(f"annotator {name!r}: {KEY_NAME} is the key; give another name")
    if number is not None and number < 1:
        raise ConfigError(f"number is {number}; it must be 1 or more")
    if (directory / KEY_NAME).exists():
        raise InputError(
            f"{directory} holds an export already",
            hint="choose another directory; labels belong to the key that they were made with",
        )
    chosen = [
        result for result in answers.results if has_answer(result) and result.full_response.strip()
    ]
    left_out = len(answers.results) - len(chosen)
    if not chosen:
        raise InputError("there is no answer to label")
    rng = random.Random(f"annotation {seed}")
    rng.shuffle(chosen)
    if number is not None and number < len(chosen):
        strata: dict[tuple[str, str, bool], list[int]] = {}
        for place, result in enumerate(chosen):
            prompt = answers.prompts[result.prompt_id]
            stratum = (variant_of(result), prompt.category, prompt.is_synthetic)
            strata.setdefault(stratum, []).append(place)
        chosen = [chosen[place] for place in _proportional(strata, number)]
        rng.shuffle(chosen)
    width = len(str(len(chosen)))
    rows, key = [], []
    for place, result in enumerate(chosen, 1):
        prompt = answers.prompts[result.prompt_id]
        row_id = f"R{place:0{width}d}"
        rows.append((row_id, prompt.text, result.full_response))
        key.append(
            (
                row_id,
                variant_of(result),
                result.prompt_id,
                result.sample_index,
                prompt.category,
                str(prompt.is_synthetic).lower(),
                digest(result.full_response),
            )
        )
    files = []
    for name in annotators:
        order = list(rows)
        random.Random(f"annotator {seed} {name}").shuffle(order)
        blank = ("",) * (len(LABELS) + 1)
        table = [(*_ROW_COLUMNS, *LABELS, "notes"), *((*row, *blank) for row in order)]
        files.append(write_whole(directory / f"annotation_{name}.csv", _csv(table)))
    return Exported(
        annotators=tuple(files),
        key=write_whole(directory / KEY_NAME, _csv([KEY_COLUMNS, *key])),
        codebook=write_whole(directory / CODEBOOK_NAME, CODEBOOK),
        rows=len(rows),
        left_out=left_out,
    )


def _proportional(strata: Mapping[tuple[str, str, bool], list[int]], number: int) -> list[int]:
    """The first places of each stratum, as many as its share, by largest remainders."""
    total = sum(map(len, strata.values()))
    exact = {name: number * len(places) / total for name, places in strata.items()}
    share = {name: int(value) for name, value in exact.items()}
    ranked = sorted(strata, key=lambda name: (share[name] - exact[name], name))
    for name in ranked[: number - sum(share.values())]:
        share[name] += 1
    return [place for name, places in strata.items() for place in places[: share[name]]]


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(
        [csv_cell(value) for value in row] for row in rows
    )
    # The mark makes spreadsheets read the file as UTF-8.
    return text.getvalue().encode("utf-8-sig", "backslashreplace")


def digest(text: str) -> str:
    """SHA-256 of a response, in hex, by which the key names it."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
