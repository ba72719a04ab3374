"""Frames: what is encoded comes back equal, and no bytes whatever can do harm."""

from __future__ import annotations

import contextlib
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.counts import count

from interlock.kernel import frames
from interlock.kernel.errors import InputError

LIMIT = 1 << 20

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
)
arrays = hnp.arrays(
    st.sampled_from(["?", "i1", "<u8", ">i2", "<f2", "<f4", ">f8", "<c8", "<c16"]),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
)
values = st.recursive(
    scalars | arrays,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


class Bytes:
    """A peer that has sent `data` and hung up."""

    def __init__(self, data: bytes) -> None:
        self.rest = memoryview(data)

    def fill(self, view: memoryview) -> None:
        if len(self.rest) < len(view):
            raise EOFError
        view[:] = self.rest[: len(view)]
        self.rest = self.rest[len(view) :]


def same(got: Any, sent: Any) -> bool:
    """Equal in type and to the bit."""
    if isinstance(sent, np.ndarray):
        return (
            isinstance(got, np.ndarray)
            and got.dtype == sent.dtype
            and got.shape == sent.shape
            and got.tobytes() == sent.tobytes()
        )
    if isinstance(sent, list):
        return len(got) == len(sent) and all(map(same, got, sent))
    if isinstance(sent, dict):
        return got.keys() == sent.keys() and all(same(got[k], sent[k]) for k in sent)
    if isinstance(sent, float) and math.isnan(sent):
        return isinstance(got, float) and math.isnan(got)
    return type(got) is type(sent) and bool(got == sent)


@settings(max_examples=count(100, 2000), deadline=None)
@given(values, st.integers(0, 2**64 - 1))
def test_a_value_comes_back_as_it_was(value: Any, call: int) -> None:
    peer = Bytes(b"".join(frames.encode(value, call)))
    got_call, got = frames.read(peer.fill, limit=LIMIT)
    assert got_call == call
    assert same(got, value)
    assert len(peer.rest) == 0


@settings(max_examples=count(100, 2000), deadline=None)
@given(values, st.randoms(use_true_random=False))
def test_a_frame_with_changed_bytes_is_a_value_or_a_frame_error(
    value: Any, rng: random.Random
) -> None:
    frame = bytearray(b"".join(frames.encode(value, 1)))
    for _ in range(rng.randint(1, 8)):
        frame[rng.randrange(len(frame))] = rng.randrange(256)
    with contextlib.suppress(frames.FrameError, EOFError):
        frames.read(Bytes(bytes(frame)).fill, limit=LIMIT)


@settings(max_examples=count(100, 2000), deadline=None)
@given(st.binary(max_size=200))
def test_any_body_is_a_value_or_a_frame_error(body: bytes) -> None:
    data = frames.PREFIX.pack(frames.MAGIC, len(body), 1, 0) + body
    with contextlib.suppress(frames.FrameError):
        frames.read(Bytes(data).fill, limit=LIMIT)


def test_what_the_writer_calls_fitting_the_reader_takes() -> None:
    for size in (LIMIT - 200, LIMIT + 1):
        for value in (bytes(size), np.zeros(size, np.uint8), "x" * size):
            frame = frames.encode(value, 1)
            data = b"".join(frame)
            if frames.fits(frame, LIMIT):
                assert size < LIMIT
                assert same(frames.read(Bytes(data).fill, limit=LIMIT)[1], value)
            else:
                assert size > LIMIT
                with pytest.raises(frames.FrameError, match="limit"):
                    frames.read(Bytes(data).fill, limit=LIMIT)


def test_many_buffers_are_refused_by_writer_and_reader_alike() -> None:
    frame = frames.encode([np.zeros(0)] * (frames.BUFFER_COUNT_LIMIT + 1), 1)
    assert not frames.fits(frame, LIMIT * 100)
    with pytest.raises(frames.FrameError, match="buffers"):
        frames.read(Bytes(b"".join(frame)).fill, limit=LIMIT * 100)


def test_a_long_body_is_refused_before_it_is_received() -> None:
    prefix = frames.PREFIX.pack(frames.MAGIC, frames.BODY_LIMIT + 1, 1, 0)
    with pytest.raises(frames.FrameError, match="limit"):
        frames.read(Bytes(prefix).fill, limit=1 << 40)


def test_text_arrays_arrive_as_objects() -> None:
    sent = np.array([["a", "ü"], ["", "😀"]])
    for array in (sent, sent.astype(object)):
        got = frames.read(Bytes(b"".join(frames.encode(array, 1))).fill)[1]
        assert got.dtype == object
        assert got.tolist() == array.tolist()


@pytest.mark.parametrize(
    "value",
    [object(), {"a": object()}, 2**64, np.array([1, None]), np.array([b"x"]), np.zeros(1, "M8[s]")],
    ids=["object", "nested", "integer", "objects", "byte strings", "dates"],
)
def test_what_cannot_cross_is_an_input_error(value: Any) -> None:
    with pytest.raises(InputError):
        frames.encode(value, 1)


def test_a_value_that_holds_itself_is_an_input_error() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InputError):
        frames.encode({"a": value}, 1)
    circle: dict[str, Any] = {}
    circle["a"] = circle
    with pytest.raises(InputError):
        frames.encode(circle, 1)
