"""Runs the graph over rows of a key-value cache that stays where it is.

Past and present are bound to the same memory, so a step writes one token's keys and values a row
and copies nothing. Buffers and the shapes of a step are all that differs between rows decoded
together and a row alone, and the kernels give each row the same bits either way; the tests hold
them to it.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

from interlock.engines.generate.convert.graph import cache_names
from interlock.engines.generate.sampling import Floats
from interlock.engines.generate.spec import TextSpec
from interlock.engines.onnx import run_error
from interlock.engines.termination import terminated_at
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import DeadlineError, EngineError, MemoryLimitError
from interlock.ort import onnxruntime

_ITEM = np.dtype(np.float32).itemsize
GROWTH = 128
"""Capacities are multiples of it, in tokens."""


class Cache:
    """Keys and values of `rows` rows: per layer two arrays (rows, kv_heads, capacity, head_size).

    `lengths` counts the tokens that each row holds. Memory that no token has been written to is
    not taken from the system, and a row that is cleared gives back what it had, where the system
    has MADV_DONTNEED: what is resident follows the tokens that are held, in pages of 4 KB for each
    head. Elsewhere, and at most, it is `bytes`.
    """

    def __init__(self, spec: TextSpec) -> None:
        self.spec = spec
        self.rows = 0
        self.capacity = 0
        self.arrays: list[Floats] = []
        self.lengths: list[int] = []
        self._maps: list[mmap.mmap | None] = []

    @property
    def bytes(self) -> int:
        """Bytes that the arrays can take in all."""
        return self.rows * self.capacity * self.spec.token_bytes

    def resize(self, rows: int, capacity: int) -> None:
        """Make room; what the first rows hold is kept. Raises MemoryLimitError."""
        if (rows, capacity) == (self.rows, self.capacity):
            return
        shape = (rows, self.spec.kv_heads, capacity, self.spec.head_size)
        keep = min(rows, self.rows)
        old, self.arrays = self.arrays[::-1], []
        self._maps = []
        try:
            for _ in range(2 * self.spec.layers):
                array, pages = _empty(shape)
                # Given back at once, so that a resize holds one layer twice and not all of them.
                source = old.pop() if old else None
                if source is not None:
                    for row, length in enumerate(self.lengths[:keep]):
                        array[row, :, :length] = source[row, :, :length]
                self.arrays.append(array)
                self._maps.append(pages)
        except (MemoryError, OSError):
            self.rows = self.capacity = 0
            self.arrays, self._maps, self.lengths = [], [], []
            raise MemoryLimitError(f"no memory for a cache of {rows} x {capacity} tokens") from None
        self.rows, self.capacity = rows, capacity
        self.lengths = [*self.lengths[:keep], *[0] * (rows - keep)]

    def obtainable(self, rows: int, capacity: int) -> bool:
        """Whether the system has so much memory beside what the cache holds; takes none of it."""
        try:
            _empty((rows, capacity, self.spec.token_bytes // _ITEM))
        except (MemoryError, OSError):
            return False
        return True

    def move(self, source: int, target: int) -> None:
        """Let row `target` hold what row `source` holds, and clear `source`."""
        length = self.lengths[source]
        if length < self.lengths[target]:
            self.clear(target)
        for array in self.arrays:
            array[target, :, :length] = array[source, :, :length]
        self.lengths[target] = length
        self.clear(source)

    def clear(self, row: int) -> None:
        """Let a row hold nothing, and give its memory back."""
        self.lengths[row] = 0
        for array, pages in zip(self.arrays, self._maps, strict=True):
            if pages is None:
                continue
            # Whole pages of this row only: its neighbours keep theirs.
            size = array[row].nbytes
            first = -(-row * size // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (row + 1) * size // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                pages.madvise(mmap.MADV_DONTNEED, first, last - first)

    def export(self, row: int, length: int) -> list[Floats]:
        """A copy of the first `length` tokens of a row."""
        return [array[row, :, :length].copy() for array in self.arrays]

    def restore(self, row: int, parts: Sequence[Floats]) -> None:
        """Put what `export` copied at the start of a row."""
        length = parts[0].shape[1]
        for array, part in zip(self.arrays, parts, strict=True):
            array[row, :, :length] = part
        self.lengths[row] = length


def _empty(shape: tuple[int, ...]) -> tuple[Floats, mmap.mmap | None]:
    """An array whose pages can be given back, and its mapping; None where they cannot.

    NumPy asks for huge pages, with which one token takes 2 MB of each array that it is written to.
    Raises MemoryError or OSError.
    """
    size = math.prod(shape) * _ITEM
    if size == 0 or not hasattr(mmap, "MADV_DONTNEED"):
        return np.empty(shape, np.float32), None
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, np.float32).reshape(shape), pages


class Decoder:
    """One thread's use of a session that several may share."""

    def __init__(self, session: Any, spec: TextSpec, cache: Cache) -> None:
        self._session = session
        self._spec = spec
        self._cache = cache
        self._pasts, self._presents = cache_names(spec.layers)
        self._bindings: dict[tuple[int, int], Any] = {}
        self._bound: list[Floats] | None = None

    def run(self, tokens: Sequence[Sequence[int]], first: int, deadline: Deadline) -> Floats:
        """Add tokens to consecutive rows from `first`, equally many each; their last logits.

        Returns (rows, vocabulary) float32. Several tokens are added to one row at a time only.
        Raises DeadlineError when the deadline came in between, EngineError where the model
        failed; the rows then hold what they held, and the step can be repeated.
        """
        rows, count = len(tokens), len(tokens[0])
        lengths = [self._cache.lengths[first + row] + count for row in range(rows)]
        total = max(lengths)
        assert total <= self._cache.capacity, "a row outgrew the cache"
        ids = np.array(tokens, np.int64)
        mask = (np.arange(total) < np.array(lengths)[:, None]).astype(np.int64)
        logits = np.empty((rows, 1, self._spec.vocabulary), np.float32)
        binding = self._binding(first, rows)
        for name, array in (("input_ids", ids), ("attention_mask", mask)):
            binding.bind_input(name, "cpu", 0, np.int64, array.shape, array.ctypes.data)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        options = onnxruntime().RunOptions()
        with terminated_at(deadline, options) as watch:
            try:
                self._session.run_with_iobinding(binding, options)
            except Exception as error:  # noqa: BLE001 - the runtime raises unrelated types
                if watch.fired:
                    raise DeadlineError(
                        "text generation: a step was stopped at its limit"
                    ) from None
                raise run_error(error) from None
        for row in range(rows):
            self._cache.lengths[first + row] = lengths[row]
        return logits[:, 0]

    def _binding(self, first: int, rows: int) -> Any:
        if self._bound is not self._cache.arrays:
            self._bindings.clear()
            self._bound = self._cache.arrays
        key = (first, rows)
        found = self._bindings.get(key)
        if found is not None:
            return found
        binding = self._session.io_binding()
        for past, present, array in zip(
            self._pasts, self._presents, self._cache.arrays, strict=True
        ):
            part = array[first : first + rows]
            place = ("cpu", 0, np.float32, part.shape, part.ctypes.data)
            binding.bind_input(past, *place)
            binding.bind_output(present, *place)
        self._bindings[key] = binding
        return binding


def check_finite(logits: Floats) -> EngineError | None:
    """An error for a row (vocabulary,) that holds NaN or no number to choose from."""
    if np.isfinite(logits.max()):
        return None
    return EngineError("the model gave logits that are not finite")
