"""Tensors on the wire: what goes out comes back to the bit, and junk is refused by name."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.counts import count

from interlock.errors import InputError
from interlock.serve.oip_request import read_request
from interlock.serve.tensors import DATATYPES, from_binary, from_json, to_binary, to_json

NUMERIC = [dtype for dtype in DATATYPES if dtype != "string"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    dtype = draw(st.sampled_from(NUMERIC))
    return draw(hnp.arrays(dtype, draw(SHAPES)))


@settings(max_examples=count(200, 5000), deadline=None)
@given(arrays())
def test_binary_keeps_every_bit(array: Any) -> None:
    data = memoryview(to_binary(array))
    back = from_binary("x", DATATYPES[array.dtype.name], list(array.shape), data)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@settings(max_examples=count(200, 5000), deadline=None)
@given(arrays())
def test_json_keeps_every_finite_value(array: Any) -> None:
    if array.dtype.kind == "f":
        array = np.where(np.isfinite(array), array, 0).astype(array.dtype)
    data = json.loads(json.dumps(to_json(array)))
    back = from_json("x", DATATYPES[array.dtype.name], list(array.shape), data)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


@settings(max_examples=count(100, 2000), deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
def test_text_comes_back(texts: list[str]) -> None:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    binary = from_binary("t", "BYTES", [len(texts)], memoryview(to_binary(array)))
    assert binary.tolist() == texts
    assert from_json("t", "BYTES", [len(texts)], to_json(array)).tolist() == texts


def binary_body(head: Any, *buffers: bytes) -> tuple[bytes, str]:
    """A request's body with binary tensors, and the header that goes with it."""
    text = json.dumps(head).encode()
    return text + b"".join(buffers), str(len(text))


def tensor(name: str, array: Any, **changes: Any) -> dict[str, Any]:
    fields = {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name]}
    return fields | {"parameters": {"binary_data_size": array.nbytes}} | changes


def test_binary_tensors_lie_behind_one_another() -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(2, dtype=np.int64)
    body, length = binary_body(
        {"inputs": [tensor("a", a), tensor("b", b)], "outputs": [{"name": "y"}],
         "parameters": {"binary_data_output": True, "timeout": 1500}},
        a.tobytes(),
        b.tobytes(),
    )  # fmt: skip
    found = read_request(body, length)
    assert np.array_equal(found.inputs["a"], a)
    assert np.array_equal(found.inputs["b"], b)
    assert found.outputs == {"y": True}
    assert found.seconds == pytest.approx(0.0015)


@pytest.mark.parametrize(
    ("changes", "extra", "length", "told"),
    [
        ({}, b"\0", None, "belong to no input"),
        ({"parameters": {"binary_data_size": 25}}, b"", None, "does not fit the body"),
        ({"parameters": {"binary_data_size": -1}}, b"", None, "does not fit the body"),
        ({"parameters": {"binary_data_size": True}}, b"", None, "does not fit the body"),
        ({"parameters": {"binary_data_size": 20}}, b"", None, "need 24"),
        ({"shape": [2, 4]}, b"", None, "need 32"),
        ({"shape": [1 << 30, 1 << 30]}, b"", None, "too many elements"),
        ({"data": [1]}, b"", None, "both data and binary_data_size"),
        ({"datatype": "BYTES"}, b"", None, "ends within"),
        ({}, b"", "-1", "Inference-Header-Content-Length"),
        ({}, b"", "999999", "Inference-Header-Content-Length"),
        ({}, b"", "1e3", "Inference-Header-Content-Length"),
        ({}, b"", "7", "not JSON"),
    ],
)
def test_a_binary_request_that_does_not_add_up_is_refused(
    changes: dict[str, Any], extra: bytes, length: str | None, told: str
) -> None:
    a = np.ones((2, 3), dtype=np.float32)
    body, own = binary_body({"inputs": [tensor("a", a, **changes)]}, a.tobytes(), extra)
    with pytest.raises(InputError, match=told):
        read_request(body, own if length is None else length)


def test_a_truth_value_is_0_or_1() -> None:
    with pytest.raises(InputError, match="neither 0 nor 1"):
        from_binary("x", "BOOL", [2], memoryview(b"\1\2"))


