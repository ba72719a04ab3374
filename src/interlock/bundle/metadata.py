"""`metadata.json`: what a bundle's model takes and gives, and how a strict decode decides.

Dtypes are NumPy's names (`float32`, `int64`, `bool`, …), besides `bfloat16` and `string`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from interlock.bundle.manifest import METADATA
from interlock.bundle.strict_json import decode_json
from interlock.kernel.errors import InputError
from interlock.kernel.outcome import from_plain, to_plain

SCHEMA_VERSION = 1
MAX_RANK = 16
MAX_DIM = 2**62

DTYPES = frozenset(
    [
        "float16",
        "float32",
        "float64",
        "bfloat16",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
        "complex64",
        "complex128",
        "string",
    ]
)

Array = npt.NDArray[Any]
OUTPUT_ORDER = ("decoded", "bottom_mask", "gap_mask")

MASK_MEANING = {
    "decoded": "P/Q where accepted, NaN where bottom",
    "bottom_mask": "true: refuse. |Q| < tau_infer, Q = 0, or P, Q or the quotient is not finite",
    "gap_mask": "true: finite and near the limit, tau_infer <= |Q| < tau_train and not bottom",
}


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input or output of the graph. A string in `shape` is a symbolic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 1024:
            raise InputError(f"a tensor's name has {len(self.name)} characters; 1 to 1024 fit")
        if self.dtype not in DTYPES:
            raise InputError(f"tensor {self.name!r}: the dtype {self.dtype[:40]!r} is unknown")
        if len(self.shape) > MAX_RANK:
            raise InputError(f"tensor {self.name!r}: rank {len(self.shape)} is above {MAX_RANK}")
        for dim in self.shape:
            if isinstance(dim, str) and not 0 < len(dim) <= 256:
                raise InputError(f"tensor {self.name!r}: a symbolic dimension has no usable name")
            if isinstance(dim, int) and not 0 <= dim <= MAX_DIM:
                raise InputError(f"tensor {self.name!r}: the dimension {dim} is out of range")


class StrictContract(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the graph decodes P/Q.

    p, q          names of the tensors P and Q in the graph
    dtype         dtype of P, Q and `decoded`: float16, float32 or float64
    tau_infer     |Q| below it is bottom; compared after rounding to `dtype`
    tau_train     |Q| from tau_infer to below it is the gap; None: no gap
    output_order  the graph's first three outputs
    meaning       what each output says, in words
    """

    p: str
    q: str
    dtype: Literal["float16", "float32", "float64"]
    tau_infer: float
    tau_train: float | None = None
    output_order: tuple[str, str, str] = OUTPUT_ORDER
    meaning: dict[str, str] = msgspec.field(default_factory=lambda: dict(MASK_MEANING))

    def __post_init__(self) -> None:
        if not self.p or not self.q:
            raise InputError("strict: p and q must name tensors of the graph")
        if tuple(self.output_order) != OUTPUT_ORDER:
            raise InputError(f"strict: output_order must be {', '.join(OUTPUT_ORDER)}")
        if set(self.meaning) != set(OUTPUT_ORDER):
            raise InputError(f"strict: meaning must describe {', '.join(OUTPUT_ORDER)}")
        largest = float(np.finfo(self.dtype).max)
        if not 0 < self.tau_infer <= largest or np.dtype(self.dtype).type(self.tau_infer) == 0:
            raise InputError(
                f"strict: tau_infer is {self.tau_infer}; it must be above 0 and finite in "
                f"{self.dtype}"
            )
        if self.tau_train is not None and not self.tau_infer <= self.tau_train <= largest:
            raise InputError(
                f"strict: tau_train is {self.tau_train}; it must be finite and not below "
                f"tau_infer, {self.tau_infer}"
            )


