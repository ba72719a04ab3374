"""Checks of the tensors inside a parsed model, and the place of each external one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from interlock.bundle.limits import BundleLimits
from interlock.kernel.errors import BundleFormatError

INT64_MAX = 2**63 - 1

# data type -> (NumPy's name, bits an element in raw_data, the field for unpacked data,
# entries of that field an element takes)
_TYPES: dict[int, tuple[str, int, str, float]] = {
    TensorProto.FLOAT: ("float32", 32, "float_data", 1),
    TensorProto.UINT8: ("uint8", 8, "int32_data", 1),
    TensorProto.INT8: ("int8", 8, "int32_data", 1),
    TensorProto.UINT16: ("uint16", 16, "int32_data", 1),
    TensorProto.INT16: ("int16", 16, "int32_data", 1),
    TensorProto.INT32: ("int32", 32, "int32_data", 1),
    TensorProto.INT64: ("int64", 64, "int64_data", 1),
    TensorProto.BOOL: ("bool", 8, "int32_data", 1),
    TensorProto.FLOAT16: ("float16", 16, "int32_data", 1),
    TensorProto.DOUBLE: ("float64", 64, "double_data", 1),
    TensorProto.UINT32: ("uint32", 32, "uint64_data", 1),
    TensorProto.UINT64: ("uint64", 64, "uint64_data", 1),
    TensorProto.COMPLEX64: ("complex64", 64, "float_data", 2),
    TensorProto.COMPLEX128: ("complex128", 128, "double_data", 2),
    TensorProto.BFLOAT16: ("bfloat16", 16, "int32_data", 1),
    TensorProto.FLOAT8E4M3FN: ("float8_e4m3fn", 8, "int32_data", 1),
    TensorProto.FLOAT8E4M3FNUZ: ("float8_e4m3fnuz", 8, "int32_data", 1),
    TensorProto.FLOAT8E5M2: ("float8_e5m2", 8, "int32_data", 1),
    TensorProto.FLOAT8E5M2FNUZ: ("float8_e5m2fnuz", 8, "int32_data", 1),
    TensorProto.UINT4: ("uint4", 4, "int32_data", 0.5),
    TensorProto.INT4: ("int4", 4, "int32_data", 0.5),
}
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def dtype_name(data_type: int) -> str | None:
    """NumPy's name of an ONNX element type, `string`, or None where it is not supported."""
    if data_type == TensorProto.STRING:
        return "string"
    known = _TYPES.get(data_type)
    return known[0] if known else None


@dataclass(frozen=True)
class External:
    """Where an initializer's bytes lie in the bundle's files."""

    tensor: onnx.TensorProto
    file: str
    offset: int
    length: int


def check_text(what: str, *texts: object) -> None:
    """Raise BundleFormatError for text that is not UTF-8: protobuf hands it out as bytes."""
    if not all(isinstance(text, str) for text in texts):
        raise BundleFormatError(f"{what} has a name that is not UTF-8")


def elements(what: str, dims: list[int], limit: int) -> int:
    """The product of `dims`; BundleFormatError where one is negative or the product too large."""
    if any(dim < 0 for dim in dims):
        raise BundleFormatError(f"{what} has a negative dimension: {dims[:16]}")
    if len(dims) > 64:
        raise BundleFormatError(f"{what} has rank {len(dims)}; the limit is 64")
    product = math.prod(dims)
    # A zero among the dims hides an overflow from the product.
    if product > INT64_MAX or math.prod(dim for dim in dims if dim) > INT64_MAX:
        raise BundleFormatError(f"{what}: the dimensions {dims[:16]} overflow")
    if product > limit:
        raise BundleFormatError(f"{what} has {product} elements; the limit is {limit}")
    return product


