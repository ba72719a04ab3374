"""One input of a model, from what the user gave: checked before anything runs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interlock.engines.onnx import TensorSpec
from interlock.kernel.batch import Array
from interlock.kernel.errors import InputError
from interlock.verified.slices import sizes

MOST_BYTES = 1 << 30


def read_inputs(given: Any, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The model's inputs by name, each of its declared dtype and shape, and finite.

    given  an array, or a mapping of names to arrays; nested or flat lists of numbers in their
           place; or the path of a JSON file whose `input_data` holds one list an input, in order

    A missing batch axis of length 1 is added. An array must have the declared dtype, a list is
    converted. Raises InputError that names the input and what is wrong.
    """
    if isinstance(given, str | os.PathLike):
        given = _from_file(Path(given), specs)
    if isinstance(given, Mapping):
        names = {spec.name for spec in specs}
        for name in given:
            if name not in names:
                raise InputError(
                    f"input {name!r} is unknown", hint=f"the model takes {', '.join(sorted(names))}"
                )
        for spec in specs:
            if spec.name not in given:
                raise InputError(f"input '{spec.name}' is missing")
        return {spec.name: _fit(spec, given[spec.name]) for spec in specs}
    if len(specs) != 1:
        raise InputError(
            f"the model takes {len(specs)} inputs; give a mapping of "
            f"{', '.join(spec.name for spec in specs)}"
        )
    return {specs[0].name: _fit(specs[0], given)}


def _from_file(path: Path, specs: Sequence[TensorSpec]) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} has more than {MOST_BYTES} bytes")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    rows = document.get("input_data") if isinstance(document, dict) else None
    if not isinstance(rows, list) or len(rows) != len(specs):
        raise InputError(f"{path}: input_data must be a list of {len(specs)} lists of numbers")
    return {spec.name: row for spec, row in zip(specs, rows, strict=True)}


def _fit(spec: TensorSpec, value: Any) -> Array:
    shape = sizes(spec)
    if not isinstance(value, np.ndarray):
        value = _from_numbers(spec, value)
        if value.ndim == 1 and value.size == math.prod(shape):
            value = value.reshape(shape)
    elif isinstance(value, np.ma.MaskedArray):
        raise InputError(f"input '{spec.name}' is a masked array")
    if value.dtype != np.dtype(spec.dtype):
        raise InputError(
            f"input '{spec.name}' has dtype {value.dtype}; the model takes {spec.dtype}",
            hint=f"array.astype('{spec.dtype}') converts it",
        )
    if value.shape == shape[1:] and shape[:1] == (1,):
        value = value[None]
    if value.shape != shape:
        raise InputError(f"input '{spec.name}' has shape {value.shape}; the model takes {shape}")
    if value.dtype.kind in "fc" and not np.isfinite(value).all():
        place = tuple(int(axis[0]) for axis in np.nonzero(~np.isfinite(value)))
        raise InputError(f"input '{spec.name}' is {value[place]} at {place}; it must be finite")
    return np.ascontiguousarray(value)


def _from_numbers(spec: TensorSpec, value: Any) -> Array:
    try:
        array = np.array(value)
    except ValueError:
        raise InputError(f"input '{spec.name}' has rows of unequal length") from None
    if array.dtype.kind not in "bifu":
        raise InputError(f"input '{spec.name}' holds something else than numbers")
    with np.errstate(over="ignore"):  # what overflows is infinite then, and refused
        fitted = array.astype(spec.dtype)
    if np.dtype(spec.dtype).kind in "biu" and not np.array_equal(fitted, array):
        raise InputError(f"input '{spec.name}' holds numbers that {spec.dtype} cannot")
    return fitted
