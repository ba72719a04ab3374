"""Inputs: what is taken, and what is refused by name before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interlock.engines.onnx import TensorSpec
from interlock.errors import InputError
from interlock.verified.inputs import read_inputs

IMAGE = TensorSpec("image", "float32", (1, 2, 3))
COUNT = TensorSpec("count", "int64", (1, 2))
GOOD = np.arange(6, dtype=np.float32).reshape(1, 2, 3)


@pytest.mark.parametrize(
    "given",
    [
        GOOD,
        GOOD[0],
        GOOD.tolist(),
        GOOD[0].tolist(),
        GOOD.ravel().tolist(),
        {"image": GOOD},
        GOOD.transpose(2, 1, 0).copy().transpose(2, 1, 0),
    ],
    ids=["array", "no batch axis", "lists", "lists of one", "flat list", "by name", "strided"],
)
def test_an_input_is_taken_in_several_forms(given: Any) -> None:
    found = read_inputs(given, [IMAGE])["image"]
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.array_equal(found, GOOD)


def test_a_file_holds_one_list_an_input(tmp_path: Path) -> None:
    path = tmp_path / "input.json"
    path.write_text(json.dumps({"input_data": [GOOD.ravel().tolist(), [3, 4]]}))
    found = read_inputs(path, [IMAGE, COUNT])
    assert np.array_equal(found["image"], GOOD)
    assert found["count"].tolist() == [[3, 4]]
    assert found["count"].dtype == np.int64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (GOOD.astype(np.float64), "input 'image' has dtype float64; the model takes float32"),
        (
            GOOD.reshape(1, 3, 2),
            r"input 'image' has shape \(1, 3, 2\); the model takes \(1, 2, 3\)",
        ),
        (GOOD.ravel(), r"input 'image' has shape \(6,\)"),
        ([1.0, 2.0], r"input 'image' has shape \(2,\)"),
        ([[1.0], [2.0, 3.0]], "input 'image' has rows of unequal length"),
        (["a", "b"], "input 'image' holds something else than numbers"),
        ({"picture": GOOD}, "input 'picture' is unknown"),
        ({}, "input 'image' is missing"),
        (np.ma.masked_array(GOOD), "input 'image' is a masked array"),
        ([1e300] * 6, "input 'image' is inf"),
        (None, "input 'image' holds something else than numbers"),
    ],
)
def test_a_wrong_input_is_named(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_inputs(given, [IMAGE])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_place(value: float) -> None:
    bad = GOOD.copy()
    bad[0, 1, 2] = value
    with pytest.raises(InputError, match=rf"input 'image' is {value} at \(0, 1, 2\)"):
        read_inputs(bad, [IMAGE])
    with pytest.raises(InputError, match="must be finite"):
        read_inputs(bad.tolist(), [IMAGE])


def test_integers_are_not_rounded() -> None:
    with pytest.raises(InputError, match="numbers that int64 cannot"):
        read_inputs([1.5, 2.0], [COUNT])


def test_several_inputs_need_their_names() -> None:
    with pytest.raises(
        InputError, match="the model takes 2 inputs; give a mapping of image, count"
    ):
        read_inputs(GOOD, [IMAGE, COUNT])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1, 2]", "input_data must be a list of 1 lists"),
        ('{"input_data": [[1], [2]]}', "input_data must be a list of 1 lists"),
        ('{"input_data": [[1, 2, 3, 4, 5, NaN]]}', "input 'image' is nan"),
        ('{"data": 1}', "input_data must be"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "input.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_inputs(path, [IMAGE])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_inputs(tmp_path / "nothing.json", [IMAGE])