def check_tensor(what: str, tensor: onnx.TensorProto, limits: BundleLimits) -> int:
    """Check a tensor that must carry its data itself; returns the number of its elements."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise BundleFormatError(
            f"{what} has external data; only initializers of the main graph may have it"
        )
    count = _check_type(what, tensor, limits)
    _check_data(what, tensor, count)
    return count


def check_sparse(what: str, sparse: onnx.SparseTensorProto, limits: BundleLimits) -> None:
    """Check a sparse tensor, whose parts must carry their data themselves."""
    for part, tensor in (("values", sparse.values), ("indices", sparse.indices)):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise BundleFormatError(f"the {part} of {what}, which is sparse, are external data")
    dense = elements(what, list(sparse.dims), limits.max_elements)
    stored = check_tensor(f"the values of {what}", sparse.values, limits)
    check_tensor(f"the indices of {what}", sparse.indices, limits)
    if sparse.indices.data_type != TensorProto.INT64:
        raise BundleFormatError(f"the indices of {what} are not int64")
    if stored > dense:
        raise BundleFormatError(f"{what} stores {stored} values for {dense} elements")


def locate(
    what: str, tensor: onnx.TensorProto, files: Mapping[str, bytes], limits: BundleLimits
) -> External:
    """Where the external data of an initializer lies; BundleFormatError for any other place.

    ONNX Runtime reads a location's markers and paths itself, so every one that is not a plain
    name in the manifest is refused, and the bytes are put into the model before it runs.
    """
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        check_text(f"external data of {what}", entry.key, entry.value)
        if entry.key in entries:
            raise BundleFormatError(f"{what}: external data gives {entry.key[:40]!r} twice")
        entries[entry.key] = entry.value
    unknown = set(entries) - {"location", "offset", "length", "checksum"}
    if unknown:
        raise BundleFormatError(f"{what}: external data has the key {min(unknown)[:40]!r}")
    location = entries.get("location", "")
    shown = repr(location[:120])
    if location.startswith(("/", "\\")) or location[1:2] == ":":
        raise BundleFormatError(f"{what}: external data has the absolute path {shown}")
    if ".." in location.replace("\\", "/").split("/"):
        raise BundleFormatError(f"{what}: external data leaves the bundle by '..': {shown}")
    if location not in files:
        raise BundleFormatError(f"{what}: external data is in {shown}, not in the manifest")
    count = _check_type(what, tensor, limits)
    if tensor.data_type == TensorProto.STRING:
        raise BundleFormatError(f"{what}: strings cannot be external data")
    if any(len(getattr(tensor, field)) for field in (*_FIELDS, "raw_data")):
        raise BundleFormatError(f"{what} has both external data and its own")
    expected = (count * _TYPES[tensor.data_type][1] + 7) // 8
    size = len(files[location])
    offset = _number(what, "offset", entries.get("offset", "0"))
    length = _number(what, "length", entries.get("length", str(max(size - offset, 0))))
    if length != expected:
        raise BundleFormatError(
            f"{what}: external data has {length} bytes; its shape needs {expected}"
        )
    if offset + length > size:
        raise BundleFormatError(
            f"{what}: external data ends at byte {offset + length} of {shown}, which has {size}"
        )
    return External(tensor, location, offset, length)


def _number(what: str, key: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 19):
        raise BundleFormatError(f"{what}: external data has the {key} {text[:40]!r}")
    return int(text)


def _check_type(what: str, tensor: onnx.TensorProto, limits: BundleLimits) -> int:
    if tensor.data_type != TensorProto.STRING and tensor.data_type not in _TYPES:
        raise BundleFormatError(f"{what} has the unsupported element type {tensor.data_type}")
    if tensor.HasField("segment"):
        raise BundleFormatError(f"{what} is stored in segments")
    return elements(what, list(tensor.dims), limits.max_elements)


def _check_data(what: str, tensor: onnx.TensorProto, count: int) -> None:
    """The data must be in one field, and as long as the shape says."""
    used = [field for field in _FIELDS if len(getattr(tensor, field))]
    if tensor.HasField("raw_data"):
        used.append("raw_data")
    if len(used) > 1:
        raise BundleFormatError(f"{what} has data in several fields: {', '.join(used)}")
    if tensor.data_type == TensorProto.STRING:
        field, needed = "string_data", count
    elif used == ["raw_data"]:
        field, needed = "raw_data", (count * _TYPES[tensor.data_type][1] + 7) // 8
    else:
        _, _, field, entries = _TYPES[tensor.data_type]
        needed = math.ceil(count * entries)
    if used and used != [field]:
        raise BundleFormatError(f"{what} has its data in {used[0]}, not in {field}")
    have = len(getattr(tensor, field))
    if have != needed:
        unit = "bytes" if field == "raw_data" else "entries"
        raise BundleFormatError(f"{what} has {have} {unit} of data; its shape needs {needed}")
