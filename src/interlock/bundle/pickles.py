"""Recognise pickles and the containers that carry them, whatever the file is called.

Nothing in a bundle is ever unpickled; a file that could be is refused all the same, so that no
other program unpickles it because it came with a bundle.
"""

from __future__ import annotations

import bz2
import io
import lzma
import pickletools
import re
import zlib

from interlock.kernel.errors import BundleFormatError

_CONTAINERS = (
    (b"PK\x03\x04", "a zip archive, as torch.save and numpy.savez write"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x93NUMPY", "a NumPy array file, which can hold pickled objects"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x04\x22\x4d\x18", "an lz4 frame, as joblib writes"),
    (b"\x28\xb5\x2f\xfd", "a zstd frame"),
    (b"\xfd7zXZ\x00", "an xz stream, as joblib writes"),
)
_NAMES = re.compile(r"[A-Za-z_][\w.]*( [A-Za-z_][\w.]*)?")
_ENOUGH = 24
"""Opcodes in a row that random bytes behind a pickle's two-byte mark do not form by chance."""

_MANY = 4096
"""Opcodes in a row that nothing but a pickle forms, even without the mark."""

_LONGEST_ARGUMENT = 8

_LOOK = 1 << 16


def refuse_pickle(name: str, data: bytes) -> None:
    """Raise BundleFormatError where `data` is a pickle, or a container that pickles come in."""
    for mark, what in _CONTAINERS:
        if data.startswith(mark):
            raise BundleFormatError(f"{name} is {what}; pickles and their containers are refused")
    if data[257:262] == b"ustar":
        raise BundleFormatError(
            f"{name} is a tar archive; pickles and their containers are refused"
        )
    if is_pickle(data):
        raise BundleFormatError(f"{name} is a pickle")
    if _inflates(data):
        raise BundleFormatError(f"{name} is compressed, as joblib writes pickles")


def is_pickle(data: bytes) -> bool:
    """Whether `data` starts with a pickle of any protocol, 0 to 5.

    A stream that breaks off is one as well where it has named something to call by then. About one
    in a thousand files of random weights that happen to begin with the two-byte mark, which one in
    16,000 does, is taken for a pickle too.
    """
    marked = data[:1] == b"\x80" and data[1:2] <= b"\x05"
    count = strings = 0
    calls = False
    try:
        for opcode, argument, position in pickletools.genops(io.BytesIO(data)):
            count += 1
            if opcode.name == "STOP":
                whole = position == len(data) - 1 and count > 1
                return calls or whole or (marked and count > 2)
            if isinstance(argument, str) and _NAMES.fullmatch(argument):
                strings += 1
                calls = calls or opcode.name in ("GLOBAL", "INST")
            calls = calls or (opcode.name == "STACK_GLOBAL" and strings >= 2)
            if count >= (_ENOUGH if marked else _MANY):
                return marked or _is_pickle_after_run(data)
    except Exception:  # noqa: BLE001 - whatever the disassembler stumbles over ends the stream
        return calls
    return calls


def _is_pickle_after_run(data: bytes) -> bool:
    """Whether a long stream of opcodes is more than one byte over and over, as in constant weights.

    What follows the run is judged on its own, from every place where the run's last opcode, with
    its argument of at most 8 bytes, may end.
    """
    run = len(data) - len(data.lstrip(data[:1]))
    if run <= _LONGEST_ARGUMENT:
        return True
    return any(is_pickle(data[run - back :]) for back in range(_LONGEST_ARGUMENT + 1))


def _inflates(data: bytes) -> bool:
    """Whether `data` starts with a gzip, zlib, bzip2 or lzma stream."""
    head = data[:_LOOK]
    try:
        if head[:3] == b"\x1f\x8b\x08":
            return bool(zlib.decompressobj(31).decompress(head, _LOOK))
        if head[:1] == b"\x78" and len(head) > 2 and int.from_bytes(head[:2], "big") % 31 == 0:
            return bool(zlib.decompressobj().decompress(head, _LOOK))
        if head[:3] == b"BZh":
            bz2.BZ2Decompressor().decompress(head, _LOOK)
            return True
        if head[:3] == b"\x5d\x00\x00":
            lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(head, _LOOK)
            return True
    except (zlib.error, OSError, ValueError, EOFError, lzma.LZMAError):
        return False
    return False
