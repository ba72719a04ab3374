"""What Prometheus reads: every label comes from a fixed set, or from a bounded one with "other"."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from interlock.engines.generate.request import GenerateResult
from interlock.kernel import errors
from interlock.kernel.batch import BatchOutcome
from interlock.kernel.outcome import StepResult
from interlock.serve.lane import Ran
from interlock.serve.served import Answer

OTHER = "other"
MOST_REASONS = 64
"""Reasons kept apart for each model; further ones are counted together as "other"."""

MOST_STEPS = 32
"""Steps kept apart for each model, in the same way: a worker names them."""

_LONGEST_REASON = 200
_NUMBER = re.compile(r"(?<![\w.])\d[\d.]*")
_RESULTS = frozenset(map(str, StepResult))
_CODES = frozenset(
    kind.code
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.InterlockError)
)

DETECTOR_STAGES = ("normalise", "rules", "windows", "model", "fuse", "spans")
"""Stages of a detector that are kept apart: labels must not come from a worker."""

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)


_SEEN_BY = {
    (True, True): "both",
    (True, False): "l1",
    (False, True): "l2",
    (False, False): "none",
}


class Metrics:
    """The metrics of one server, in a registry of their own. Safe across threads."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "interlock_requests", "Requests by endpoint and HTTP status.",
            ["endpoint", "code"], registry=registry,
        )  # fmt: skip
        self.request_seconds = Histogram(
            "interlock_request_seconds", "From the head of a request to the end of its answer.",
            ["endpoint"], buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.stage_seconds = Histogram(
            "interlock_stage_seconds", "Seconds of a stage; answer is queue and infer.",
            ["model", "stage"], buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.batch_rows = Histogram(
            "interlock_batch_rows", "Rows of an inference, after merging.",
            ["model"], buckets=_ROWS, registry=registry,
        )  # fmt: skip
        self.request_rows = Histogram(
            "interlock_request_rows", "Rows, and so predictions, of a request.",
            ["model"], buckets=_ROWS, registry=registry,
        )  # fmt: skip
        self.answers = Counter(
            "interlock_answers", "Rows by status.", ["model", "status"], registry=registry
        )
        self.reasons = Counter(
            "interlock_reasons", "Rows by step and reason.",
            ["model", "step", "reason"], registry=registry,
        )  # fmt: skip
        self.steps = Counter(
            "interlock_route_steps", "Rows by step of a route and what it came to.",
            ["model", "step", "result"], registry=registry,
        )  # fmt: skip
        self.errors = Counter(
            "interlock_errors", "Requests that ended in an error, by its code.",
            ["model", "code"], registry=registry,
        )  # fmt: skip
        self.load_seconds = Gauge(
            "interlock_model_load_seconds", "From opening a model to the end of its self-test.",
            ["model"], registry=registry,
        )  # fmt: skip
        self.load_bytes = Gauge(
            "interlock_model_load_read_bytes",
            "Bytes that the server and the model's processes had to fetch from disks to load it.",
            ["model"], registry=registry,
        )  # fmt: skip
        self.confidence = Histogram(
            "interlock_confidence", "Scores that a detector gave, by answer.",
            ["model"], buckets=_SHARES, registry=registry,
        )  # fmt: skip
        self.agreement = Counter(
            "interlock_detections", "Answers by which of rules (l1) and model (l2) saw an attack.",
            ["model", "seen_by"], registry=registry,
        )  # fmt: skip
        self.canary_seconds = Gauge(
            "interlock_canary_seconds", "Of the last inference for the health.",
            ["model"], registry=registry,
        )  # fmt: skip
        self.text_tokens = Counter(
            "interlock_text_tokens", "Tokens of texts: read, of those cached, and written.",
            ["model", "kind"], registry=registry,
        )  # fmt: skip
        self.first_token_seconds = Histogram(
            "interlock_text_first_token_seconds", "From a text's request to its first token.",
            ["model"], buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._reasons: dict[str, set[tuple[str, str]]] = {}
        self._steps: dict[str, set[str]] = {}
        self._children: dict[tuple[int, tuple[str, ...]], Any] = {}
        self._lock = threading.Lock()

    def of(self, metric: Any, *labels: str) -> Any:
        """`metric.labels(*labels)`, remembered: the library checks and locks for each look."""
        key = id(metric), labels
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child

    def stage(self, state: dict[str, Any], stage: str, began: float) -> None:
        """Note a stage of a request that began at that `time.perf_counter` and ends now."""
        seconds = time.perf_counter() - began
        state.setdefault("stages", []).append((stage, began, seconds))
        self.of(self.stage_seconds, state["model"], stage).observe(seconds)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def watch(self, read: Callable[[], Iterable[ModelState]]) -> None:
        """Show what `read` tells of each model whenever the metrics are asked for."""
        self.registry.register(_States(read))

    def ran(self, model: str, ran: Ran) -> None:
        """Count one inference of a lane."""
        self.of(self.batch_rows, model).observe(ran.rows)
        self.of(self.stage_seconds, model, "infer").observe(ran.seconds)
        for wait in ran.waits:
            self.of(self.stage_seconds, model, "queue").observe(wait)

    def answered(self, model: str, rows: int, answer: Answer) -> None:
        """Count the rows of an answer by status, and by each step's result and reason."""
        self.of(self.request_rows, model).observe(rows)
        outcome = answer.outcome
        for found in answer.detections:
            for stage in DETECTOR_STAGES:
                if stage in found.timings:
                    seconds = found.timings[stage] / 1e3
                    self.of(self.stage_seconds, model, stage).observe(seconds)
            if found.score is None:
                continue
            self.of(self.confidence, model).observe(found.score)
            self.of(self.agreement, model, _SEEN_BY[found.by_rules, found.by_model]).inc()
        if not isinstance(outcome, BatchOutcome):
            self.of(self.answers, model, str(outcome.status)).inc()
            for single in outcome.steps:
                name = self._step(model, single.name)
                self.of(self.steps, model, name, str(single.result)).inc()
                self._reason(model, name, single.reason, 1)
            return
        for status, number in outcome.counts().items():
            if number:
                self.of(self.answers, model, str(status)).inc(number)
        for step in outcome.steps:
            name = self._step(model, step.name)
            for result, number in step.counts.items():
                known = result if result in _RESULTS else OTHER
                self.of(self.steps, model, name, known).inc(max(0, number))
            for reason, number in step.reasons.items():
                for told in _told(reason) if answer.detections else (reason,):
                    self._reason(model, name, told, max(0, number))

    def wrote(self, model: str, found: GenerateResult) -> None:
        """Count the tokens and times of a text."""
        usage = found.usage
        for kind, tokens in (
            ("read", usage.input),
            ("cached", usage.cached),
            ("written", usage.output),
        ):
            self.text_tokens.labels(model, kind).inc(tokens or 0)
        self.first_token_seconds.labels(model).observe(found.waiting_seconds + found.prompt_seconds)

    def _step(self, model: str, step: str) -> str:
        with self._lock:
            known = self._steps.setdefault(model, set())
            if step not in known:
                if len(known) >= MOST_STEPS:
                    return OTHER
                known.add(step)
        return step

    def _reason(self, model: str, step: str, reason: str, rows: int) -> None:
        if not reason:
            return
        code, told, _ = reason.partition(": ")
        # An error's message may name a place or a value of what a client sent.
        reason = code if told and code in _CODES else reason[:_LONGEST_REASON]
        with self._lock:
            known = self._reasons.setdefault(model, set())
            if (step, reason) not in known:
                if len(known) >= MOST_REASONS:
                    reason = OTHER
                else:
                    known.add((step, reason))
        self.of(self.reasons, model, step, reason).inc(rows)


def _told(reason: str) -> list[str]:
    """What a detector gives as reasons, one by one and without numbers.

    With its score each text would have a reason of its own, and use up `MOST_REASONS`.
    """
    return _NUMBER.sub("#", reason).split("; ")


@dataclass
class ModelState:
    """What a scrape asks of a model at that moment.

    pids, rss             its processes: how many, and resident bytes
    cpu, lost             of all that ever ran, in any version: CPU seconds, and how many died in a
                          call
    digest                of what runs; empty where nothing does
    """

    name: str
    ready: bool = False
    waiting: int = 0
    running: int = 0
    pids: int = 0
    rss: int = 0
    cpu: float = 0.0
    lost: int = 0
    digest: str = ""


class _States(Collector):
    def __init__(self, read: Callable[[], Iterable[ModelState]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
            "ready": GaugeMetricFamily("interlock_model_ready", "1 where ready.", labels=["model"]),
            "waiting": GaugeMetricFamily(
                "interlock_queue_requests", "Requests that wait.", labels=["model"]
            ),
            "running": GaugeMetricFamily(
                "interlock_running_requests", "Requests being answered.", labels=["model"]
            ),
            "pids": GaugeMetricFamily(
                "interlock_worker_processes", "Processes that run.", labels=["model"]
            ),
            "rss": GaugeMetricFamily(
                "interlock_worker_resident_bytes", "Resident memory of them.", labels=["model"]
            ),
            "cpu": CounterMetricFamily(
                "interlock_worker_cpu_seconds", "CPU seconds of all of them.", labels=["model"]
            ),
            "lost": CounterMetricFamily(
                "interlock_worker_replaced", "Processes that died in a call.", labels=["model"]
            ),
        }
        info = GaugeMetricFamily(
            "interlock_model_info", "1, with the digest of what runs.", labels=["model", "digest"]
        )
        for state in self._read():
            info.add_metric([state.name, state.digest], 1.0)
            for field, family in families.items():
                family.add_metric([state.name], float(getattr(state, field)))
        return [*families.values(), info]

    def describe(self) -> Iterable[Metric]:
        return ()
