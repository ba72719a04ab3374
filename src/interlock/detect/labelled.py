"""Labelled texts from a file: parquet, CSV or JSON lines."""

from __future__ import annotations

import codecs
import csv
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from interlock.kernel.errors import InputError, MissingExtraError

_TRUE = frozenset(
    {"1", "1.0", "true", "yes", "attack", "injection", "malicious", "unsafe", "jailbreak"}
)
_FALSE = frozenset({"0", "0.0", "false", "no", "benign", "harmless", "safe", "legitimate", "clean"})
PLACES = ("user", "document", "auto")
_LONGEST_TOLD = 16
_NAME = re.compile(r"[\w.:/-]{1,40}")
_LONGEST_CELL = min(sys.maxsize, (1 << 31) - 1)


@dataclass(frozen=True, slots=True)
class Labelled:
    """One text: whether it is an attack, where the data has it from, and its place."""

    text: str
    attack: bool
    source: str
    place: str


def distinct(rows: Iterable[Labelled]) -> list[Labelled]:
    """The rows in order, each text of a label and place once, with the source that it had last."""
    return list({(row.text, row.attack, row.place): row for row in rows}.values())


def read_labelled(
    path: Path,
    *,
    text: str = "text",
    label: str = "label",
    source: str = "source",
    place: str = "place",
    default_place: str = "auto",
) -> list[Labelled]:
    """The rows of a `.parquet`, `.csv`, `.jsonl` or `.json` (a list) file, in its order.

    text, label    names of the columns that must be there; a label is 1 or 0, true or false, or a
                   word such as `attack` or `benign`
    source, place  names of columns that may be there; without, the source is the file's name and
                   the place `default_place`. One that is given another name must be there

    Raises InputError naming the row and the column, and MissingExtraError for parquet without the
    extra `parquet`.
    """
    readers = {
        ".parquet": _parquet,
        ".pq": _parquet,
        ".csv": _csv,
        ".tsv": _csv,
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path.name} is none of {', '.join(readers)}",
            hint="one row a text, with the columns text and label",
        )
    columns = (text, label, source, place)
    try:
        rows = reader(path, columns)
        found = [
            _row(path.name, at, row, columns, path.stem, default_place)
            for at, row in enumerate(rows, 1)
        ]
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} cannot be read: {error}", hint="save it as UTF-8") from None
    except (csv.Error, msgspec.DecodeError) as error:
        raise InputError(f"{path.name} cannot be read: {error}") from None
    except RecursionError:
        raise InputError(f"{path.name} cannot be read: it is nested too deeply") from None
    if not found:
        raise InputError(f"{path.name} has no rows")
    return found


def _row(
    file: str,
    at: int,
    row: Mapping[str, Any],
    columns: tuple[str, str, str, str],
    stem: str,
    default_place: str,
) -> Labelled:
    text_column, label_column, source_column, place_column = columns
    # One by another name than the usual was asked for, so it is missed.
    asked = [name for name in (source_column, place_column) if name not in ("source", "place")]
    for name in (text_column, label_column, *asked):
        if name not in row:
            there = ", ".join(map(_column, row)) or "nothing"
            raise InputError(f"{file}, row {at}: no column {name!r}; it has {there}")
    text = row[text_column]
    if not isinstance(text, str):
        kind = "missing" if text is None else f"of type {type(text).__name__}, not a text"
        raise InputError(f"{file}, row {at}: {text_column} is {kind}")
    place = row.get(place_column)
    if place is None or place == "":
        place = default_place
    if place not in PLACES:
        raise InputError(
            f"{file}, row {at}: {place_column} is {_told(place)}; it must be one of "
            f"{', '.join(PLACES)}"
        )
    source = row.get(source_column)
    attack = _label(row[label_column])
    if attack is None:
        raise InputError(
            f"{file}, row {at}: {label_column} is {_told(row[label_column])}; "
            "it must be 1 for an attack or 0"
        )
    return Labelled(text, attack, stem if source in (None, "") else str(source), place)


def _column(name: object) -> str:
    """A column's name; of what is not written like one, a prompt in its place, only the length."""
    text = str(name)
    return text if _NAME.fullmatch(text) else f"a name of {len(text)} characters"


def _told(value: Any) -> str:
    """A short value as it is; of a long one, which may be a prompt, only how long it is."""
    if value is None:
        return "missing"
    text = str(value)
    return repr(text) if len(text) <= _LONGEST_TOLD else f"a text of {len(text)} characters"


def _label(value: Any) -> bool | None:
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    return False if word in _FALSE else None


def _parquet(path: Path, columns: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingExtraError("parquet", "reading a parquet file") from None
    try:
        with parquet.ParquetFile(path) as file:
            there = file.schema_arrow.names
            _check_twice(path.name, there, columns)
            wanted = [name for name in columns if name in there]
            if not wanted:
                columns_there = ", ".join(map(_column, there)) or "none"
                raise InputError(f"{path.name} has the columns {columns_there}")
            for batch in file.iter_batches(batch_size=1024, columns=wanted):
                yield from batch.to_pylist()
    except ArrowException as error:
        raise InputError(
            f"{path.name} cannot be read: {str(error).splitlines()[0][:200]}"
        ) from None


def _csv(path: Path, columns: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        # Strict, and every cell counted: a comma in a text without quotes would otherwise cut it.
        reader = csv.DictReader(
            file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True
        )
        at = 0
        checked = False
        while True:
            # The limit of 131,072 characters a cell is the process's own, so it is put back.
            before = csv.field_size_limit(_LONGEST_CELL)
            try:
                row = next(reader, None)
            finally:
                csv.field_size_limit(before)
            if row is None:
                return
            at += 1
            if not checked:
                _check_twice(path.name, reader.fieldnames or (), columns)
                checked = True
            named = len(reader.fieldnames or ())
            if None in row:
                raise InputError(
                    f"{path.name}, row {at}: {named + len(row[None])} cells under {named} columns",
                    hint="put a text that holds the separator in double quotes",
                )
            yield row


def _check_twice(file: str, there: Sequence[str], columns: tuple[str, ...]) -> None:
    # Of two columns with one name the last would be taken, whatever was meant.
    for name in columns:
        if list(there).count(name) > 1:
            raise InputError(f"{file} has {list(there).count(name)} columns {name!r}")


def _json_lines(path: Path, columns: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    with path.open("rb") as file:
        for at, line in enumerate(file, 1):
            if at == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InputError(f"{path.name}, line {at}: {error}") from None
            except RecursionError:
                raise InputError(f"{path.name}, line {at}: it is nested too deeply") from None


def _json(path: Path, columns: tuple[str, ...]) -> Iterable[Mapping[str, Any]]:
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    return msgspec.json.decode(data, type=list[dict[str, Any]])
