"""The pilot's Python interface: `PilotRunner`, `ModelRunner` and `RateLimiter`.

A program that was written for the pilot's script works with its import line changed. A new kind of
model is a `ModelRunner` with an `_execute_prompt` of its own, handed out by `_create_runner`.
"""

from __future__ import annotations

import math
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from interlock.engines.chat import ChatProvider, Sampling
from interlock.engines.chat_registry import make_chat_provider
from interlock.experiment.account import asks_too_long
from interlock.experiment.answers import Sample, answered, words
from interlock.experiment.config import DEFAULT_TIMEOUT, ModelConfig, expand_all, parse_config
from interlock.experiment.lane_async import LoopThread
from interlock.experiment.lanes import in_batches
from interlock.experiment.pacing import RequestPace
from interlock.experiment.plan import Variant, asked_sampling, request, sample_seed
from interlock.experiment.prices import FREE, Price, PriceTable
from interlock.experiment.prompts import Prompt
from interlock.experiment.recorded import timestamp
from interlock.experiment.records import PromptResult
from interlock.experiment.run import Runner, RunOptions, run_experiment
from interlock.kernel.clock import SYSTEM_CLOCK, Clock, Deadline
from interlock.kernel.errors import ConfigError, DeadlineError, InterlockError
from interlock.kernel.limits import RetryPolicy


class RateLimiter:
    """So many requests a minute, `burst_size` of them at once. 60 means 60 in any minute.

    Safe across threads. Raises ConfigError for a rate or a burst that lets nothing pass.
    """

    def __init__(
        self, requests_per_minute: float, burst_size: float = 1, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        for name, value in (
            ("requests_per_minute", requests_per_minute),
            ("burst_size", burst_size),
        ):
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}; it must be above 0 and finite")
        self._pace = RequestPace(requests_per_minute, burst_size, clock)
        self._clock = clock
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """Wait until one more request may be sent."""
        # Waiting with the lock held keeps the turns in order.
        with self._lock:
            while (wait := self._pace.delay()) > 0:
                self._clock.sleep(wait)
            self._pace.take()


class ModelRunner:
    """Asks one model one prompt at a time, with retries.

    Subclasses implement `_execute_prompt`. `max_retries` counts those after the first attempt,
    after waits of 1, 2, 4 … seconds and up to a tenth more.
    """

    def __init__(
        self,
        model_name: str,
        temperature: float | None = 0.0,
        seed: int = 42,
        max_retries: int = 3,
        rate_limiter: RateLimiter | None = None,
    ) -> None:
        self.model_name = model_name
        self.temperature = temperature
        self.seed = seed
        self.max_retries = max_retries
        self.rate_limiter = rate_limiter
        self.clock: Clock = SYSTEM_CLOCK
        self._retry = RetryPolicy(retries=max_retries, longest=math.ldexp(1.0, 20), jitter="added")
        self._rng = random.Random()

    def _execute_prompt(self, prompt: str, prompt_id: str) -> PromptResult:
        """Ask once; raise for a failure."""
        raise NotImplementedError(f"{type(self).__name__} lacks _execute_prompt")

    def run_prompt(self, prompt: str, prompt_id: str) -> PromptResult:
        """The result of one prompt. It never raises for a failure: that is a result too.

        An error that would come again, such as a 400, is not retried.
        """
        retry = 0
        while True:
            if self.rate_limiter is not None:
                self.rate_limiter.acquire()
            start = time.monotonic()
            try:
                result = self._execute_prompt(prompt, prompt_id)
            except NotImplementedError:
                raise
            except Exception as error:  # noqa: BLE001 - any failure is this prompt's result
                retry += 1
                if retry > self.max_retries or not _worth_a_retry(error):
                    return self._failed(prompt_id, error, retry - 1, time.monotonic() - start)
                wait = self._retry.wait_before(retry, error, self._rng)
                told = f"Retry {retry}/{self.max_retries} after {wait:.0f}s: {_words(error)}"
                print(told, file=sys.stderr, flush=True)
                self.clock.sleep(wait)
            else:
                result.retry_count = retry
                return result

    def _failed(
        self, prompt_id: str, error: Exception, retries: int, seconds: float
    ) -> PromptResult:
        tried = f"Failed after {retries} retries" if retries else "Failed"
        known = isinstance(error, InterlockError)
        return PromptResult(
            prompt_id=prompt_id,
            model=self.model_name,
            full_response="",
            tokens_used={"input": 0, "output": 0, "total": 0},
            model_version=self.model_name,
            sampling_params={"temperature": self.temperature, "seed": self.seed},
            timestamp=timestamp(datetime.now()),
            elapsed_seconds=seconds,
            error=f"{tried}: {_words(error)}",
            retry_count=retries,
            status="failed",
            error_type=error.code if isinstance(error, InterlockError) else "engine",
            # A foreign message may quote the prompt.
            error_detail=str(error) if known else f"raised {type(error).__name__}",
        )


def _words(error: Exception) -> str:
    return words(error) if isinstance(error, InterlockError) else type(error).__name__


def _worth_a_retry(error: Exception) -> bool:
    if asks_too_long(error):
        return False
    if isinstance(error, InterlockError):
        return error.retryable or isinstance(error, DeadlineError)
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in (408, 409, 425, 429)
    return not isinstance(error, TypeError | AttributeError | NameError | ValueError)


