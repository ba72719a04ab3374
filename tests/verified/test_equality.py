"""Whether slices give the whole model's bits, and which level is chosen where they do not."""

from __future__ import annotations

import numpy as np
from support.networks import examples, logarithm, scaled_convolution, shipped

from interlock.verified import slice_model
from interlock.verified.equality import fastest_equal, random_inputs, same_bits


def test_a_cut_through_a_rewrite_is_noticed_and_the_level_lowered() -> None:
    sliced = slice_model(scaled_convolution(), at=["c"])
    equal, total = same_bits(sliced, random_inputs(sliced, 8), "all")
    assert equal < total
    assert fastest_equal(sliced) == ("none", 16)
    assert same_bits(sliced, random_inputs(sliced, 8), "none") == (8, 8)


def test_a_cut_beside_it_keeps_the_fast_level() -> None:
    assert fastest_equal(slice_model(scaled_convolution(), at=["flat"])) == ("all", 16)


def test_the_shipped_models_agree_on_their_examples() -> None:
    inputs = [{"input": row} for row in examples("net", 20)]
    assert fastest_equal(slice_model(shipped("net")), inputs) == ("all", 20)


def test_an_input_that_fails_counts_as_unequal() -> None:
    sliced = slice_model(logarithm(), at=["h", "log"])
    bad = {"x": np.array([[1, -1]], np.float32)}
    good = {"x": np.array([[1, 2]], np.float32)}
    assert same_bits(sliced, [bad, good]) == (1, 2)


def test_random_inputs_are_the_same_each_time() -> None:
    sliced = slice_model(shipped("net"))
    one, other = list(random_inputs(sliced, 2)), list(random_inputs(sliced, 2))
    assert all(np.array_equal(a["input"], b["input"]) for a, b in zip(one, other, strict=True))
    assert not np.array_equal(one[0]["input"], one[1]["input"])
