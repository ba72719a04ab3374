"""Keys and values of prompt beginnings that many requests share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from interlock.engines.generate.sampling import Floats


class PrefixCache:
    """Tokens -> their part of the key-value cache, the least recently used ones dropped.

    A prefix is always read on its own, so what is kept here is what would be computed, to the bit.
    Safe across threads.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, ...], list[Floats]] = OrderedDict()
        self.bytes = 0

    def get(self, tokens: tuple[int, ...]) -> list[Floats] | None:
        """The arrays (kv_heads, tokens, head_size) of each layer's keys and values, or None."""
        with self._lock:
            found = self._kept.get(tokens)
            if found is not None:
                self._kept.move_to_end(tokens)
            return found

    def put(self, tokens: tuple[int, ...], export: Callable[[], list[Floats]]) -> None:
        """Keep what `export` copies, where it fits and is not there yet."""
        with self._lock:
            if tokens in self._kept:
                return
        parts = export()
        size = sum(part.nbytes for part in parts)
        if size > self._most:
            return
        with self._lock:
            if tokens in self._kept:
                return
            self._kept[tokens] = parts
            self.bytes += size
            while self.bytes > self._most:
                _, old = self._kept.popitem(last=False)
                self.bytes -= sum(part.nbytes for part in old)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()
            self.bytes = 0