class SmokeVector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs with the outputs that the model gave for them when it was packed.

    A float output may differ by `atol + rtol * |expected|`; NaN, infinities, integers and masks
    must be equal.
    """

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    rtol: float = 1e-5
    atol: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 <= self.rtol <= 0.1:
            raise InputError(f"smoke: rtol is {self.rtol}; it must be within 0 and 0.1")
        if not (self.atol >= 0 and math.isfinite(self.atol)):
            raise InputError(f"smoke: atol is {self.atol}; it must be 0 or more, finite")


class Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `metadata.json`.

    name         what the model is called, 1 to 200 characters
    kind         `strict` where the graph ends in a strict decode, else `model`
    inputs       the graph's inputs in order; initializers are not among them
    outputs      the graph's outputs in order
    batch_axis   the axis that counts the items of a batch, in inputs and outputs; 0 for `strict`
    strict       the decode's contract; given exactly for kind `strict`
    smoke        vectors that the probe must reproduce
    provenance   where the model comes from: plain JSON
    extensions   what others keep with the bundle, such as a calibration certificate: plain JSON
    """

    name: str
    kind: Literal["strict", "model"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_axis: int = 0
    strict: StrictContract | None = None
    smoke: tuple[SmokeVector, ...] = ()
    provenance: dict[str, Any] = {}
    extensions: dict[str, Any] = {}
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise InputError(
                f"schema_version is {self.schema_version}, this release reads {SCHEMA_VERSION}"
            )
        if not 1 <= len(self.name) <= 200 or not self.name.isprintable():
            raise InputError("name must have 1 to 200 printable characters")
        if not 0 <= self.batch_axis < MAX_RANK:
            raise InputError(f"batch_axis is {self.batch_axis}; it must be within 0 and {MAX_RANK}")
        for what, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [spec.name for spec in specs]
            if len(set(names)) < len(names):
                raise InputError(f"{what}: a name is given twice")
        if not self.outputs:
            raise InputError("outputs: a model needs at least one")
        self._check_strict()
        for index, vector in enumerate(self.smoke):
            where = f"smoke[{index}]"
            dims: dict[str, int] = {}
            _check_arrays(f"{where}.inputs", vector.inputs, self.inputs, dims)
            _check_arrays(f"{where}.outputs", vector.outputs, self.outputs, dims)

    def _check_strict(self) -> None:
        if (self.strict is not None) != (self.kind == "strict"):
            raise InputError("kind is 'strict' exactly where there is a 'strict' contract")
        if self.strict is None:
            return
        if self.batch_axis != 0:
            raise InputError(f"batch_axis of a strict bundle must be 0; it is {self.batch_axis}")
        names = tuple(spec.name for spec in self.outputs[:3])
        if names != OUTPUT_ORDER:
            raise InputError(
                f"outputs of a strict bundle must start with {', '.join(OUTPUT_ORDER)}"
            )
        dtypes = tuple(spec.dtype for spec in self.outputs[:3])
        if dtypes != (self.strict.dtype, "bool", "bool"):
            raise InputError(
                f"outputs of a strict bundle must have the dtypes {self.strict.dtype}, bool, bool; "
                f"they have {', '.join(dtypes)}"
            )

    def encode(self) -> bytes:
        """Indented JSON; arrays keep their bits. Raises InputError for what JSON cannot hold."""
        try:
            compact = msgspec.json.encode(self, enc_hook=_encode_array)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"metadata cannot be written as JSON: {error}") from None
        return msgspec.json.format(compact, indent=2) + b"\n"


def _encode_array(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value)
    raise TypeError(f"a value of type {type(value).__name__}")


def _decode_array(kind: type, value: Any) -> Any:
    array = from_plain(value)
    if not isinstance(array, np.ndarray):
        raise InputError("expected an array")
    array.flags.writeable = False
    return array


def parse_metadata(data: bytes) -> Metadata:
    """Read `metadata.json`, arrays read-only; raises BundleFormatError naming what is wrong."""
    return decode_json(data, _DECODER, METADATA)


def copied(metadata: Metadata) -> Metadata:
    """A copy of what was parsed with mappings of its own, without checking it again."""
    fresh = copy.copy(metadata)
    own = msgspec.structs.force_setattr
    for field in ("provenance", "extensions"):
        own(fresh, field, copy.deepcopy(getattr(metadata, field)))
    vectors = tuple(copy.copy(vector) for vector in metadata.smoke)
    for vector in vectors:
        own(vector, "inputs", dict(vector.inputs))
        own(vector, "outputs", dict(vector.outputs))
    own(fresh, "smoke", vectors)
    if metadata.strict is not None:
        strict = copy.copy(metadata.strict)
        own(strict, "meaning", dict(strict.meaning))
        own(fresh, "strict", strict)
    return fresh


_DECODER = msgspec.json.Decoder(Metadata, dec_hook=_decode_array)


def _check_arrays(
    where: str, arrays: Mapping[str, Array], specs: tuple[TensorSpec, ...], dims: dict[str, int]
) -> None:
    """Raise ValueError unless there is one array of the right dtype and shape for each spec."""
    if set(arrays) != {spec.name for spec in specs}:
        raise InputError(f"{where}: the names differ from the signature's")
    for spec in specs:
        array = arrays[spec.name]
        if array.dtype.name != spec.dtype:
            raise InputError(
                f"{where}: {spec.name!r} has dtype {array.dtype.name}, not {spec.dtype}"
            )
        fits = array.ndim == len(spec.shape) and all(
            actual == (dims.setdefault(dim, actual) if isinstance(dim, str) else dim)
            for dim, actual in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"{where}: {spec.name!r} has shape {array.shape}, not {tuple(spec.shape)}"
            )
