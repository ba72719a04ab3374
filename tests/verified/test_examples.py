"""Held-out examples, and inputs on which bits are compared."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.networks import MODELS

from interlock.errors import InputError
from interlock.verified import ModelDirectory, slice_model
from interlock.verified.examples import read_archive, sample_inputs


def saved(save: Any, *arrays: Any, **named: Any) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


@pytest.mark.parametrize(("name", "classes"), [("net", 10), ("doom", 7)])
def test_the_shipped_ones_are_labelled(name: str, classes: int) -> None:
    rows, labels = read_archive(MODELS / name / "examples.npz")
    assert len(rows) == 200
    assert labels is not None
    assert set(labels) <= set(range(classes))
    assert all(row.dtype == np.float32 and row.shape[0] == 1 for row in rows)
    assert min(row.min() for row in rows) >= 0
    assert max(row.max() for row in rows) <= 1


def test_samples_are_random_inputs_and_the_examples(net: Path) -> None:
    directory = ModelDirectory.find(net)
    sliced = slice_model(directory.read_model())
    assert len(sample_inputs(directory, sliced)) == 216
    (net / "examples.npz").unlink()
    assert len(sample_inputs(directory, sliced)) == 16


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "examples.npz", input=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"examples\.npz cannot be read"):
        read_archive(tmp_path / "examples.npz")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "cannot be read"),
        (saved(np.save, np.zeros((2, 3))), "it is no .npz file"),
        (saved(np.savez, label=np.zeros(2, np.int64)), "has no 'input'; it has 'label'"),
        (saved(np.savez, input=np.float32(1)), r"input has shape \(\)"),
        (saved(np.savez, input=np.zeros((0, 3)), label=np.zeros(0, np.int64)), "at least one row"),
        (
            saved(np.savez, input=np.zeros((2, 3)), label=np.zeros(3, np.int64)),
            r"label has shape \(3,\)",
        ),
    ],
)
def test_a_broken_archive_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "examples.npz").write_bytes(content)
    with pytest.raises(InputError, match=rf"examples\.npz.*{named}"):
        read_archive(tmp_path / "examples.npz")
