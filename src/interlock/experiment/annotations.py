"""Labels of annotators read back: how far people agree, and scorers with people."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from interlock.experiment.agreement import Agreement, cohen_kappa, krippendorff_alpha
from interlock.experiment.analysis import Scored
from interlock.experiment.annotate import KEY_COLUMNS, LABELS, digest
from interlock.experiment.scoring import Verdict
from interlock.kernel.errors import InputError

_LONGEST_CELL = 2**31 - 1

# scorer -> column, and which labels are its yes and its no
_COUNTERPARTS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "existence": ("correct", ("yes",), ("no",)),
    "hallucination": ("hallucination", ("yes",), ("no",)),
    "refusal": ("stance", ("refuses",), ("claims", "denies", "hedges", "unclear")),
    "hedging": ("stance", ("hedges",), ("claims", "denies", "refuses", "unclear")),
}


@dataclass(frozen=True, slots=True)
class KeyRow:
    """What a row of the annotators' files stands for."""

    variant: str
    prompt_id: str
    sample: int
    response_sha256: str


@dataclass(frozen=True, slots=True)
class PairTable:
    """A scorer's verdicts against the people's label of the same answers.

    table  (scorer's verdict, people's verdict) -> answers; verdicts are "yes", "no" and, for the
           scorer, "undecided" and the like
    kappa  of the answers for which both say yes or no
    """

    scorer: str
    column: str
    table: dict[str, int]
    kappa: Agreement


@dataclass(frozen=True, slots=True)
class Annotated:
    """Labels of all annotators, and how far they agree.

    labels    column -> row -> annotator -> label
    majority  column -> row -> the label of more than half of its annotators; rows without one are
              not in it
    pairs     Cohen's kappa: (column, annotator, annotator, agreement)
    alpha     column -> Krippendorff's alpha of all annotators; with one annotator nothing
    scorers   the scorers' verdicts against the majority
    """

    annotators: tuple[str, ...]
    rows: int
    labels: dict[str, dict[str, dict[str, str]]]
    majority: dict[str, dict[str, str]]
    pairs: tuple[tuple[str, str, str, Agreement], ...]
    alpha: dict[str, Agreement]
    scorers: tuple[PairTable, ...]


def read_annotation(
    key: Path, files: Sequence[Path], scored: Sequence[Scored] = (), *, seed: int = 0
) -> Annotated:
    """Read annotators' files back and compare them with one another and with scorers.

    scored  verdicts of a run; those on other answers than the annotated ones do not count

    Raises InputError that names file, line and value of a label that the codebook does not know, an
    unknown or repeated row, or a missing column.
    """
    rows = _read_key(key)
    labels: dict[str, dict[str, dict[str, str]]] = {column: {} for column in LABELS}
    names: list[str] = []
    for file in files:
        name = file.stem.removeprefix("annotation_")
        if name in names:
            raise InputError(f"two files are of the annotator {name!r}: {file.name}")
        names.append(name)
        for row_id, given in _read_labels(file, rows).items():
            for column, label in given.items():
                labels[column].setdefault(row_id, {})[name] = label
    majority = {
        column: {row: label for row, given in found.items() for label in _majority(given)}
        for column, found in labels.items()
    }
    pairs = []
    for column, found in labels.items():
        for first, second in combinations(names, 2):
            both = [given for given in found.values() if first in given and second in given]
            agreed = cohen_kappa(
                [given[first] for given in both], [given[second] for given in both], seed=seed
            )
            pairs.append((column, first, second, agreed))
    return Annotated(
        annotators=tuple(names),
        rows=len(rows),
        labels=labels,
        majority=majority,
        pairs=tuple(pairs),
        alpha={
            column: krippendorff_alpha(list(found.values()), seed=seed)
            for column, found in labels.items()
        }
        if len(names) > 1
        else {},
        scorers=tuple(_against_scorers(rows, majority, scored, seed)),
    )


def _majority(given: Mapping[str, str]) -> list[str]:
    """The label of more than half of the annotators, alone in a list, or an empty one."""
    return [label for label, votes in Counter(given.values()).items() if 2 * votes > len(given)]


