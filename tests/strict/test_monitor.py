"""The monitor counts what the masks say, notices drift once, and its state survives and merges."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.counts import count

from interlock.errors import ConfigError, InputError, StorageError
from interlock.kernel.events import read_events
from interlock.strict import (
    CalibratedRate,
    InferenceConfig,
    JsonlLogger,
    StrictInferenceMonitor,
    strict_inference,
)

EXAMPLES = settings(max_examples=count(60, 1_000), deadline=None)

BOTTOM = np.array([True, False, False, True, False])
GAP = np.array([False, True, False, False, False])
CALIBRATED = CalibratedRate(accepted=900, n=1_000)


def masks(rng: np.random.Generator, rows: int, bottom_rate: float) -> tuple[Any, Any]:
    """Bottom at the given rate, and half of that in the gap."""
    draw = rng.random(rows)
    return draw < bottom_rate, (draw >= bottom_rate) & (draw < 1.5 * bottom_rate)


# What is counted


def test_the_seed_snippet(tmp_path: Path) -> None:
    config = InferenceConfig(tau_infer=0.125, tau_train=0.5)
    result = strict_inference(np.ones(3), np.array([0.0, 0.25, 1.0]), config=config)
    _, bottom_mask, gap_mask = result

    events = JsonlLogger(tmp_path / "strict_inference_events.jsonl")
    monitor = StrictInferenceMonitor(
        bundle_id="robotics_rr_ik_v1",
        event_logger=events,
        acceptance_rate_drift_threshold=0.1,
    )
    monitor.update(bottom_mask, gap_mask)
    rates = monitor.rates()
    state = monitor.export_state(include_histograms=True, include_batch_summaries=True)

    assert rates["bottom_rate"] == rates["gap_rate"] == 1 / 3
    assert state["batch_summaries"][0]["accept_count"] == 2
    assert [event["event"] for event in read_events(events.path)] == ["gap-trigger"]


def test_the_gap_is_accepted_and_counted_apart() -> None:
    monitor = StrictInferenceMonitor("B")
    monitor.update(BOTTOM, GAP, route_mask=BOTTOM | GAP, q_abs=np.array([0, 2, 9, np.nan, 5.0]))
    assert monitor.rates() == {
        "bundle_id": "B",
        "n": 5,
        "bottom_rate": 0.4,
        "gap_rate": 0.2,
        "accept_rate": 0.6,
        "accept_rate_excluding_gap": 0.4,
        "row_accept_rate": 0.6,
        "route_rate": 0.6,
        "denominator_min": 0.0,
    }
    state = monitor.export_state()
    assert (state["n_accept"], state["n_accept_excluding_gap"]) == (3, 2)
    assert state["q_abs"]["nan"] == 1
    assert state["q_abs"]["max"] == 9


def test_elements_are_rates_and_rows_are_what_drift_looks_at() -> None:
    monitor = StrictInferenceMonitor("B", calibration=CALIBRATED)
    bottom = np.array([[True, True, False], [False, False, False], [False, True, False]])
    monitor.update(bottom, np.array([[0, 0, 0], [1, 1, 1], [0, 0, 1]], dtype=bool))
    state = monitor.export_state()
    assert (state["n"], state["n_bottom"], state["n_gap"]) == (9, 3, 4)
    assert (state["n_rows"], state["n_rows_accepted"]) == (3, 1)
    assert (state["drift"]["rows"], state["drift"]["row_accept_rate"]) == (3, 1 / 3)


@given(st.integers(0, 5), st.integers(0, 40), st.integers(0, 3), st.integers(0, 2**32 - 1))
@EXAMPLES
def test_counts_are_those_of_numpy(leading: int, width: int, deep: int, seed: int) -> None:
    """Any number of axes, of any length, contiguous or not, small or large."""
    rng = np.random.default_rng(seed)
    shape = (leading * 7, width, *(2,) * deep)[: 1 + deep + (width > 0)]
    draw = rng.random(shape)
    bottom, gap = np.asfortranarray(draw < 0.3), (draw > 0.8)[::-1][::-1]
    monitor = StrictInferenceMonitor()
    monitor.update(bottom, gap)
    state = monitor.export_state()
    assert state["n"] == draw.size
    assert (state["n_bottom"], state["n_gap"]) == (bottom.sum(), gap.sum())
    assert state["n_rows"] == len(draw)
    kept = (~bottom).reshape(len(draw), int(np.prod(shape[1:]))).all(axis=1)
    assert state["n_rows_accepted"] == kept.sum()


@pytest.mark.parametrize("rows", [65_536, 100_003, 1_000_000])
@pytest.mark.parametrize("bottom_rate", [0.0, 0.1, 0.6, 1.0])
def test_counts_of_large_batches_are_those_of_numpy(rows: int, bottom_rate: float) -> None:
    bottom, gap = masks(np.random.default_rng(9), rows + 3, bottom_rate)
    for start, step in ((0, 1), (3, 1), (0, 2)):
        part = slice(start, None, step)
        monitor = StrictInferenceMonitor()
        monitor.update(bottom[part], gap[part])
        state = monitor.export_state()
        assert state["n_bottom"] == np.count_nonzero(bottom[part])
        assert state["n_gap"] == np.count_nonzero(gap[part])


@pytest.mark.parametrize("rows", [1, 256, 257, 65_536, 1_000_003])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_overlap_is_found_wherever_it_is(rows: int, order: Any) -> None:
    for place in {0, rows // 2, max(rows - 1, 0)}:
        bottom, gap = np.zeros((2, rows, 2), bool)
        bottom[place, 1] = gap[place, 1] = True
        gap[rows - 1 - place, 0] = True
        monitor = StrictInferenceMonitor()
        with pytest.raises(InputError, match="overlap"):
            monitor.update(np.asarray(bottom, order=order), np.asarray(gap, order=order))
        assert monitor.rates()["n"] == 0


def test_a_single_element_and_an_empty_batch() -> None:
    monitor = StrictInferenceMonitor(calibration=CALIBRATED)
    assert monitor.rates()["accept_rate"] is None
    monitor.update(np.zeros(0, bool), np.zeros(0, bool), q_abs=np.zeros(0))
    monitor.update(np.zeros((0, 3), bool), np.zeros((0, 3), bool), q_abs=np.zeros((0, 1)))
    assert monitor.rates()["accept_rate"] is None
    monitor.update(np.array(True), np.array(False), q_abs=np.array(0.5))
    state = monitor.export_state(include_batch_summaries=True)
    assert (state["n_updates"], state["n"], state["n_rows"], state["bottom_rate"]) == (3, 1, 1, 1)
    assert state["batch_summaries"][0]["accept_rate"] is None
    assert json.loads(json.dumps(state)) == state


def test_a_large_batch_gives_its_minimum_and_a_sample_of_denominators() -> None:
    monitor = StrictInferenceMonitor()
    q_abs = np.random.default_rng(4).uniform(1, 2, 100_001)
    q_abs[777], q_abs[778] = 1e-9, np.nan
    monitor.update(np.zeros(100_001, bool), q_abs=q_abs)
    state = monitor.export_state()
    assert state["denominator_min"] == 1e-9
    assert 4_000 <= state["q_abs"]["count"] <= 4_096
    assert state["q_abs"]["p50"] == pytest.approx(1.5, abs=0.03)


def test_masks_and_codes_of_provenance_count_alike() -> None:
    by_mask, by_code, by_both = (StrictInferenceMonitor() for _ in range(3))
    bottom = np.array([True, True, True, False])
    fault, semantic = np.array([[1, 0, 1, 1], [0, 1, 1, 0]], dtype=bool)
    by_mask.update(bottom, fault_mask=fault, semantic_bottom_mask=semantic)
    codes = np.array([1, 2, 3, 1], np.uint8)
    by_code.update(bottom, bottom_provenance=codes)
    by_both.update(bottom, fault_mask=fault, semantic_bottom_mask=semantic, bottom_provenance=codes)
    assert by_mask.export_state() == by_code.export_state() == by_both.export_state()
    state = by_mask.export_state()
    assert (state["n_fault"], state["n_semantic_bottom"], state["n_gap_updates"]) == (2, 2, 0)


def test_an_entry_a_row_stands_for_the_whole_row() -> None:
    monitor = StrictInferenceMonitor()
    bottom = np.array([[True, True], [False, False]])
    monitor.update(bottom, np.array([False, True]), route_mask=np.array([True, False]))
    rates = monitor.rates()
    assert (rates["gap_rate"], rates["route_rate"]) == (0.5, 0.5)


def test_histograms_and_summaries() -> None:
    monitor = StrictInferenceMonitor(summaries=2)
    for _ in range(3):
        monitor.update(BOTTOM, GAP)
    monitor.update(np.zeros(1_000, bool), np.zeros(1_000, bool))
    state = monitor.export_state(include_histograms=True, include_batch_summaries=True)
    assert state["histograms"] == {
        "batch_size": {"5": 3, "992": 1},
        "batch_bottom_count": {"0": 1, "2": 3},
        "batch_gap_count": {"0": 1, "1": 3},
    }
    assert [batch["update_index"] for batch in state["batch_summaries"]] == [3, 4]
    assert "histograms" not in monitor.export_state()


@pytest.mark.torch
def test_tensors_count_like_arrays() -> None:
    import torch

    arrays, tensors = StrictInferenceMonitor(), StrictInferenceMonitor()
    q_abs = np.array([0.25, 0.5, 1, 2, 4])
    for shape in ((5,), (5, 1)):
        bottom, gap, q = (array.reshape(shape) for array in (BOTTOM, GAP, q_abs))
        arrays.update(bottom, gap, route_mask=bottom, q_abs=q)
        b, g, t = (torch.from_numpy(array) for array in (bottom, gap, q))
        tensors.update(b, g, route_mask=b, q_abs=t.requires_grad_())
    assert arrays.to_json() == tensors.to_json()


# What is refused


@pytest.mark.parametrize(
    ("masks", "others"),
    [
        ((BOTTOM, GAP[:4]), {}),
        ((BOTTOM, GAP[:, None]), {}),
        ((BOTTOM[:, None], GAP[None, :]), {}),
        ((BOTTOM, BOTTOM), {}),
        ((np.tile(BOTTOM, 200), np.tile(BOTTOM, 200)), {}),
        ((BOTTOM.astype(int), GAP), {}),
        ((BOTTOM, GAP.astype(float)), {}),
        ((BOTTOM.tolist(), GAP), {}),
        ((None, GAP), {}),
        ((np.ma.masked_array(BOTTOM, BOTTOM), GAP), {}),
        ((BOTTOM, GAP), {"route_mask": BOTTOM[:2]}),
        ((BOTTOM, GAP), {"q_abs": np.ones(4)}),
        ((BOTTOM, GAP), {"q_abs": -np.ones(5)}),
        ((BOTTOM, GAP), {"q_abs": np.ones(5, complex)}),
        ((BOTTOM, GAP), {"fault_mask": BOTTOM}),
        ((BOTTOM, GAP), {"semantic_bottom_mask": BOTTOM}),
        ((BOTTOM, GAP), {"bottom_provenance": np.full(5, 4)}),
        ((BOTTOM, GAP), {"bottom_provenance": np.full(5, -1)}),
        ((BOTTOM, GAP), {"bottom_provenance": np.zeros(5)}),
        ((BOTTOM, GAP), {"bottom_provenance": np.zeros(5, int), "fault_mask": BOTTOM}),
        (
            (BOTTOM, GAP),
            {
                "bottom_provenance": BOTTOM.astype(int),
                "fault_mask": GAP,
                "semantic_bottom_mask": BOTTOM,
            },
        ),
        ((BOTTOM, GAP), {"numerical_hazard_mask": GAP[:1]}),
    ],
)
def test_what_does_not_belong_together_is_refused_and_not_counted(
    masks: tuple[Any, Any], others: dict[str, Any]
) -> None:
    monitor = StrictInferenceMonitor(calibration=CALIBRATED)
    before = monitor.to_json()
    with pytest.raises(InputError):
        monitor.update(*masks, **others)
    assert monitor.to_json() == before


@pytest.mark.parametrize(
    "options",
    [
        {"acceptance_rate_drift_threshold": 0.0},
        {"acceptance_rate_drift_threshold": 1.5},
        {"acceptance_rate_drift_threshold": float("nan")},
        {"summaries": -1},
        {"calibration": CalibratedRate(2, 1)},
        {"calibration": {"accepted": 1, "n": 2}},
        {"calibration": CALIBRATED, "false_alarm_rate": 0.0},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        StrictInferenceMonitor("B", **options)


def test_counts_of_numpys_integers_are_a_calibration_too() -> None:
    counts = np.array([1_900, 2_000])
    monitor = StrictInferenceMonitor("B", calibration=CalibratedRate(*counts))
    assert StrictInferenceMonitor.from_json(monitor.to_json()).rates() == monitor.rates()


# Events


def test_triggers_and_the_jump_between_two_batches() -> None:
    events: list[Mapping[str, Any]] = []
    monitor = StrictInferenceMonitor("B", events.append, acceptance_rate_drift_threshold=0.4)
    monitor.update(BOTTOM, GAP, route_mask=BOTTOM)
    monitor.update(np.zeros(5, bool), np.zeros(5, bool))
    monitor.update(np.zeros(0, bool), np.zeros(0, bool))
    assert [event["event"] for event in events] == [
        "gap-trigger",
        "route-trigger",
        "acceptance-rate-drift",
    ]
    assert events[1] == {
        "event": "route-trigger",
        "bundle_id": "B",
        "update_index": 1,
        "batch_size": 5,
        "running_accept_rate": 0.6,
        "count": 2,
        "rate": 0.4,
    }
    assert events[2]["previous_accept_rate"] == 0.6
    assert events[2]["delta"] == 0.4
    assert events[2]["direction"] == "increase"


def test_a_jump_of_exactly_the_threshold_counts() -> None:
    events: list[Mapping[str, Any]] = []
    monitor = StrictInferenceMonitor("B", events.append, acceptance_rate_drift_threshold=0.1)
    for bottom in (1, 2, 3, 2):
        monitor.update(np.arange(10) < bottom)
    assert [event.get("direction") for event in events] == ["decrease", "decrease", "increase"]
    monitor.update(np.arange(100) < 29)  # nine points
    assert len(events) == 3


def test_drift_from_the_calibration_is_one_event_until_it_is_reset(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    log = JsonlLogger(tmp_path / "events.jsonl")
    monitor = StrictInferenceMonitor("B", log, calibration=CALIBRATED)

    def alarms() -> list[dict[str, Any]]:
        return [e for e in read_events(log.path) if e["event"] == "calibration-drift"]

    for _ in range(200):
        monitor.update(masks(rng, 64, 0.1)[0])
    assert alarms() == []
    assert monitor.rates()["drift_alarm"] is None
    for _ in range(50):
        monitor.update(masks(rng, 64, 0.9)[0])
    (event,) = alarms()
    assert event["alarm"] == monitor.rates()["drift_alarm"] == "fall"
    assert event["low"] < 0.9 < event["high"]
    assert event["false_alarm_rate"] == 0.01
    assert event["log_e"] >= event["log_needed"]
    monitor.reset_drift()
    assert monitor.rates()["drift_alarm"] is None
    for _ in range(50):
        monitor.update(masks(rng, 64, 0.9)[0])
    assert len(alarms()) == 2


def test_an_alarm_that_no_logger_took_is_sent_again() -> None:
    sent: list[Mapping[str, Any]] = []
    full = [True]

    def logger(event: Mapping[str, Any]) -> None:
        if full[0]:
            raise StorageError("the disk is full")
        sent.append(event)

    monitor = StrictInferenceMonitor("B", logger, calibration=CALIBRATED)
    bottom = np.ones(1_000, bool)
    with pytest.raises(StorageError):
        monitor.update(bottom)
    assert monitor.rates()["n"] == 1_000
    full[0] = False
    monitor.update(bottom)
    monitor.update(bottom)
    assert [event["event"] for event in sent] == ["calibration-drift"]


def test_a_certificate_that_does_not_say_how_its_threshold_was_chosen_is_taken_at_its_worst() -> (
    None
):
    class Certificate:
        accepted, n = 900, 1_000

    known = StrictInferenceMonitor(calibration=CALIBRATED).export_state()["drift"]
    unknown = StrictInferenceMonitor(calibration=Certificate()).export_state()["drift"]
    assert unknown["low"] < known["low"] < known["high"] < unknown["high"]


def test_threads_lose_no_count_and_send_one_alarm() -> None:
    events: list[Mapping[str, Any]] = []
    monitor = StrictInferenceMonitor("B", events.append, calibration=CALIBRATED)

    def serve() -> None:
        for _ in range(300):
            monitor.update(BOTTOM)

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert monitor.export_state()["n_bottom"] == 4 * 300 * 2
    assert [event["event"] for event in events] == ["calibration-drift"]


# State


def fed(seed: int, batches: int, *, bundle_id: str = "B") -> StrictInferenceMonitor:
    """A monitor that saw some batches."""
    rng = np.random.default_rng(seed)
    monitor = StrictInferenceMonitor(bundle_id, calibration=CALIBRATED, summaries=4)
    for _ in range(batches):
        bottom, gap = masks(rng, int(rng.integers(0, 90)), 0.1)
        others = (
            {"route_mask": bottom, "q_abs": rng.random(len(bottom))} if rng.random() < 0.5 else {}
        )
        monitor.update(bottom, gap, **others)
    return monitor


@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
@EXAMPLES
def test_a_monitor_read_back_goes_on_as_if_nothing_had_been(seed: int, batches: int) -> None:
    monitor = fed(seed, batches)
    read = StrictInferenceMonitor.from_json(monitor.to_json())
    for each in (monitor, read):
        each.update(np.tile(BOTTOM, 50), np.tile(GAP, 50))
    assert read.to_json() == monitor.to_json()
    everything = {"include_histograms": True, "include_batch_summaries": True}
    assert read.export_state(**everything) == monitor.export_state(**everything)


def test_a_file_keeps_the_state_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "monitor.json"
    events: list[Mapping[str, Any]] = []
    monitor = fed(1, 5)
    monitor.save(path)
    restarted = StrictInferenceMonitor.load(path, event_logger=events.append)
    assert restarted.to_json() == monitor.to_json()
    restarted.update(np.ones(2_000, bool))
    assert [event["event"] for event in events] == ["calibration-drift"]
    restarted.save(path)
    again = StrictInferenceMonitor.load(path, event_logger=events.append)
    again.update(np.ones(2_000, bool))
    assert len(events) == 1  # the alarm was announced before the restart
    with pytest.raises(StorageError):
        StrictInferenceMonitor.load(tmp_path / "absent.json")


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 6)), min_size=3, max_size=3))
@EXAMPLES
def test_workers_merge_in_any_order_and_grouping(seen: list[tuple[int, int]]) -> None:
    def merged(*monitors: StrictInferenceMonitor) -> StrictInferenceMonitor:
        first, *rest = monitors
        for other in rest:
            first.merge(other)
        return first

    def worker(k: int) -> StrictInferenceMonitor:
        return fed(*seen[k])

    left = merged(merged(worker(0), worker(1)), worker(2)).export_state(include_histograms=True)
    right = merged(worker(2), merged(worker(1), worker(0))).export_state(include_histograms=True)
    log_e = [state["drift"].pop("log_e") for state in (left, right)]
    assert log_e[0] == pytest.approx(log_e[1], abs=1e-9)
    assert left == right
    assert left["n"] == sum(fed(*each).rates()["n"] for each in seen)


def test_merging_does_not_touch_the_other_and_a_monitor_merges_into_itself() -> None:
    one, other = fed(1, 5), fed(2, 5)
    before = other.to_json()
    one.merge(other)
    assert other.to_json() == before
    n = one.rates()["n"]
    one.merge(one)
    assert one.rates()["n"] == 2 * n


def test_monitors_of_different_things_do_not_merge() -> None:
    for other in (
        fed(1, 1, bundle_id="another"),
        StrictInferenceMonitor("B"),
        StrictInferenceMonitor("B", calibration=CalibratedRate(899, 1_000)),
    ):
        monitor = fed(1, 1)
        before = monitor.to_json()
        with pytest.raises(ConfigError):
            monitor.merge(other)
        assert monitor.to_json() == before


def test_the_state_does_not_grow() -> None:
    rng = np.random.default_rng(8)
    monitor = StrictInferenceMonitor("B", calibration=CALIBRATED)

    def serve(batches: int) -> int:
        for _ in range(batches):
            bottom, gap = masks(rng, int(rng.integers(0, 3_000)), rng.random() * 0.2)
            monitor.update(bottom, gap, q_abs=10 ** rng.uniform(-300, 300, len(bottom)))
        return len(monitor.to_json())

    size = serve(1_000)
    assert size < 100_000
    assert serve(2_000) < 1.1 * size


def test_what_is_no_monitor_is_refused() -> None:
    good = json.loads(fed(1, 3).to_json())

    def broken(**changes: Any) -> dict[str, Any]:
        return {**good, "tally": {**good["tally"], **changes}}

    for plain in (
        {},
        {"schema": 99},
        good | {"schema": 99},
        good | {"tally": None},
        good | {"acceptance_rate_drift_threshold": -1.0},
        broken(n=-1),
        broken(bottom=10**9),
        broken(rows_accepted=10**9),
        broken(sides={"other": [1, 1]}),
        broken(sides={"gap": [99, 1]}),
        broken(sides={"$array": {"dtype": "<f4", "shape": [0], "base64": ""}}),
        broken(q_abs_min=-1.0),
        broken(histograms={"batch_size": [[1, -1]]}),
        broken(batches=[[1, 1, 1, {}]] * 9),
        good | {"drift": good["drift"] | {"log_kept": "much"}},
    ):
        with pytest.raises(InputError):
            StrictInferenceMonitor.from_json(json.dumps(plain))
    with pytest.raises(InputError):
        StrictInferenceMonitor.from_json(b"\x00")
