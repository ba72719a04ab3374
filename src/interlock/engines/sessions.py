"""Many logical sessions over one set of weights."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence

from interlock.engines.onnx import OnnxSession
from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import ConfigError, DeadlineError


class SessionPool:
    """Up to `size` runs at the same time on one session; further ones wait until one ends.

    A run keeps its own intermediate tensors while the weights exist once, so `size` bounds the
    memory of concurrent runs. It shares a runner's interface with `OnnxSession`.
    """

    def __init__(self, session: OnnxSession, size: int) -> None:
        if size < 1:
            raise ConfigError(f"size is {size}; it must be 1 or more")
        self.session = session
        self.size = size
        self._free = threading.BoundedSemaphore(size)

    def input_names(self, *, deadline: Deadline = NO_DEADLINE) -> tuple[str, ...]:
        """The names of the model's inputs."""
        return self.session.input_names()

    @contextlib.contextmanager
    def lend(self, deadline: Deadline = NO_DEADLINE) -> Iterator[OnnxSession]:
        """A logical session for the length of the block; DeadlineError where none comes free."""
        left = deadline.remaining()
        timeout = None if left is None else min(left, threading.TIMEOUT_MAX)
        if not self._free.acquire(timeout=timeout):
            raise DeadlineError(f"onnx: all {self.size} sessions were busy until the deadline")
        try:
            yield self.session
        finally:
            self._free.release()

    def run(
        self,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        deadline: Deadline = NO_DEADLINE,
    ) -> dict[str, Array]:
        """As `OnnxSession.run`; the wait for a free session counts against the deadline."""
        with self.lend(deadline) as session:
            return session.run(inputs, outputs=outputs, deadline=deadline)
