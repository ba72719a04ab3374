"""Planted faults: whatever breaks a promise of the demonstration is named, on the page as well."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interlock.demo import arm, journalled, page, tamper
from interlock.demo.arm import serve
from interlock.demo.found import Demo
from interlock.demo.journalled import Resumed
from interlock.demo.summaries import Summaries
from interlock.demo.tamper import Refusal
from interlock.errors import BundleContractError
from interlock.kernel.batch import Array
from interlock.kernel.outcome import Status
from interlock.kernel.route import BatchAnswer, BatchVerdict
from interlock.report.page import render
from interlock.strict.arm.route import JacobianGuard
from interlock.strict.arm.shipped import SHIPPED
from interlock.strict.guards import MaskGuard
from interlock.strict.runtime import StrictRuntime

N = 1000
REFUSAL = Refusal("model.onnx", 7, 100, "bundle_integrity", "the SHA-256 differs")
COUNTS = dict.fromkeys(Status, 0) | {Status.ACCEPTED: N - 30, Status.REFUSED: 30}
RESUMED = Resumed(N, 500, 0, 0, 50, COUNTS, 1.0, 1_000_000)


def found(**changed: Any) -> Demo:
    """What the demonstration finds of `N` requests, its other steps as they should be."""
    return replace(Demo(serve(N), REFUSAL, RESUMED, None), **changed)


def broken(demo: Demo) -> str:
    """The broken promises in one text, each of which the page shows."""
    sentences = demo.broken()
    shown = render(page.build(demo))
    assert all(sentence in shown for sentence in sentences)
    assert ("A promise is broken" in shown) == bool(sentences)
    return "; ".join(sentences)


def test_nothing_is_broken_where_nothing_is_wrong() -> None:
    assert broken(found()) == ""


def pass_all(self: object, inputs: Mapping[str, Array], answer: BatchAnswer) -> BatchVerdict:
    return BatchVerdict()


def refuse_all(self: object, inputs: Mapping[str, Array], answer: BatchAnswer) -> BatchVerdict:
    return BatchVerdict(refuse={"no": np.ones(len(inputs["x"]), np.bool_)})


def test_a_recheck_that_passes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JacobianGuard, "check_batch", pass_all)
    assert "answers are unsafe by the independent judge" in broken(found())


def test_a_recheck_that_refuses_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JacobianGuard, "check_batch", refuse_all)
    assert "only 0.0% of the requests are answered" in broken(found())


def test_masks_that_nobody_heeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MaskGuard, "check_batch", pass_all)
    assert broken(found()) == "the route does not do what the masks say"


def test_a_model_that_is_bottom_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    real = StrictRuntime.run

    def run(self: StrictRuntime, *inputs: Any, **options: Any) -> Any:
        answer = real(self, *inputs, **options)
        answer.decoded[:], answer.bottom_mask[:], answer.gap_mask[:] = np.nan, True, False
        return answer

    monkeypatch.setattr(StrictRuntime, "run", run)
    assert "the masks accept only 0.0%" in broken(found())


def test_a_judge_that_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arm, "tip_velocity_error", lambda links, x, dq: np.full(len(x), np.nan))
    assert "answers are unsafe by the independent judge" in broken(found())


def test_a_flip_that_is_loaded_or_refused_for_another_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_late(directory: Path) -> None:
        raise BundleContractError("the probe found a wrong answer")

    assert tamper.flip_one_byte(SHIPPED, 1).noticed
    for load in (lambda directory: None, too_late):
        monkeypatch.setattr(tamper, "load_onnx_runtime_bundle", load)
        refusal = tamper.flip_one_byte(SHIPPED, 1)
        assert "a flipped byte of the bundle was not noticed" in broken(found(refusal=refusal))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lost": 1}, "1 acknowledged requests were lost"),
        ({"repeated": 2}, "2 acknowledged requests were repeated"),
        ({"items": N - 1}, "999 requests are in the journal"),
        ({"acknowledged": N}, "killed at its end"),
        ({"counts": COUNTS | {Status.FAILED: 1}}, "1 journalled requests failed"),
        ({"counts": dict.fromkeys(Status, 0) | {Status.REFUSED: N}}, "only 0.0% of the journalled"),
    ],
)
def test_a_journal_that_does_not_hold(change: dict[str, Any], sentence: str) -> None:
    assert sentence in broken(found(resumed=replace(RESUMED, **change)))


def test_the_run_is_killed_half_way_however_late_the_kill_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = os.kill

    def late(pid: int, signal: int) -> None:
        time.sleep(1.0)
        kill(pid, signal)

    monkeypatch.setattr(journalled.os, "kill", late)  # type: ignore[attr-defined]
    resumed = journalled.run_killed_and_resumed(tmp_path / "journal.sqlite", N, 1)
    assert N // 2 <= resumed.acknowledged < N
    assert (resumed.lost, resumed.repeated) == (0, 0)


SUMMARIES = Summaries(
    100, 12, 0, 0, dict.fromkeys(Status, 0) | {Status.ACCEPTED: 96}, 60, 0.8, "It is.", Path("s/i")
)


def test_summaries_that_are_sound_break_nothing() -> None:
    assert broken(found(summaries=SUMMARIES)) == ""


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"lost": 1}, "1 acknowledged summaries were lost"),
        ({"repeated": 2}, "2 acknowledged summaries were repeated"),
        ({"counts": dict.fromkeys(Status, 0)}, "only 0 of 100 summaries passed their checks"),
    ],
)
def test_a_broken_promise_of_the_summaries_is_named(changed: Any, sentence: str) -> None:
    assert broken(found(summaries=replace(SUMMARIES, **changed))) == sentence
