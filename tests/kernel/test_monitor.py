"""The monitor counts what passes, in bounded memory, and monitors add up."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.counts import count
from support.routes import CHECKED, Judge, Says

from interlock.errors import ConfigError, InputError
from interlock.kernel.clock import ManualClock
from interlock.kernel.monitor import MONITOR_SCHEMA, OTHER, Monitor, Rate
from interlock.kernel.outcome import Outcome, Status, Step, StepResult
from interlock.kernel.route import BatchVerdict, Route, RouteStep

EXAMPLES = settings(max_examples=count(60, 1_000), deadline=None)


def counters(monitor: Monitor) -> dict[str, dict[str, int]]:
    """The counters of a snapshot."""
    found: dict[str, dict[str, int]] = monitor.snapshot()["counters"]
    return found


# What is counted


def test_an_outcome_is_counted_by_status_step_and_reason() -> None:
    monitor = Monitor()
    monitor.observe_outcome(
        Outcome(
            Status.ACCEPTED,
            value=1.0,
            steps=(
                Step("model", StepResult.REFUSED, "singular", 0.25, attempts=3),
                Step("analytic", StepResult.ACCEPTED, "", 0.5),
            ),
            evidence=CHECKED,
            route="arm",
        )
    )
    monitor.observe_outcome(
        Outcome(
            Status.FAILED,
            steps=(
                Step("model", StepResult.ERROR, "raised KeyError", 0.5),
                Step("analytic", StepResult.UNAVAILABLE, "no solver", attempts=0),
            ),
            route="arm",
            action="escalate",
        )
    )
    seen = monitor.snapshot()
    assert seen["counters"] == {
        "status": {"accepted": 1, "failed": 1},
        "evidence": {"checked": 1},
        "result": {
            "model: refused": 1,
            "analytic: accepted": 1,
            "model: error": 1,
            "analytic: unavailable": 1,
        },
        "reason": {"model: singular": 1},
        "retries": {"model": 2},
        "action": {"escalate": 1},
    }
    assert seen["rates"]["usable"]["arm"]["rate"] == 0.5
    assert seen["rates"]["answered"]["model"]["total"] == 2
    assert seen["rates"]["answered"]["analytic"]["rate"] == 1.0
    assert seen["quantiles"]["seconds"]["arm"]["max"] == 0.75
    assert seen["quantiles"]["step_seconds"]["model"]["count"] == 2
    assert json.loads(json.dumps(seen)) == seen


def test_a_batch_counts_its_rows_like_items_and_its_time_once() -> None:
    clock = ManualClock()
    judge = Judge(
        lambda inputs, answer: BatchVerdict(
            {"singular": inputs["x"] >= 3}, {"near": inputs["x"] == 2}, (CHECKED,)
        )
    )
    route: Route[Any, Any] = Route(
        "arm",
        (
            RouteStep("model", Says(np.ones(5), 0.5, clock), (judge,)),
            RouteStep("analytic", Says(np.array([1.0, math.nan]), 0.25, clock)),
        ),
        "refuse",
        clock=clock,
    )
    monitor = Monitor()
    outcome = route.run_batch({"x": np.arange(5)})
    monitor.observe_batch(outcome)
    seen = monitor.snapshot()
    assert seen["counters"] == {
        "status": {"accepted": 3, "flagged": 1, "refused": 1},
        "action": {"refuse": 1},
        "evidence": {"checked": 3, "none": 1},
        "result": {
            "model: accepted": 2,
            "model: flagged": 1,
            "model: refused": 2,
            "analytic: accepted": 1,
            "analytic: refused": 1,
        },
        "reason": {
            "model: singular": 2,
            "model: near": 1,
            "analytic: the value is not finite": 1,
        },
    }
    assert (seen["rates"]["usable"]["arm"]["successes"], len(outcome)) == (4, 5)
    assert seen["rates"]["answered"]["analytic"]["rate"] == 0.5
    assert seen["quantiles"]["batch_seconds"]["arm"]["sum"] == 0.75
    assert seen["quantiles"]["batch_rows"]["arm"]["max"] == 5
    monitor.observe_batch(route.run_batch({"x": np.empty(0)}))
    assert counters(monitor)["status"] == seen["counters"]["status"]


def test_a_batch_and_its_rows_are_counted_alike() -> None:
    judge = Judge(lambda inputs, answer: BatchVerdict({"no": inputs["x"] % 3 == 0}))
    route: Route[Any, Any] = Route(
        "arm",
        (RouteStep("model", Says(np.ones(9)), (judge,)), RouteStep("broken", Says(KeyError()))),
        "block",
    )
    outcome = route.run_batch({"x": np.arange(9)})
    batch, rows = Monitor(), Monitor()
    batch.observe_batch(outcome)
    for k in range(9):
        rows.observe_outcome(outcome.row(k))
    assert counters(batch) == counters(rows)
    assert batch.snapshot()["rates"] == rows.snapshot()["rates"]


# Rates


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        (0, 0, 0.0, 1.0),
        # R. G. Newcombe, "Two-sided confidence intervals for the single proportion",
        # Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilsons_interval_agrees_with_the_published_table(
    successes: int, total: int, low: float, high: float
) -> None:
    assert Rate(successes, total).interval() == pytest.approx((low, high), abs=5e-5)


@EXAMPLES
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0.01, 0.999))
def test_an_interval_holds_its_rate_and_lies_in_the_unit_interval(
    a: int, b: int, confidence: float
) -> None:
    rate = Rate(min(a, b), max(a, b))
    low, high = rate.interval(confidence)
    assert 0 <= low <= high <= 1
    if rate.value is not None:
        assert low <= rate.value <= high


@pytest.mark.parametrize(("successes", "total"), [(-1, 2), (3, 2), (0, -1)])
def test_a_rate_that_makes_no_sense_is_refused(successes: int, total: int) -> None:
    with pytest.raises(InputError, match="successes"):
        Monitor().rate("usable", successes, total)
    with pytest.raises(InputError):
        Monitor().count("status", by=-1)
    with pytest.raises(InputError, match="confidence"):
        Rate(1, 2).interval(1.0)


# Bounds


def test_labels_beyond_the_limit_are_counted_together() -> None:
    monitor = Monitor(labels=3)
    for k in range(10_000):
        monitor.count("reason", f"reason {k}")
        monitor.rate("usable", k % 2, 1, f"route {k}")
        if k < 50:
            monitor.observe("seconds", float(k), f"step {k}")
    seen = monitor.snapshot()
    assert seen["counters"]["reason"] == {
        "reason 0": 1,
        "reason 1": 1,
        "reason 2": 1,
        OTHER: 9_997,
    }
    assert seen["rates"]["usable"][OTHER]["total"] == 9_997
    assert seen["quantiles"]["seconds"][OTHER]["count"] == 47
    assert len(seen["quantiles"]["seconds"]) == 4


def test_the_state_stops_growing() -> None:
    """Hostile labels and values of every magnitude: the state has a ceiling."""
    monitor = Monitor(labels=4, bins=32)
    rng = np.random.default_rng(0)
    sizes = []
    for round_ in range(3):
        for k in range(400):
            monitor.count("reason", f"{round_} {k} " + "x" * 10_000)
            monitor.observe("seconds", 10.0 ** rng.uniform(-300, 300, 20), f"{round_} {k}")
        sizes.append(len(monitor.to_json()))
    assert max(sizes) < 12_000
    assert sizes[2] - sizes[1] < 400


def test_names_are_bounded_too() -> None:
    monitor = Monitor()
    for k in range(64):
        monitor.count(f"name {k}")
    with pytest.raises(ConfigError, match="64 names"):
        monitor.count("one more")
    monitor.count("name 0")


def test_a_monitor_that_makes_no_sense_is_refused() -> None:
    makers: list[Callable[[], Any]] = [
        lambda: Monitor(labels=0),
        lambda: Monitor(accuracy=2.0),
        lambda: Monitor(bins=0),
        lambda: Monitor().merge(Monitor(bins=64)),
    ]
    for make in makers:
        with pytest.raises(ConfigError):
            make()


# Workers and restarts

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["count", "rate", "observe"]),
        st.sampled_from(["a", "b", "c", "d"]),
        st.integers(0, 5),
    ),
    max_size=30,
)


def monitor_of(events: list[tuple[str, str, int]], labels: int = 8) -> Monitor:
    """A monitor that saw these events."""
    monitor = Monitor(labels=labels)
    for kind, label, number in events:
        if kind == "count":
            monitor.count("n", label, number)
        elif kind == "rate":
            monitor.rate("n", number, 5, label)
        else:
            monitor.observe("n", float(number), label)
    return monitor


@EXAMPLES
@given(EVENTS, EVENTS, EVENTS)
def test_monitors_of_several_workers_add_up_in_any_order(a: Any, b: Any, c: Any) -> None:
    whole = monitor_of(a + b + c).snapshot()
    for parts in ([a, b, c], [c, b, a], [b, c, a]):
        merged = Monitor(labels=8)
        for part in parts:
            merged.merge(monitor_of(part))
        assert merged.snapshot() == whole


@EXAMPLES
@given(EVENTS, EVENTS)
def test_merging_more_labels_than_are_kept_loses_no_count(a: Any, b: Any) -> None:
    merged = monitor_of(a, labels=2)
    merged.merge(monitor_of(b, labels=4))
    found, wanted = merged.snapshot(), monitor_of(a + b).snapshot()
    for family in ("counters", "rates", "quantiles"):
        for name, labels in found[family].items():
            assert len(labels) <= 3
            key = {"counters": None, "rates": "total", "quantiles": "count"}[family]
            totals = [
                sum(entry if key is None else entry[key] for entry in side.values())
                for side in (labels, wanted[family][name])
            ]
            assert totals[0] == totals[1]


def test_a_monitor_may_be_merged_with_itself() -> None:
    monitor = monitor_of([("count", "a", 3)])
    monitor.merge(monitor)
    assert counters(monitor) == {"n": {"a": 6}}


@EXAMPLES
@given(EVENTS, EVENTS)
def test_the_state_survives_a_restart(before: Any, after: Any) -> None:
    monitor = monitor_of(before)
    restarted = Monitor.from_json(monitor.to_json())
    assert restarted.snapshot() == monitor.snapshot()
    for other in (monitor, restarted):
        other.merge(monitor_of(after))
    assert restarted.to_json() == monitor.to_json()


def test_labels_beyond_the_limit_survive_a_restart() -> None:
    monitor = Monitor(labels=1)
    for label in ("b", "a", OTHER):
        monitor.count("n", label)
    assert Monitor.from_json(monitor.to_json()).to_json() == monitor.to_json()
    assert counters(monitor) == {"n": {"b": 1, OTHER: 2}}


def test_a_newer_schema_is_refused() -> None:
    with pytest.raises(InputError, match="reads up to"):
        Monitor.from_json(json.dumps({"schema": MONITOR_SCHEMA + 1}))


@pytest.mark.parametrize(
    "change",
    [
        {"labels": 0},
        {"labels": "8"},
        {"bins": 0},
        {"bins": 64},
        {"accuracy": 0},
        {"counters": {"n": {"a": -1}}},
        {"counters": {"n": {"a": 1.5}}},
        {"counters": {f"n{k}": {} for k in range(3)} | {f"m{k}": {"a": 1} for k in range(99)}},
        {"rates": {"n": {"a": [3, 2]}}},
        {"rates": {"n": {"a": [3]}}},
        {"sketches": {"n": {"a": {}}}},
        {"sketches": []},
        {"counters": {"$array": {"dtype": "<f4", "shape": [0], "base64": ""}}},
        {"schema": 0},
    ],
)
def test_a_document_that_is_no_monitor_is_refused(change: dict[str, Any]) -> None:
    document = json.loads(monitor_of([("observe", "a", 3), ("rate", "a", 2)]).to_json())
    with pytest.raises(InputError):
        Monitor.from_json(json.dumps(document | change))


@EXAMPLES
@given(st.binary(max_size=60) | st.text(max_size=60))
def test_garbage_raises_nothing_but_an_input_error(junk: bytes | str) -> None:
    with pytest.raises(InputError):
        Monitor.from_json(junk)


def test_threads_lose_nothing() -> None:
    monitor, mirror = Monitor(), Monitor()
    outcome: Outcome[float] = Outcome(
        Status.ACCEPTED, value=1.0, steps=(Step("model", StepResult.ACCEPTED, "", 0.1),), route="r"
    )

    def work() -> None:
        for _ in range(100):
            monitor.observe_outcome(outcome)
            mirror.observe_outcome(outcome)

    def cross() -> None:
        for _ in range(5):
            Monitor().merge(monitor)
            json.loads(monitor.to_json())
            monitor.snapshot()

    threads = [threading.Thread(target=target) for target in (work, work, work, cross, cross)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert counters(monitor)["status"] == {"accepted": 300}
    assert monitor.snapshot()["quantiles"]["seconds"]["r"]["count"] == 300
