"""Values as frames of bytes, for a pipe or socket between two processes. Never pickle.

A value is JSON-like data with bytes and numpy arrays at any depth. Small parts travel as
MessagePack, array and large byte buffers follow as they are, so a large array is copied only by
the kernel. The reader trusts nothing: whatever the bytes, `read` returns a value within the
given limits or raises FrameError.

    4 bytes magic | u32 length of the body | u64 call | u64 length of all buffers | body | buffers
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from interlock.kernel.batch import Array
from interlock.kernel.errors import InputError

Fill = Callable[[memoryview], None]
"""Fills the whole of the given buffer from the other side, or raises."""

MAGIC = b"ilw1"
PREFIX = struct.Struct("<4sIQQ")
BODY_LIMIT = 4 << 20
"""Bytes of MessagePack that an untrusted peer may send: one byte of it can cost 60 in objects."""
BUFFER_COUNT_LIMIT = 1 << 16
# Larger bytes travel beside the body, so that a model of 2 GB is not copied into a message.
_BESIDE = 1 << 16
_SCRATCH = 1 << 20
AHEAD = 1 << 16
"""Bytes of a frame that is sent in one piece, and that a reader may take before it needs them."""
_LIFTED = (dict, list, tuple, bytes, bytearray, memoryview)

_ARRAY, _BYTES, _STRINGS = 1, 2, 3
_NUMERIC = "biufc"
_DTYPE = re.compile(r"[<>|=][biufc]\d{1,2}")


class FrameError(Exception):
    """What arrived is not a frame, or is larger than allowed."""


class _Body(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    buffers: list[tuple[int, int]]
    value: msgspec.Raw


class _Writer:
    """Collects the buffers that follow the body."""

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []
        self.table: list[tuple[int, int]] = []

    def beside(self, code: int, buffer: memoryview, *about: Any) -> msgspec.msgpack.Ext:
        self.buffers.append(buffer)
        self.table.append((code, len(buffer)))
        place = (len(self.buffers) - 1, *about)
        return msgspec.msgpack.Ext(code, msgspec.msgpack.encode(place))

    def lift(self, value: Any) -> Any:
        """Put large bytes, at any depth, beside the body."""
        if isinstance(value, dict):
            return {key: self.lift(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            # A long list of numbers must not cost a call for each.
            return [self.lift(item) if isinstance(item, _LIFTED) else item for item in value]
        if isinstance(value, bytes | bytearray | memoryview) and len(value) >= _BESIDE:
            return self.beside(_BYTES, memoryview(value).cast("B"))
        return value

    def hook(self, value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, np.ndarray):
            raise InputError(f"a {type(value).__name__} cannot cross processes")
        if value.dtype.kind in _NUMERIC:
            flat = np.asarray(value, order="C").reshape(-1)
            return self.beside(_ARRAY, flat.view(np.uint8).data, value.dtype.str, value.shape)
        texts = value.reshape(-1).tolist()
        if value.dtype.kind not in "OU" or not all(isinstance(text, str) for text in texts):
            raise InputError(f"an array of dtype {value.dtype} cannot cross processes")
        return msgspec.msgpack.Ext(_STRINGS, msgspec.msgpack.encode((value.shape, texts)))


def encode(value: Any, call: int) -> list[memoryview]:
    """The frame of `value` as buffers to send one after the other.

    Numpy scalars arrive as Python numbers, tuples as lists, arrays of text as object arrays.
    Raises InputError for a value that cannot cross.
    """
    writer = _Writer()
    try:
        plain = msgspec.msgpack.encode(writer.lift(value), enc_hook=writer.hook)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the value cannot cross processes ({type(error).__name__})") from None
    body = msgspec.msgpack.encode(_Body(writer.table, msgspec.Raw(plain)))
    if len(body) > 0xFFFFFFFF:
        raise InputError(f"the value takes {len(body)} bytes beside its arrays; the limit is 4 GiB")
    rest = sum(size for _, size in writer.table)
    prefix = PREFIX.pack(MAGIC, len(body), call, rest)
    return [memoryview(prefix + body), *writer.buffers]


def fits(frame: Sequence[memoryview], limit: int) -> bool:
    """Whether `read` with this `limit` accepts the frame."""
    body = len(frame[0]) - PREFIX.size
    return len(frame) - 1 <= BUFFER_COUNT_LIMIT and body <= BODY_LIMIT and total(frame) <= limit


def total(frame: Sequence[memoryview]) -> int:
    """Bytes of the frame."""
    return sum(len(part) for part in frame)


def packed(frame: Sequence[memoryview]) -> Sequence[memoryview]:
    """`frame` in one piece where it is small: each piece costs a system call and a wake-up."""
    if len(frame) == 1 or total(frame) > AHEAD:
        return frame
    return [memoryview(b"".join(frame))]


class Ahead:
    """Fills buffers from a socket, reading small ones ahead of their need.

    receive  fills a part of the given buffer and returns how much; 0 at the end
    """

    def __init__(self, receive: Callable[[memoryview], int]) -> None:
        self._receive = receive
        self._scratch = memoryview(bytearray(AHEAD))
        self._left = self._scratch[:0]

    def __len__(self) -> int:
        """Bytes that were read and not yet taken."""
        return len(self._left)

    def fill(self, view: memoryview) -> None:
        """Fill all of `view`; raises EOFError where the other side has closed."""
        while view:
            if not self._left:
                if len(view) >= AHEAD:
                    received = self._receive(view)
                    view = view[received:]
                else:
                    received = self._receive(self._scratch)
                    self._left = self._scratch[:received]
                if received == 0:
                    raise EOFError
                continue
            size = min(len(view), len(self._left))
            view[:size] = self._left[:size]
            view, self._left = view[size:], self._left[size:]


def read(fill: Fill, *, limit: int | None = None) -> tuple[int, Any]:
    """The next frame's call number and value.

    `limit` is the most bytes that an untrusted peer may send; None trusts the peer's sizes.
    Raises FrameError for anything but a frame, and whatever `fill` raises.
    """
    prefix = bytearray(PREFIX.size)
    fill(memoryview(prefix))
    magic, length, call, rest = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise FrameError("no frame begins here")
    if limit is not None and (length > BODY_LIMIT or PREFIX.size + length + rest > limit):
        raise FrameError(f"a frame of {length} + {rest} bytes is above the limit")
    body = bytearray(length)
    fill(memoryview(body))
    try:
        parsed = msgspec.msgpack.decode(body, type=_Body)
        sizes = [size for _, size in parsed.buffers]
        if sum(sizes) != rest or min(sizes, default=0) < 0:
            raise FrameError("the buffers' sizes do not add up")
        if limit is not None and len(sizes) > BUFFER_COUNT_LIMIT:
            raise FrameError("too many buffers")
        buffers = dict(enumerate(_buffer(code, size, fill) for code, size in parsed.buffers))
        value = msgspec.msgpack.decode(
            parsed.value, ext_hook=lambda code, data: _extension(code, data, buffers)
        )
    except (
        msgspec.MsgspecError,
        ValueError,
        TypeError,
        LookupError,
        OverflowError,
        RecursionError,
    ) as error:
        raise FrameError(f"malformed ({type(error).__name__})") from None
    return call, value


def _buffer(code: int, size: int, fill: Fill) -> Array | bytes:
    """`size` bytes from the peer. Memory becomes resident only as bytes arrive."""
    if code == _ARRAY:
        array = np.empty(size, dtype=np.uint8)
        if size:
            fill(array.data)
        return array
    # BytesIO gives its content away without a copy, which counts when it is a model of 2 GB.
    content = io.BytesIO()
    scratch = memoryview(bytearray(min(size, _SCRATCH)))
    while size:
        part = scratch[: min(size, _SCRATCH)]
        fill(part)
        size -= content.write(part)
    return content.getvalue()


def _extension(code: int, data: memoryview, buffers: dict[int, Array | bytes]) -> Any:
    if code == _ARRAY:
        index, dtype, shape = msgspec.msgpack.decode(data, type=tuple[int, str, list[int]])
        flat = buffers.pop(index)
        if isinstance(flat, np.ndarray):
            return _array(flat, dtype, shape)
    elif code == _BYTES:
        (index,) = msgspec.msgpack.decode(data, type=tuple[int])
        content = buffers.pop(index)
        if isinstance(content, bytes):
            return content
    elif code == _STRINGS:
        shape, texts = msgspec.msgpack.decode(data, type=tuple[list[int], list[str]])
        strings = np.empty(len(texts), dtype=object)
        strings[:] = texts
        return strings.reshape(shape)
    raise FrameError(f"extension {code} does not fit its buffer")


def _array(flat: Array, name: str, shape: list[int]) -> Array:
    if not _DTYPE.fullmatch(name):
        raise FrameError("an array of this dtype is not accepted")
    dtype = np.dtype(name)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != flat.size:
        raise FrameError("an array's shape and size disagree")
    if dtype.kind == "b" and flat.size and flat.max() > 1:
        raise FrameError("a boolean array holds other bytes than 0 and 1")
    return flat.view(dtype).reshape(shape)
