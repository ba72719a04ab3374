"""Models on this machine: samples answered together, a model in a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from interlock.engines.chat import BatchChatProvider, ChatAnswer
from interlock.experiment.answers import Sample, answered, failed, words
from interlock.experiment.executor import Mailbox, given_back
from interlock.experiment.ledger import Ledger
from interlock.experiment.plan import Variant
from interlock.experiment.prices import FREE
from interlock.experiment.recorded import outcome_of
from interlock.experiment.records import PromptResult
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import EngineError, InterlockError
from interlock.kernel.task import Completed, Task, reason_of

LINGER = 0.02
"""Seconds to wait for more samples before a batch that is not full is begun."""


class BatchLane:
    """One variant of a model behind a `BatchChatProvider`. Satisfies `Lane`."""

    def __init__(
        self,
        variant: Variant,
        provider: BatchChatProvider,
        mailbox: Mailbox,
        *,
        batch_size: int,
        retries: int = 0,
        turn: threading.Lock | None = None,
    ) -> None:
        """Variants that share a provider share its `turn`: it answers one batch at a time."""
        self._variant = variant
        self._provider = provider
        self._mailbox = mailbox
        self._batch_size = batch_size
        self._retries = retries
        self._turn = turn if turn is not None else threading.Lock()
        self._inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        # Each counter has one thread that changes it: the driver's, and this lane's.
        self._begun = 0
        self._ended = 0
        self._stopping = self._cancelled = False
        # A daemon, since a model that hangs must not keep the interpreter alive.
        self._thread = threading.Thread(
            target=self._serve, name=f"interlock-model-{variant.label}", daemon=True
        )
        self._thread.start()

    def room(self, promised: int) -> int:
        """See `Lane.room`: the batch at work, and the next one."""
        return max(0, 2 * self._batch_size - (self._begun - self._ended) - promised)

    def submit(self, task: Task) -> None:
        """Put the task in line."""
        self._begun += 1
        self._inbox.put(task)

    def give_back(self) -> None:
        """Give back what waits for the next batch."""
        self._stopping = True

    def cancel(self) -> None:
        """Give back what waits; the batch at work runs on, and is not waited for."""
        self._stopping = self._cancelled = True

    def close(self) -> None:
        """End the thread; the provider, which other variants share, is the run's to close."""
        self._inbox.put(None)
        self._thread.join(timeout=0.5 if self._cancelled else None)

    def _serve(self) -> None:
        while (batch := self._next_batch()) is not None:
            if self._stopping:
                results: Sequence[Completed] = [given_back(task, sent=False) for task in batch]
            else:
                with self._turn:
                    results = self._answer(batch)
            for done in results:
                self._ended += 1
                self._mailbox.done(done)

    def _next_batch(self) -> list[Task] | None:
        first = self._inbox.get()
        if first is None:
            return None
        batch = [first]
        until = time.monotonic() + LINGER
        while len(batch) < self._batch_size:
            try:
                task = self._inbox.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if task is None:
                self._inbox.put(None)
                break
            batch.append(task)
        return batch

    def _answer(self, batch: list[Task]) -> list[Completed]:
        samples: list[Sample] = [task.items[0] for task in batch]
        results: list[PromptResult | None] = [None] * len(batch)
        left = list(range(len(batch)))
        for retry in range(self._retries + 1):
            start = time.monotonic()
            found = self._ask([samples[at] for at in left])
            # Samples of a batch end together; each took its share of the time.
            seconds = (time.monotonic() - start) / len(left)
            again = []
            for at, answer in zip(left, found, strict=True):
                sample = samples[at]
                if isinstance(answer, ChatAnswer):
                    results[at] = answered(
                        sample, answer, seconds=seconds, retries=retry, price=FREE
                    )
                elif answer.retryable and retry < self._retries:
                    self._mailbox.note(
                        f"Retry {retry + 1}/{self._retries} after 0s: {words(answer)}"
                    )
                    again.append(at)
                else:
                    results[at] = failed(sample, answer, seconds=seconds, retries=retry)
            left = again
            if not left:
                break
        return [
            Completed(task, error="no result")
            if result is None
            else Completed(task, (outcome_of(result),))
            for task, result in zip(batch, results, strict=True)
        ]

    def _ask(self, samples: list[Sample]) -> Sequence[ChatAnswer | InterlockError]:
        timeout = self._variant.model.timeout
        deadline = Deadline.after(None if timeout is None else timeout * len(samples))
        try:
            found = self._provider.answer_batch([s.request for s in samples], deadline=deadline)
        except InterlockError as error:
            return [error] * len(samples)
        except Exception as error:  # noqa: BLE001 - a thread that ended would be waited for
            return [EngineError(reason_of(error))] * len(samples)
        if len(found) != len(samples):
            wrong = EngineError(f"{len(found)} answers to {len(samples)} requests")
            return [wrong] * len(samples)
        return found


class RunnerLane:
    """One variant asked by a callable, `workers` samples at once in threads. Satisfies `Lane`.

    What a sample will cost only the callable knows, so a budget ends the lane when it is used up.
    """

    def __init__(
        self,
        ask: Callable[[Sample], PromptResult],
        mailbox: Mailbox,
        *,
        workers: int = 1,
        ledger: Ledger | None = None,
    ) -> None:
        self._ask = ask
        self._mailbox = mailbox
        self._workers = workers
        self._ledger = ledger if ledger is not None else Ledger()
        self._in_flight = 0
        self._lock = threading.Lock()
        self._stopping = self._cancelled = False
        self._inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, name="interlock-runner", daemon=True)
            for _ in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def room(self, promised: int) -> int:
        """See `Lane.room`."""
        if self._ledger.used_up:
            return 0
        return max(0, self._workers - self._in_flight - promised)

    def submit(self, task: Task) -> None:
        """Put the task in line."""
        with self._lock:
            self._in_flight += 1
        self._inbox.put(task)

    def give_back(self) -> None:
        """Give back what waits."""
        self._stopping = True

    def cancel(self) -> None:
        """Give back what waits; what runs runs on."""
        self._stopping = self._cancelled = True

    def close(self) -> None:
        """End the threads; those that hang after a cancellation are left."""
        for _ in self._threads:
            self._inbox.put(None)
        for thread in self._threads:
            thread.join(timeout=0.5 if self._cancelled else None)

    def _serve(self) -> None:
        while (task := self._inbox.get()) is not None:
            if self._stopping:
                done = given_back(task, sent=False)
            else:
                try:
                    result = self._ask(task.items[0])
                    done = Completed(task, (outcome_of(result),))
                    self._ledger.spend(result.cost_usd or 0.0, result.uncertain_usd or 0.0)
                # SystemExit too, which would end this thread alone.
                except BaseException as error:  # noqa: BLE001 - what vanished would be waited for
                    done = Completed(task, error=reason_of(error))
            with self._lock:
                self._in_flight -= 1
            self._mailbox.done(done)