class ProviderRunner(ModelRunner):
    """A `ModelRunner` that asks a chat provider: what `_create_runner` hands out by itself."""

    def __init__(
        self,
        variant: Variant,
        *,
        seed: int = 42,
        max_retries: int = 3,
        rate_limiter: RateLimiter | None = None,
        base: Path | None = None,
    ) -> None:
        super().__init__(variant.model.name, variant.temperature, seed, max_retries, rate_limiter)
        self._variant = variant
        self._base = Path.cwd() if base is None else base
        self._loop: LoopThread | None = None
        self._provider: Any = None

    def _execute_prompt(self, prompt: str, prompt_id: str) -> PromptResult:
        """Ask the provider once."""
        model = self._variant.model
        if self._provider is None:
            options = expand_all(dict(model.options), f"model '{model.label}'")
            self._provider = make_chat_provider(model.type, options, base=self._base)
        asked = Prompt(id=prompt_id, text=prompt)
        sample = Sample(
            variant=self._variant,
            prompt=asked,
            index=0,
            request=request(self._variant, asked, 0, self.seed),
            seed=self.seed,
            run_id="",
        )
        start = time.monotonic()
        price: Price | None
        if in_batches(self._provider):
            deadline = Deadline.after(model.timeout)
            answer = self._provider.answer_batch([sample.request], deadline=deadline)[0]
            if isinstance(answer, InterlockError):
                raise answer
            price = FREE
        else:
            if self._loop is None:
                self._loop = LoopThread()
            provider: ChatProvider = self._provider
            deadline = Deadline.after(model.timeout or DEFAULT_TIMEOUT)
            answer = self._loop.run(provider.answer(sample.request, deadline=deadline))
            price = PriceTable().price(model)
        seconds = time.monotonic() - start
        return answered(sample, answer, seconds=seconds, retries=0, price=price)

    def close(self) -> None:
        """Release the model and its connections."""
        if self._provider is not None:
            if in_batches(self._provider):
                self._provider.close()
            elif self._loop is not None:
                self._loop.run(self._provider.close())
        if self._loop is not None:
            self._loop.close()
        self._provider = self._loop = None


class PilotRunner:
    """A run of a configuration over prompts into a directory.

    `config` is as in a configuration file. Calls run side by side, and every answer is in the
    journal before `run` goes on; see `interlock.experiment.run`.
    """

    def __init__(
        self, prompts_file: Path | str, output_dir: Path | str, config: Mapping[str, Any]
    ) -> None:
        self.prompts_file = Path(prompts_file)
        self.output_dir = Path(output_dir)
        self.config = dict(config)
        self._runners: dict[str, ModelRunner] = {}

    def run(self, resume: bool = False) -> None:
        """Ask what is not recorded yet, and write the result files.

        Raises UsageError where the directory holds an unfinished run and `resume` is false, and
        what `run_experiment` raises.
        """
        raw = {
            **self.config,
            "prompts_file": str(self.prompts_file),
            "output_dir": str(self.output_dir),
        }
        run_experiment(raw, options=RunOptions(resume=resume), runners=self._own_runner)

    def _create_runner(self, model_config: dict[str, Any]) -> ModelRunner:
        """The runner of one entry of `models`; override it for a kind of model of your own.

        Models whose runner is a plain `ProviderRunner` are asked side by side, not through it.
        """
        config = parse_config({**self.config, "models": [model_config]})
        model = config.models[0]
        rate = model.limits.get("requests_per_minute")
        return ProviderRunner(
            _variant(model, model.temperatures[0]),
            seed=config.seed,
            max_retries=config.max_retries,
            rate_limiter=None
            if rate is None
            else RateLimiter(rate, model.limits.get("burst_size", 1)),
        )

    def _own_runner(self, variant: Variant) -> Runner | None:
        entry = dict(variant.model.entry)
        entry["temperature"] = variant.temperature
        runner = self._create_runner(entry)
        if type(runner) is ProviderRunner:
            return None
        return _asking(runner, variant)


def _variant(model: ModelConfig, temperature: float | None) -> Variant:
    sampling: Sampling = replace(model.sampling, temperature=temperature)
    return Variant(f"{model.label}_temp{temperature}", model, temperature, sampling)


def _asking(runner: ModelRunner, variant: Variant) -> Callable[[Sample], PromptResult]:
    """What a lane calls: the runner's result, with what only the run knows filled in."""

    def ask(sample: Sample) -> PromptResult:
        start = time.monotonic()
        result = runner.run_prompt(sample.prompt.text, sample.prompt.id)
        result.timestamp = result.timestamp or timestamp(datetime.now())
        result.elapsed_seconds = result.elapsed_seconds or time.monotonic() - start
        if result.error and result.status == "accepted":
            result.status = "failed"
            result.error_type = result.error_type or "engine"
        result.seed = sample_seed(sample.seed, sample.prompt.id, sample.index)
        result.variant = variant.label
        if result.applied_sampling is None and not result.not_applied:
            # Not known is not the same as applied.
            sampling = replace(variant.sampling, seed=result.seed)
            result.not_applied = dict.fromkeys(asked_sampling(sampling), "the runner does not say")
        return result

    return ask
