"""Reads arrays from a .npz file that somebody else may have written."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.kernel.errors import InputError

# What numpy, zipfile and the decompressors raise on bytes that are no such archive, among them
# NotImplementedError for a method that they lack and RuntimeError for a file under a password.
_BROKEN = (ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def read_npz(
    path: Path, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, npt.NDArray[Any]]:
    """The arrays called `names`, and those of `optional` that are there. Pickles are not read.

    Raises InputError that names the file and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(
                    f"{path} cannot be read: it is no .npz file",
                    hint="numpy.savez('rows.npz', name=…) makes one",
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                there = arrays.files
                for name in names:
                    if name not in there:
                        told = ", ".join(map(repr, there)) or "nothing"
                        raise InputError(
                            f"{path} cannot be read: it has no {name!r}; it has {told}"
                        )
                wanted = [*names, *(name for name in optional if name in there)]
                found = {name: arrays[name] for name in wanted}
            for name, value in found.items():
                if not isinstance(value, np.ndarray):
                    raise InputError(f"{path} holds no array under the name {name!r}")
            return found
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except _BROKEN as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read: {error or type(error).__name__}") from None
