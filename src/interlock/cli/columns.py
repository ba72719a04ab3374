"""Named columns of numbers from a file that the user names: .npz or .csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.errors import InputError
from interlock.kernel.npz import read_npz

_WORDS = {"": "nan", "true": "1", "false": "0"}


def read_columns(path: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """The arrays of a .npz file, or the columns of a .csv file with a header, called `names`.

    A column of a .csv file is float64; true and false are 1 and 0, an empty cell is NaN. A row with
    another number of cells than the header is refused: a decimal comma makes two of one. Raises
    InputError that names the file and what is wrong with it.
    """
    readers = {".npz": _read_npz, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path.name} is neither .npz nor .csv",
            hint="numpy.savez('rows.npz', q_abs=…, loss=…) makes one",
        )
    try:
        return reader(path, names)
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror or error}") from None
    except (ValueError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path.name} cannot be read: {error}") from None


def _read_npz(path: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    found = read_npz(path, names)
    return [found[name] for name in names]


def _read_csv(path: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        _check_names(path, names, header)
        places = [header.index(name) for name in names]
        columns: list[list[float]] = [[] for _ in names]
        for row in filter(None, rows):
            if len(row) != len(header):
                raise InputError(
                    f"{path.name}, line {rows.line_num}: {len(row)} cells; "
                    f"the header has {len(header)}"
                )
            for name, place, column in zip(names, places, columns, strict=True):
                text = row[place].strip()
                try:
                    column.append(float(_WORDS.get(text.lower(), text)))
                except ValueError:
                    raise InputError(
                        f"{path.name}, line {rows.line_num}: {name} is {text[:40]!r}; "
                        "it must be a number"
                    ) from None
    return [np.array(column) for column in columns]


def _check_names(path: Path, names: Sequence[str], found: list[str]) -> None:
    for name in names:
        if name not in found:
            there = ", ".join(map(repr, found)) or "nothing"
            raise InputError(f"{path.name} has no {name!r}; it has {there}")
        if found.count(name) > 1:
            raise InputError(f"{path.name} has {name!r} more than once")
