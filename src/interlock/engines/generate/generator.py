"""Many texts at once over one session: continuous batching, with every request on its own.

Each worker thread decodes its rows together, one token each a step, and takes in the next request
as soon as a row and the memory for it are free. A prompt is read alone, in pieces, between the
steps of the others. A row's tokens and logits do not depend on what else runs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from interlock.engines.breaker import CircuitBreaker
from interlock.engines.generate.decoder import GROWTH, Cache, Decoder
from interlock.engines.generate.model import TextModel
from interlock.engines.generate.prefix import PrefixCache
from interlock.engines.generate.request import GenerateRequest, GenerateResult
from interlock.engines.generate.rows import RequestHandle, Row
from interlock.engines.generate.sampling import Floats, log_sums
from interlock.kernel.clock import SYSTEM_CLOCK, Clock, Deadline
from interlock.kernel.errors import (
    CancelledRequestError,
    ConfigError,
    DeadlineError,
    EngineError,
    EngineUnavailableError,
    InterlockError,
    MemoryLimitError,
)

PROMPT_PIECE = 256
"""Tokens of a prompt that are read at a time; the borders are the same for every request."""
# Of the memory limit, the share that shared prefixes may take.
_PREFIX_SHARE = 4
_PREFIX_BYTES = 256 << 20


class Generator:
    """Writes texts with a model, `slots` of them at once, on `workers` threads.

    slots          logical instances: requests that are under way at the same time
    workers        threads that run the model, one core each; they share the session
    memory_limit   bytes that the key-value caches and shared prefixes may take; a request waits
                   while it does not fit beside the others, and MemoryLimitError is raised for one
                   that does not fit alone. None: no limit
    step_seconds   a step of the model that takes longer is stopped. Its rows are then tried one by
                   one, so that only the request that hangs is lost
    breaker        refuses requests while the engine keeps failing

    Requests start in the order of their submission. Safe across threads.
    """

    def __init__(
        self,
        model: TextModel,
        *,
        slots: int = 8,
        workers: int = 1,
        memory_limit: int | None = None,
        step_seconds: float | None = 60.0,
        breaker: CircuitBreaker | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        for name, value in (("slots", slots), ("workers", workers)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be 1 or more")
        if memory_limit is not None and memory_limit < 1:
            raise ConfigError(f"memory_limit is {memory_limit}; it must be 1 or more")
        if step_seconds is not None and not step_seconds > 0:
            raise ConfigError(f"step_seconds is {step_seconds}; it must be above 0")
        self.model = model
        self.slots = slots
        self.workers = min(workers, slots)
        self.breaker = CircuitBreaker(model.name, clock=clock) if breaker is None else breaker
        self._clock = clock
        self._step_seconds = step_seconds
        self._condition = threading.Condition()
        self._queue: deque[RequestHandle] = deque()
        self._closed = False
        prefix_bytes = _PREFIX_BYTES if memory_limit is None else memory_limit // _PREFIX_SHARE
        self._prefixes = PrefixCache(prefix_bytes)
        rest = None if memory_limit is None else memory_limit - prefix_bytes
        shares = _shares(slots, self.workers)
        self._loops = [
            _Loop(self, share, None if rest is None else rest * share // slots) for share in shares
        ]
        self._threads = [
            threading.Thread(target=loop.run, name=f"interlock-text-{number}", daemon=True)
            for number, loop in enumerate(self._loops)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        request: GenerateRequest,
        *,
        on_text: Callable[[str], None] | None = None,
        on_end: Callable[[GenerateResult | InterlockError], None] | None = None,
    ) -> RequestHandle:
        """Queue a request. `on_text` gets each piece of the text and `on_end` the result or error,
        on a worker's thread.

        Raises InputError for a prompt that does not fit the model, MemoryLimitError for one whose
        cache exceeds the limit, EngineUnavailableError after `close`. While the breaker is open,
        the request's result is that error.
        """
        prompt = self.model.prompt_of(request)
        handle = RequestHandle(request, prompt, self.model, self._clock, on_text, on_end)
        limits = [loop.limit for loop in self._loops if loop.limit is not None]
        needed = _rounded(handle.most) * self.model.spec.token_bytes
        # Any worker may take it, so it must fit the smallest share.
        if limits and needed > min(limits):
            raise MemoryLimitError(
                f"the request's cache of {handle.most} tokens takes {needed} bytes; "
                f"the memory limit leaves {min(limits)} for one"
            )
        with self._condition:
            if self._closed:
                raise EngineUnavailableError(f"{self.model.name}: the generator is closed")
            self._queue.append(handle)
            self._condition.notify_all()
        return handle

    def generate(
        self, requests: Sequence[GenerateRequest]
    ) -> list[GenerateResult | InterlockError]:
        """One result or error a request, in their order. One request's error costs no other."""
        handles: list[RequestHandle | InterlockError] = []
        try:
            for request in requests:
                try:
                    handles.append(self.submit(request))
                except InterlockError as error:
                    handles.append(error)
            return [h if isinstance(h, InterlockError) else h.outcome() for h in handles]
        except BaseException:
            for handle in handles:
                if isinstance(handle, RequestHandle):
                    handle.cancel()
            raise

    @property
    def cache_bytes(self) -> int:
        """Bytes that the key-value caches and the shared prefixes can take at this moment."""
        return self._prefixes.bytes + sum(loop.cache_bytes for loop in self._loops)

    def close(self) -> None:
        """Cancel what runs or waits, end the threads and release the caches."""
        with self._condition:
            self._closed = True
            waiting = list(self._queue)
            self._queue.clear()
            self._condition.notify_all()
        for handle in waiting:
            handle.fail(CancelledRequestError("the generator was closed"))
        for thread in self._threads:
            thread.join()
        self._prefixes.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Loop:
    """One worker's rows. Rows 0 to `len(writing)` decode; the one after them reads its prompt."""

    def __init__(self, owner: Generator, slots: int, limit: int | None) -> None:
        self._owner = owner
        self._slots = slots
        self.limit = limit
        # Bytes that the cache grows to for rows together: less than the limit where the process has
        # been found to have less.
        self._most = limit
        self._cache = Cache(owner.model.spec)
        self._decoder = Decoder(owner.model.session, owner.model.spec, self._cache)
        self._writing: list[Row] = []
        self._reading: Row | None = None

    @property
    def cache_bytes(self) -> int:
        """Bytes that the cache can take."""
        return self._cache.bytes

    def run(self) -> None:
        """Until the generator is closed."""
        while True:
            self._end_waiting()
            try:
                handle = self._next()
            except _ClosedError:
                return
            try:
                if handle is not None:
                    self._admit(handle)
                if self._reading is not None:
                    self._read(self._reading)
                if self._writing:
                    self._write()
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
                failed = EngineError(f"text generation failed ({type(error).__name__})")
                if handle is not None:
                    handle.fail(failed)
                self._lose_all(failed)

    def _next(self) -> RequestHandle | None:
        """The next request, where there is room for it; waits for one where nothing runs."""
        owner = self._owner
        busy = bool(self._writing) or self._reading is not None
        with owner._condition:
            while not owner._closed and not owner._queue and not busy:
                owner._condition.wait()
            if owner._closed:
                self._lose_all(CancelledRequestError("the generator was closed"))
                raise _ClosedError
            if self._reading is not None or len(self._writing) >= self._slots:
                return None
            if not owner._queue or not self._fits(owner._queue[0]):
                return None
            return owner._queue.popleft()

    def _end_waiting(self) -> None:
        """End what was cancelled or came too late while it waits, before its turn comes."""
        owner = self._owner
        with owner._condition:
            ended = [each for each in owner._queue if each.cancelled or _late(each)]
            for handle in ended:
                owner._queue.remove(handle)
        for handle in ended:
            self._alive(handle)

    def _lose_all(self, error: InterlockError) -> None:
        for row in [*self._writing, *([self._reading] if self._reading else [])]:
            row.handle.fail(error)
        self._writing.clear()
        self._reading = None
        self._cache.resize(0, 0)

    def _room(self, handle: RequestHandle) -> tuple[int, int]:
        """Rows and capacity of the cache with one more request."""
        live = max((row.handle.most for row in self._writing), default=0)
        return len(self._writing) + 1, _rounded(max(live, handle.most))

    def _fits(self, handle: RequestHandle) -> bool:
        if self._most is None or not self._writing:
            return True
        rows, capacity = self._room(handle)
        return rows * capacity * self._owner.model.spec.token_bytes <= self._most

    def _admit(self, handle: RequestHandle) -> None:
        if not self._alive(handle):
            return
        owner = self._owner
        try:
            owner.breaker.check()
            self._make_room(handle)
        except EngineError as error:
            handle.fail(error)
            return
        handle.started()
        row = Row(handle)
        self._cache.clear(len(self._writing))
        self._reading = row
        prefix = handle.request.prefix
        if prefix:
            found = owner._prefixes.get(tuple(handle.prompt[:prefix]))
            if found is not None:
                self._cache.restore(len(self._writing), found)
                handle.cached = row.read = prefix

    def _make_room(self, handle: RequestHandle) -> None:
        needed, capacity = self._room(handle)
        cache = self._cache
        # Rows that nothing was written to take no memory, and need no copying later.
        if self._most is None:
            rows, capacity = self._slots, max(capacity, cache.capacity)
        else:
            most = self._most // cache.spec.token_bytes
            if needed * cache.capacity <= most:
                capacity = max(capacity, cache.capacity)
            rows = max(needed, min(self._slots, most // capacity))
        if (rows, capacity) != (cache.rows, cache.capacity):
            if not self._writing:
                cache.resize(0, 0)
            while rows > needed and not cache.obtainable(rows, capacity):
                # A limit of the process counts what is mapped, written to or not.
                rows = max(needed, rows // 2)
                self._most = rows * capacity * cache.spec.token_bytes
        try:
            cache.resize(rows, capacity)
        except MemoryLimitError:
            # The rows under way are lost with the cache.
            error = MemoryLimitError("no memory for the key-value cache")
            for row in self._writing:
                row.handle.fail(error)
            self._writing.clear()
            raise

    def _alive(self, handle: RequestHandle) -> bool:
        """False, and the handle failed, where it was cancelled or its deadline has passed."""
        if handle.cancelled:
            handle.fail(CancelledRequestError("the request was cancelled"))
            return False
        if _late(handle):
            handle.fail(DeadlineError("text generation: the request's deadline has passed"))
            return False
        return True

    def _step_deadline(self) -> Deadline:
        return Deadline.after(self._owner._step_seconds)

    def _read(self, row: Row) -> None:
        """The next piece of the prompt; after the last one the row starts to write."""
        handle = row.handle
        owner = self._owner
        at = len(self._writing)
        if not self._alive(handle):
            owner.breaker.neither()
            self._reading = None
            self._cache.clear(at)
            return
        prompt, prefix = handle.prompt, handle.request.prefix
        border = prefix if row.read < prefix else len(prompt)
        end = min(row.read + PROMPT_PIECE, border)
        try:
            logits = self._decoder.run([prompt[row.read : end]], at, self._prompt_deadline(handle))
        except EngineError as error:
            self._reading = None
            self._cache.clear(at)
            self._failed(handle, error)
            return
        row.read = end
        if end == prefix:
            owner._prefixes.put(tuple(prompt[:prefix]), lambda: self._cache.export(at, prefix))
        if end == len(prompt):
            self._reading = None
            self._writing.append(row)
            self._take([row], logits)

    def _prompt_deadline(self, handle: RequestHandle) -> Deadline:
        given = handle.request.deadline
        if given.at is None:
            return self._step_deadline()
        return given.earlier(self._owner._step_seconds) if self._owner._step_seconds else given

    def _write(self) -> None:
        """One token for every row that writes."""
        for row in [row for row in self._writing if not self._alive(row.handle)]:
            self._owner.breaker.neither()
            self._drop(row)
        if not self._writing:
            return
        rows = list(self._writing)
        try:
            logits = self._decoder.run([[row.token] for row in rows], 0, self._step_deadline())
        except EngineError as error:
            if len(rows) == 1:
                self._failed(rows[0].handle, error)
                self._drop(rows[0])
            else:
                self._write_alone(rows)
            return
        self._take(rows, logits)

    def _write_alone(self, rows: list[Row]) -> None:
        """Repeat a step that failed, row by row: only the rows that fail alone are lost."""
        done: list[tuple[Row, Floats]] = []
        lost: list[Row] = []
        for at, row in enumerate(rows):
            try:
                done.append((row, self._decoder.run([[row.token]], at, self._step_deadline())))
            except EngineError as error:
                self._failed(row.handle, error)
                lost.append(row)
        for row, logits in done:
            self._take([row], logits)
        for row in lost:
            self._drop(row)

    def _take(self, rows: list[Row], logits: Floats) -> None:
        """Draw the rows' next tokens; those that end leave."""
        sums = log_sums(logits)
        for row, own, total in zip(rows, logits, sums, strict=True):
            try:
                ended = row.add(own, float(total))
            except InterlockError as error:
                self._failed(row.handle, error)
                self._drop(row)
                continue
            if ended:
                self._owner.breaker.succeeded()
                row.handle.finish(row.result())
                self._drop(row)

    def _failed(self, handle: RequestHandle, error: InterlockError) -> None:
        late = isinstance(error, DeadlineError) and handle.request.deadline.expired
        if late or isinstance(error, CancelledRequestError):
            self._owner.breaker.neither()
        else:
            self._owner.breaker.failed(error)
        handle.fail(error)

    def _drop(self, row: Row) -> None:
        """Close the gap that a row leaves with the last one, and move the row that reads down."""
        at = self._writing.index(row)
        last = len(self._writing) - 1
        if at != last:
            self._cache.move(last, at)
            self._writing[at] = self._writing[last]
        self._writing.pop()
        if self._reading is not None:
            self._cache.move(last + 1, last)
        elif at == last:
            self._cache.clear(last)
        if not self._writing and self._reading is None and not self._owner._queue:
            self._cache.resize(0, 0)


def cache_needed(model: TextModel, *, slots: int, workers: int) -> int:
    """The least memory limit in bytes with which every request that fits the model is taken."""
    one = _rounded(model.context) * model.spec.token_bytes
    # The smallest share of what the prefixes leave must hold it.
    rest = -(-one * slots // min(_shares(slots, min(slots, workers))))
    return -(-rest * _PREFIX_SHARE // (_PREFIX_SHARE - 1))


def _shares(slots: int, workers: int) -> list[int]:
    """Slots of each worker."""
    base, more = divmod(slots, workers)
    return [base + (number < more) for number in range(workers)]


class _ClosedError(Exception):
    """The generator was closed."""


def _late(handle: RequestHandle) -> bool:
    return handle.request.deadline.expired


def _rounded(tokens: int) -> int:
    return -(-tokens // GROWTH) * GROWTH
