"""Held-out examples, and inputs on which bits are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.networks import MODELS

from interlock.errors import InputError
from interlock.verified import ModelDirectory, slice_model
from interlock.verified.examples import read_archive, sample_inputs


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
    ("arrays", "told"),
    [
        ({"rows": np.ones((2, 3))}, "has no 'input'; it has 'rows'"),
        ({"input": np.float32(1)}, "input is a single number"),
        (
            {"input": np.ones((2, 3)), "label": np.ones(3)},
            r"label has shape \(3,\); it must be \(2,\)",
        ),
        ({"input": np.ones((2, 3)), "label": np.eye(2)}, r"label has shape \(2, 2\)"),
    ],
)
def test_arrays_that_do_not_fit_are_told(tmp_path: Path, arrays: Any, told: str) -> None:
    np.savez(tmp_path / "examples.npz", **arrays)
    with pytest.raises(InputError, match=told):
        read_archive(tmp_path / "examples.npz")


def test_a_single_array_under_the_wrong_name_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones((2, 3)))
    path = (tmp_path / "rows.npy").rename(tmp_path / "examples.npz")
    with pytest.raises(InputError, match=r"examples\.npz cannot be read: it is no"):
        read_archive(path)