def _against_scorers(
    rows: Mapping[str, KeyRow],
    majority: Mapping[str, Mapping[str, str]],
    scored: Sequence[Scored],
    seed: int,
) -> list[PairTable]:
    by_answer: dict[tuple[str, str, int], dict[str, Scored]] = {}
    for each in scored:
        at = (each.variant, each.prompt.id, each.result.sample_index)
        by_answer.setdefault(at, {})[each.scorer] = each
    found = []
    for scorer, (column, positive, negative) in _COUNTERPARTS.items():
        table: Counter[str] = Counter()
        machine, people = [], []
        for row_id, label in majority[column].items():
            row = rows[row_id]
            one = by_answer.get((row.variant, row.prompt_id, row.sample), {}).get(scorer)
            if one is None or one.score.verdict is Verdict.NOT_APPLICABLE:
                continue
            if digest(one.result.full_response) != row.response_sha256:
                raise InputError(
                    f"row {row_id} was labelled for another answer than the run holds",
                    hint="give the run that the export was made of",
                )
            said = "yes" if label in positive else "no" if label in negative else label
            table[f"{one.score.verdict.value} / {said}"] += 1
            if one.score.verdict.counts is not None and said in ("yes", "no"):
                machine.append(one.score.verdict.value)
                people.append(said)
        if table:
            kappa = cohen_kappa(machine, people, seed=seed)
            found.append(PairTable(scorer, column, dict(sorted(table.items())), kappa))
    return found


def _read_key(path: Path) -> dict[str, KeyRow]:
    found = {}
    for line, row in _read_csv(path, KEY_COLUMNS):
        try:
            found[row["row_id"]] = KeyRow(
                row["variant"], row["prompt_id"], int(row["sample"]), row["response_sha256"]
            )
        except ValueError:
            raise InputError(f"{path.name}, line {line}: sample is {row['sample']!r}") from None
    return found


def _read_labels(path: Path, rows: Mapping[str, KeyRow]) -> dict[str, dict[str, str]]:
    """row -> column -> label; cells that are empty are left out."""
    found: dict[str, dict[str, str]] = {}
    for line, row in _read_csv(path, ("row_id", *LABELS)):
        row_id = row["row_id"].strip()
        if row_id not in rows:
            raise InputError(f"{path.name}, line {line}: the key has no row {row_id!r}")
        if row_id in found:
            raise InputError(f"{path.name}, line {line}: row {row_id} is there twice")
        found[row_id] = {}
        for column, allowed in LABELS.items():
            label = row[column].strip().lower()
            if label and label not in allowed:
                raise InputError(
                    f"{path.name}, line {line}: {column} is {label[:40]!r}; it must be one of "
                    f"{', '.join(allowed)}, or empty"
                )
            if label:
                found[row_id][column] = label
    return found


def _read_csv(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows with their lines; commas, semicolons and tabs separate, as spreadsheets write them."""
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is not UTF-8 text; save it as “CSV UTF-8”") from None
    header = text.split("\n", 1)[0]
    mark = max(",;\t", key=lambda each: header.count(each))
    # A prompt or an answer may be longer than what the module takes by itself.
    usual = csv.field_size_limit(_LONGEST_CELL)
    try:
        return _rows(path, csv.DictReader(io.StringIO(text, newline=""), delimiter=mark), columns)
    finally:
        csv.field_size_limit(usual)


def _rows(
    path: Path, reader: csv.DictReader[str], columns: Sequence[str]
) -> list[tuple[int, dict[str, str]]]:
    names = [name.strip() for name in reader.fieldnames or []]
    for column in columns:
        if column not in names:
            raise InputError(f"{path.name} has no column {column!r}")
    reader.fieldnames = names
    try:
        rows = [(reader.line_num, {name: row[name] or "" for name in names}) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path.name}, line {reader.line_num}: {error}") from None
    # Spreadsheets end a file with rows of separators alone.
    return [(line, row) for line, row in rows if any(cell.strip() for cell in row.values())]
