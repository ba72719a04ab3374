"""Pickles are recognised by what they are, and ordinary files are let through."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import plain_model
from support.counts import count
from support.hostile import Payload

from interlock.bundle.pickles import is_pickle, refuse_pickle
from interlock.errors import BundleFormatError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
)

OBJECTS: list[Any] = [
    Payload(),
    {"weights": np.arange(1000.0)},
    [1, 2.5, "three", None, (b"four",)],
    "a" * 100_000,
    b"b" * 100_000,
    list(range(5000)),
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
def test_every_protocol_is_recognised(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert is_pickle(data)
    if protocol >= 2:
        assert is_pickle(data + b"trailing bytes")
    with pytest.raises(BundleFormatError, match="is a pickle"):
        refuse_pickle("weights.bin", data)


def _lzma_alone(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE)


@pytest.mark.parametrize(
    "compress", [zlib.compress, gzip.compress, bz2.compress, lzma.compress, _lzma_alone]
)
def test_compressed_pickles_are_refused(compress: Callable[[bytes], bytes]) -> None:
    with pytest.raises(BundleFormatError, match=r"compressed|xz stream"):
        refuse_pickle("weights.bin", compress(pickle.dumps(Payload())))


def test_tar_archives_are_refused() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    with pytest.raises(BundleFormatError, match="tar archive"):
        refuse_pickle("weights.bin", buffer.getvalue())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"N",
        b"# A heading\n\nSome text. And more.\n",
        b"Note that I1 is the current.\n.",
        b'{"json": [1, 2, 3]}',
        b"0.5,0.25\n0.125,1\n",
        b"{% for message in messages %}",
        b"\x80",
        plain_model().SerializeToString(),
        np.zeros(1000, np.float32).tobytes(),
        np.arange(10_000, dtype=np.float32).tobytes(),
    ],
)
def test_ordinary_files_pass(data: bytes) -> None:
    refuse_pickle("file", data)


def test_random_weights_that_begin_with_the_mark_pass_almost_always() -> None:
    rng = np.random.default_rng(11)
    total = count(2000, 50_000)
    weights = (rng.normal(size=200).astype(np.float32).tobytes() for _ in range(total))
    assert sum(is_pickle(b"\x80\x04" + data[2:]) for data in weights) < total / 200


def test_a_pickle_that_breaks_off_after_its_call_is_recognised() -> None:
    for protocol in range(6):
        assert is_pickle(pickle.dumps(Payload(), protocol)[:-1] + b"\xff\xff")


@settings(max_examples=count(30, 1000), deadline=None)
@given(VALUES, st.integers(0, 5))
def test_whatever_is_pickled_is_recognised(value: Any, protocol: int) -> None:
    assert is_pickle(pickle.dumps(value, protocol))


@pytest.mark.parametrize("byte", range(256))
def test_constant_weights_are_no_pickle(byte: int) -> None:
    """Many a byte is an opcode without an argument, such as ')', the empty tuple."""
    assert not is_pickle(bytes([byte]) * 300_000)


@pytest.mark.parametrize("padding", [b")", b"N", b"K", b"0", b"J"])
@pytest.mark.parametrize("length", [5_000, 20_000, 50_000])  # whole opcodes of 1, 2 and 5 bytes
def test_a_pickle_behind_a_run_of_one_byte_is_one(padding: bytes, length: int) -> None:
    assert is_pickle(padding * length + b"cos\nsystem\n(S'true'\ntR.")
