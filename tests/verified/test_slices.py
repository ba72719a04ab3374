"""Slices and sliced models: digests of what runs, and what lasts across a cut."""

from __future__ import annotations

import hashlib

from support.networks import residual, shipped

from interlock.engines.onnx import TensorSpec
from interlock.verified import slice_model
from interlock.verified.slices import sizes


def test_digests_are_of_the_bytes_that_run() -> None:
    sliced = slice_model(shipped("net"))
    assert sliced.sha256 == hashlib.sha256(shipped("net")).hexdigest()
    for part in sliced.slices:
        assert part.sha256 == hashlib.sha256(part.model).hexdigest()


def test_a_record_of_a_slice_does_not_show_its_bytes() -> None:
    part = slice_model(shipped("net")).slices[2]
    assert len(repr(part)) < 600


def test_what_lasts_is_what_somebody_still_takes() -> None:
    sliced = slice_model(residual(), crossing=2)
    assert [sorted(sliced.lasting(k)) for k in range(6)] == [
        ["x"],
        ["r1"],
        ["r1", "r2"],
        ["r3"],
        ["flat"],
        ["y"],
    ]


def test_sizes_of_a_tensor() -> None:
    assert sizes(TensorSpec("x", "float32", (1, 2, 3))) == (1, 2, 3)
    assert sizes(TensorSpec("x", "float32", ())) == ()
