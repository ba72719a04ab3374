"""A model's held-out examples, `examples.npz`, and inputs to compare bits on."""

from __future__ import annotations

from pathlib import Path

from interlock.kernel.batch import Array
from interlock.kernel.errors import InputError
from interlock.kernel.npz import read_npz
from interlock.verified.directory import ModelDirectory
from interlock.verified.equality import random_inputs
from interlock.verified.inputs import read_inputs
from interlock.verified.runner import Runner
from interlock.verified.slices import SlicedModel


def read_examples(runner: Runner) -> tuple[list[Array], list[int] | None]:
    """The inputs of `examples.npz`, each with its batch axis, and their labels.

    Without the file, the example of `input.json`, and None. Raises InputError for a broken file.
    """
    path = runner.directory.path / "examples.npz"
    if path.is_file():
        return read_archive(path)
    return list(read_inputs(runner.directory.example, runner.inputs).values())[:1], None


def read_archive(path: Path) -> tuple[list[Array], list[int] | None]:
    """The rows of `input` in a .npz file, each with a batch axis, and of `label` where it is there.

    Raises InputError, naming the file, for a broken one, for one without rows, and where there is
    not one label a row.
    """
    found = read_npz(path, ["input"], optional=["label"])
    rows, labels = found["input"], found.get("label")
    if rows.ndim == 0 or len(rows) == 0:
        raise InputError(f"{path}: input has shape {rows.shape}; it needs at least one row")
    if labels is not None and labels.shape != rows.shape[:1]:
        raise InputError(f"{path}: label has shape {labels.shape}; it must be ({len(rows)},)")
    return [row[None] for row in rows], None if labels is None else labels.tolist()


def sample_inputs(directory: ModelDirectory, sliced: SlicedModel) -> list[dict[str, Array]]:
    """Random inputs, and the held-out examples where there are any."""
    drawn = list(random_inputs(sliced))
    archive = directory.path / "examples.npz"
    if len(sliced.inputs) != 1 or not archive.is_file():
        return drawn
    return drawn + [{sliced.inputs[0].name: row} for row in read_archive(archive)[0]]
