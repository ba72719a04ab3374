"""Torch tensors as NumPy arrays, without importing torch for those who do not use it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.kernel.errors import InputError


def is_tensor(value: object) -> bool:
    """Whether `value` is a torch tensor."""
    # While another thread still imports torch, the module is there and its class is not.
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


def to_numpy(name: str, value: Any) -> npt.NDArray[Any]:
    """`value` if it is a NumPy array, a tensor's values on the CPU if it is one.

    A tensor on the CPU shares its memory with the result. Raises InputError, with `name`, for
    anything else, a masked array, and a tensor that is sparse or whose dtype NumPy does not have.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array; its mask would be lost", hint="fill it first")
    if isinstance(value, np.ndarray):
        return value
    if not is_tensor(value):
        raise InputError(
            f"{name} is a {type(value).__name__}; it must be a NumPy array or a torch tensor"
        )
    try:
        array: npt.NDArray[Any] = value.detach().cpu().numpy()
    except (TypeError, RuntimeError):
        kind = f"{value.layout}, {value.dtype}".replace("torch.", "")
        raise InputError(f"{name} is a tensor ({kind}) that no NumPy array can hold") from None
    return array
