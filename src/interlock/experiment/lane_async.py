"""Services: many calls at once on one event loop, each with its retries, its turn and its price."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from interlock.engines.chat import ChatAnswer, ChatProvider
from interlock.experiment.account import Account, asks_too_long
from interlock.experiment.answers import Sample, answered, failed, maybe_billed, words
from interlock.experiment.config import DEFAULT_TIMEOUT
from interlock.experiment.executor import Mailbox, given_back
from interlock.experiment.ledger import Ledger
from interlock.experiment.plan import Variant
from interlock.experiment.prices import BYTES_A_TOKEN, Price, prompt_bytes
from interlock.experiment.recorded import outcome_of
from interlock.experiment.records import PromptResult
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import DeadlineError, EngineError, InterlockError
from interlock.kernel.limits import RetryPolicy
from interlock.kernel.task import Completed, Task, reason_of

T = TypeVar("T")

BACKSTOP = 2.0
"""Seconds after the deadline at which a call is ended from outside, should its provider not."""

ANSWERS_KEPT = 20
"""About how many answers the expected length of the next one rests on."""


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="interlock-calls", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run it on the loop and wait for it, from another thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def close(self) -> None:
        """Cancel what is left on the loop, and end it."""

        async def wind_up() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.loop.shutdown_asyncgens()

        self.run(wind_up())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def _current() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None
    return task


class AsyncLane:
    """One variant of a model behind a `ChatProvider`. Satisfies `Lane`."""

    def __init__(
        self,
        variant: Variant,
        provider: ChatProvider,
        account: Account,
        loop: LoopThread,
        mailbox: Mailbox,
        *,
        retry: RetryPolicy,
        retry_timeouts: bool = True,
        price: Price | None = None,
        ledger: Ledger | None = None,
        longest_prompt: float = 0.0,
        rng: random.Random | None = None,
    ) -> None:
        """`longest_prompt` is the worst price of any sample of the lane, in US dollars."""
        self._variant = variant
        self._provider = provider
        self.account = account
        self._loop = loop
        self._mailbox = mailbox
        self._retry = retry
        self._retry_timeouts = retry_timeouts
        self._price = price
        self._ledger = ledger if ledger is not None else Ledger()
        self.worst = longest_prompt
        self._rng = rng if rng is not None else random.Random()
        # Expected tokens: of an answer, and of a prompt in relation to its bytes.
        self._output: float = variant.sampling.max_tokens
        self._ratio = 1 / BYTES_A_TOKEN
        self._known = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()
        """Those of the tasks that took their first step: only they can notice a cancellation."""
        self._on_wire: set[asyncio.Task[None]] = set()
        self._sent: set[asyncio.Task[None]] = set()
        """Those of the calls that were on the wire at some time."""
        self._stopping = False

    def room(self, promised: int) -> int:
        """See `Lane.room`. No more than the budget has room for."""
        room = self.account.room(promised)
        if room and self.worst:
            left = self._ledger.room(self.worst) - promised
            return max(0, room if left > room else int(left))
        return room

    def submit(self, task: Task) -> None:
        """Put the sample's worst case at stake, and start the call on the loop."""
        worst = self._price.worst(task.items[0].request) if self._price is not None else 0.0
        if not self._ledger.reserve(worst):
            self._mailbox.done(given_back(task, sent=False))
            return
        self.account.begun += 1
        self._loop.loop.call_soon_threadsafe(self._start, task, worst)

    def give_back(self) -> None:
        """Cancel the calls that wait for their turn or for a retry; what is on the wire ends."""

        def cancel() -> None:
            self._stopping = True
            for call in self._calls - self._on_wire:
                call.cancel()

        self._loop.loop.call_soon_threadsafe(cancel)

    def cancel(self) -> None:
        """Cancel all calls."""

        def cancel() -> None:
            self._stopping = True
            for call in self._calls:
                call.cancel()

        self._loop.loop.call_soon_threadsafe(cancel)

    def close(self) -> None:
        """Nothing: the loop and the provider are shared, and the run's to close."""

    def _start(self, task: Task, worst: float) -> None:
        call = self._loop.loop.create_task(self._run(task, worst))
        # The loop keeps weak references alone.
        self._tasks.add(call)
        call.add_done_callback(self._tasks.discard)

    async def _run(self, task: Task, worst: float) -> None:
        sample: Sample = task.items[0]
        call = _current()
        self._calls.add(call)
        try:
            if self._stopping:
                self.account.passed += 1
                self._ledger.release(worst)
                raise asyncio.CancelledError
            done = Completed(task, (outcome_of(await self._ask(sample, worst)),))
        except asyncio.CancelledError:
            done = given_back(task, sent=call in self._sent)
        except Exception as error:  # noqa: BLE001 - a call that vanished would be waited for
            done = Completed(task, error=reason_of(error))
        finally:
            self._calls.discard(call)
            self._sent.discard(call)
        self.account.ended += 1
        self._mailbox.done(done)

    async def _ask(self, sample: Sample, worst: float) -> PromptResult:
        """The sample's result, after retries; `worst` is at stake until it is there."""
        retry = 0
        uncertain = 0.0
        while True:
            try:
                sent_at, tokens = await self.account.turn(lambda: self._expected(sample))
            except asyncio.CancelledError:
                self._ledger.release(worst)
                raise
            finally:
                self.account.passed += retry == 0
            if self.account.pacer.spacing > 0:
                # Another call may get in line now.
                self._mailbox.wake()
            try:
                answer = await self._call(sample)
            except InterlockError as error:
                failure = error
            except asyncio.CancelledError:
                self._ledger.release(worst, uncertain=worst)
                raise
            except Exception as error:  # noqa: BLE001 - a provider's own mistake fails this sample
                failure = EngineError(reason_of(error))
            else:
                result = self._answered(sample, answer, tokens, worst, sent_at, retry)
                if result.cost_usd is None:
                    # Billed, and nobody says how much; a resumed run must know of it too.
                    uncertain += worst
                result.uncertain_usd = uncertain or None
                return result
            seconds = self.account.clock.monotonic() - sent_at
            result = failed(sample, failure, seconds=seconds, retries=retry, price=self._price)
            # What was refused used no tokens; what may have run is taken to have used them, unless
            # the service counted them all the same.
            lost = maybe_billed(failure) and result.cost_usd is None
            used = result.tokens_used["total"] or (tokens if maybe_billed(failure) else 0.0)
            self.account.pacer.settle(tokens, used)
            self.account.failed(failure, sent_at)
            self._ledger.release(
                worst, spent=result.cost_usd or 0.0, uncertain=worst if lost else 0.0
            )
            uncertain += worst if lost else 0.0
            retry += 1
            again = self._may_retry(failure, retry)
            if not again or not self._ledger.reserve(worst):
                if again:
                    result.error_detail = f"{failure.message}; the budget had no room for a retry"
                elif asks_too_long(failure):
                    asked = getattr(failure, "wait_seconds", 0.0)
                    result.error_detail = (
                        f"{failure.message}; the service asks for a wait of {asked:.0f} s"
                    )
                result.uncertain_usd = uncertain or None
                return result
            wait = self._retry.wait_before(retry, failure, self._rng)
            self._mailbox.note(
                f"Retry {retry}/{self._retry.retries} after {wait:.0f}s: {words(failure)}"
            )
            try:
                if self._stopping:
                    raise asyncio.CancelledError
                await asyncio.sleep(wait)
            except asyncio.CancelledError:
                self._ledger.release(worst)
                raise

    async def _call(self, sample: Sample) -> ChatAnswer:
        seconds = self._variant.model.timeout or DEFAULT_TIMEOUT
        deadline = Deadline.after(seconds)
        call = _current()
        self._on_wire.add(call)
        self._sent.add(call)
        try:
            async with asyncio.timeout(seconds + BACKSTOP):
                return await self._provider.answer(sample.request, deadline=deadline)
        except TimeoutError:
            raise DeadlineError(f"no answer within {seconds:g} s") from None
        finally:
            self._on_wire.discard(call)

    def _answered(
        self,
        sample: Sample,
        answer: ChatAnswer,
        tokens: float,
        worst: float,
        sent_at: float,
        retries: int,
    ) -> PromptResult:
        seconds = self.account.clock.monotonic() - sent_at
        result = answered(sample, answer, seconds=seconds, retries=retries, price=self._price)
        cost = result.cost_usd
        if cost is None:
            self._ledger.release(worst, uncertain=worst)
        else:
            self._ledger.release(worst, spent=cost)
        usage = answer.usage
        if usage.input is not None and usage.output is not None:
            self.account.pacer.settle(tokens, usage.input + usage.output)
            self._learn(sample, usage.input, usage.output)
        self.account.answered()
        return result

    def _may_retry(self, error: InterlockError, retry: int) -> bool:
        if retry > self._retry.retries or asks_too_long(error):
            return False
        return error.retryable or (self._retry_timeouts and isinstance(error, DeadlineError))

    def _expected(self, sample: Sample) -> float:
        return prompt_bytes(sample.request) * self._ratio + self._output

    def _learn(self, sample: Sample, input_tokens: int, output_tokens: int) -> None:
        """Follow what prompts and answers really take."""
        self._known += 1
        weight = max(1 / self._known, 1 / ANSWERS_KEPT)
        self._output += weight * (output_tokens - self._output)
        ratio = input_tokens / max(1, prompt_bytes(sample.request))
        self._ratio += weight * (ratio - self._ratio)