def test_a_text_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(InputError, match="not UTF-8"):
        from_binary("x", "BYTES", [1], memoryview(struct.pack("<I", 1) + b"\xff"))


@settings(max_examples=count(300, 20_000), deadline=None)
@given(st.data())
def test_a_request_with_any_byte_changed_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever arrives, it is a request or an InputError; nothing else is raised."""
    a = np.ones((2, 2), dtype=np.float32)
    body, length = binary_body({"inputs": [tensor("a", a)], "id": "i"}, a.tobytes())
    spoiled = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        spoiled[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    header = data.draw(st.sampled_from([length, str(cut), None, "", "\u0661"]))
    try:
        found = read_request(bytes(spoiled[: data.draw(st.sampled_from([cut, len(body)]))]), header)
    except InputError:
        return
    assert all(array.dtype.kind in "biufO" for array in found.inputs.values())


@settings(max_examples=count(200, 10_000), deadline=None)
@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=8)))
def test_junk_is_refused(body: bytes, header: str | None) -> None:
    with pytest.raises(InputError):
        read_request(body, header)


def test_a_long_text_among_numbers_is_refused_before_it_is_spread_over_all_of_them() -> None:
    """Numpy would take 40 GB for these 200 kB: every element as long as the longest."""
    data: list[Any] = ["x" * 100_000, *[0] * 100_000]
    for nested in (data, [data]):
        with pytest.raises(InputError, match="something else than FP32"):
            from_json("x", "FP32", [len(data)], nested)


@pytest.mark.parametrize(
    "shape", [[0, 1 << 62, 1 << 62], [0, 1 << 63], [0, 10**30], [300_000_000, 0], [1 << 21, 0]]
)
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_a_shape_without_elements_has_limits_too(shape: list[int], datatype: str) -> None:
    """Rows that no byte of a body stands for would cost the server memory all the same."""
    with pytest.raises(InputError, match="too many elements"):
        from_json("x", datatype, shape, [])
    with pytest.raises(InputError, match="too many elements"):
        from_binary("x", datatype, shape, memoryview(b""))


def test_a_small_shape_without_elements_is_read() -> None:
    assert from_json("x", "FP32", [2, 0, 64], []).shape == (2, 0, 64)
    assert from_binary("x", "FP32", [1000, 0], memoryview(b"")).shape == (1000, 0)


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_a_float_may_be_written_as_an_integer_of_any_length(datatype: str) -> None:
    """As JavaScript writes all floats up to 1e21."""
    text = "[100000000000000000000, -100000000000000000000, 0.5, 7, 36893488147419103232]"
    found = from_json("x", datatype, [5], json.loads(text))
    assert found.tolist() == np.array([1e20, -1e20, 0.5, 7, 2.0**65], found.dtype).tolist()


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_an_integer_that_no_float_can_hold_is_refused(datatype: str) -> None:
    with pytest.raises(InputError, match=f"out of the range of {datatype}"):
        from_json("x", datatype, [2], [10**400, 1])


@pytest.mark.parametrize("datatype", ["INT64", "UINT64"])
def test_an_integer_beyond_64_bits_is_out_of_range(datatype: str) -> None:
    with pytest.raises(InputError, match=f"out of the range of {datatype}"):
        from_json("x", datatype, [2], [1 << 64, 1])


@pytest.mark.parametrize("datatype", ["FP32", "INT8", "UINT64", "BOOL"])
@pytest.mark.parametrize("data", [[True, 2], [2, False], [True, 0.5]])
def test_truth_values_among_numbers_are_no_numbers(datatype: str, data: list[Any]) -> None:
    with pytest.raises(InputError, match=f"something else than {datatype}"):
        from_json("x", datatype, [2], data)


def test_lists_of_any_depth_that_an_array_has_are_read() -> None:
    nested: Any = 1.5
    for _ in range(16):
        nested = [nested]
    assert from_json("x", "FP32", [1] * 16, nested).tolist() == np.array(nested).tolist()
    with pytest.raises(InputError, match="something else"):
        from_json("x", "FP32", [1] * 16, [nested])
    with pytest.raises(InputError, match="unequal length"):
        from_json("x", "FP32", [2], [1, ["x"]])
