"""What Prometheus reads of rollouts; labels are the models, two versions, and fixed words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from interlock.serve.rollout.evidence import TRIGGERS
from interlock.serve.rollout.record import OPERATOR, trigger_of
from interlock.serve.rollout.store import Decision

if TYPE_CHECKING:
    from interlock.serve.hosting import Hosted

_OUTCOMES = {
    (True, True): "true_positive",
    (True, False): "false_positive",
    (False, True): "false_negative",
    (False, False): "true_negative",
}


class RolloutMetrics:
    """Counters of decisions and labels, and what runs at the moment of a scrape."""

    def __init__(self, registry: CollectorRegistry, models: Iterable[Hosted]) -> None:
        self._decisions = Counter(
            "interlock_rollout_decisions", "Decisions by what triggered them; else \"operator\".",
            ["model", "decision", "trigger"], registry=registry,
        )  # fmt: skip
        self._labels = Counter(
            "interlock_feedback", "Labelled rows by version and what the label makes of them.",
            ["model", "version", "outcome"], registry=registry,
        )  # fmt: skip
        models = list(models)
        for model in models:
            # A series that begins with its first rollback shows Prometheus no increase.
            for trigger in (*TRIGGERS, OPERATOR):
                for decision in ("rolled_back", "held"):
                    self._decisions.labels(model.name, decision, trigger)
            # Nor has one that begins with its first false positive a day before it to compare with.
            for version in ("stable", "candidate"):
                for outcome in _OUTCOMES.values():
                    self._labels.labels(model.name, version, outcome)
        registry.register(_Running(models))

    def decided(self, decision: Decision) -> None:
        """Count a decision."""
        self._decisions.labels(decision.model, decision.decision, trigger_of(decision)).inc()

    def labelled(self, model: str, candidate: bool, verdict: bool, truth: bool) -> None:
        """Count a labelled row."""
        version = "candidate" if candidate else "stable"
        self._labels.labels(model, version, _OUTCOMES[verdict, truth]).inc()


class _Running(Collector):
    def __init__(self, models: Iterable[Hosted]) -> None:
        self._models = list(models)

    def collect(self) -> Iterable[Metric]:
        percent = GaugeMetricFamily(
            "interlock_rollout_percent", "Clients that a canary takes; 0 for a shadow or none.",
            labels=["model"],
        )  # fmt: skip
        active = GaugeMetricFamily(
            "interlock_rollout_active", "1 while two versions run.", labels=["model", "mode"]
        )
        fault = GaugeMetricFamily(
            "interlock_rollout_fault", "1 where decisions cannot be recorded.", labels=["model"]
        )
        resident = GaugeMetricFamily(
            "interlock_rollout_resident_bytes", "Resident memory of a version's processes.",
            labels=["model", "version"],
        )  # fmt: skip
        asked = GaugeMetricFamily(
            "interlock_rollout_requests", "Requests of the rollout under way, by version.",
            labels=["model", "version"],
        )  # fmt: skip
        shadow = GaugeMetricFamily(
            "interlock_rollout_shadow_requests",
            "Of the rollout under way: compared, same, dropped under load, failed.",
            labels=["model", "result"],
        )  # fmt: skip
        retiring = GaugeMetricFamily(
            "interlock_retiring_versions", "Versions that answer their last requests.",
            labels=["model"],
        )  # fmt: skip
        for hosted in self._models:
            traffic = hosted.traffic
            watch = None if traffic is None else traffic.watch
            fault.add_metric([hosted.name], float(bool(hosted.fault)))
            retiring.add_metric([hosted.name], hosted.retiring)
            for mode in ("shadow", "canary"):
                running = watch is not None and watch.mode == mode
                active.add_metric([hosted.name, mode], float(running))
            if traffic is None or watch is None:
                percent.add_metric([hosted.name], 0.0)
                continue
            percent.add_metric([hosted.name], traffic.percent if watch.mode == "canary" else 0.0)
            for name, version in (("stable", traffic.stable), ("candidate", traffic.candidate)):
                rss = 0 if version is None else version.served.workers().rss
                resident.add_metric([hosted.name, name], float(rss))
                asked.add_metric([hosted.name, name], watch.asked[name])
            for result, number in watch.shadow.items():
                shadow.add_metric([hosted.name, result], number)
        return (percent, active, fault, resident, asked, shadow, retiring)

    def describe(self) -> Iterable[Metric]:
        return ()
