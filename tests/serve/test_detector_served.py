"""A detector whose process dies under several texts: the one that did it is lost, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.detectors import ATTACKS, HARMLESS, write_bundle

from interlock.engines.process_pool import ProcessPool
from interlock.errors import DeadlineError, EngineCrashError, InputError
from interlock.kernel.batch import BatchOutcome
from interlock.kernel.clock import NO_DEADLINE, Deadline, ManualClock
from interlock.kernel.outcome import Status
from interlock.serve import detector_served
from interlock.serve.child import failed
from interlock.serve.detector_served import DetectorServed
from interlock.serve.opening import open_model
from interlock.serve.settings import ModelSettings

POISON = "poison"


class Fragile(ProcessPool):
    """Real processes, and a crash where a text is the poison; `late` where one is slow."""

    def __init__(self, pool: ProcessPool) -> None:
        self.pool = pool
        self.asked: list[int] = []

    def call(self, payload: Any, *, deadline: Deadline = NO_DEADLINE) -> Any:
        self.asked.append(len(payload["texts"]))
        if POISON in payload["texts"]:
            raise EngineCrashError("m: the process was ended by SIGSEGV")
        if "slow" in payload["texts"]:
            raise DeadlineError("m: killed at the deadline")
        return self.pool.call(payload, deadline=deadline)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DetectorServed]:
    place = tmp_path_factory.mktemp("fragile")
    write_bundle(place / "bundle")
    served = open_model("m", ModelSettings(path="bundle", call_seconds=30), place)
    assert isinstance(served, DetectorServed)
    served.start(Deadline.after(60))
    yield served
    served.close()


@pytest.fixture
def fragile(real: DetectorServed) -> Iterator[tuple[DetectorServed, Fragile]]:
    pool = real.pool
    found = Fragile(pool)
    real.pool = found
    yield real, found
    real.pool = pool


def texts(*found: str) -> dict[str, Any]:
    return {"text": np.array(found, dtype=object)}


def test_more_texts_than_a_request_may_have_are_refused(real: DetectorServed) -> None:
    """Its process would be asked for more than it has time for, and be lost."""
    most = detector_served.MOST_TEXTS
    assert real.check(texts(*["Hello world"] * most)) == most
    with pytest.raises(InputError, match=f"input 'text' has {most + 1} texts"):
        real.check(texts(*["Hello world"] * (most + 1)))


def test_of_several_texts_only_the_one_that_ends_the_process_is_lost(
    fragile: tuple[DetectorServed, Fragile],
) -> None:
    served, pool = fragile
    answer = served.infer(texts(ATTACKS[0], POISON, HARMLESS[0]), deadline=Deadline.after(30))
    assert pool.asked == [3, 1, 1, 1]
    assert not answer.lost
    outcome = answer.outcome
    assert isinstance(outcome, BatchOutcome)
    rows = [outcome.row(k) for k in range(3)]
    assert [row.status for row in rows] == [Status.REFUSED, Status.FAILED, Status.ACCEPTED]
    assert rows[1].reasons == ("detector: engine_crash: m: the process was ended by SIGSEGV",)
    assert rows[0].steps[0].attempts == 2
    # Nothing of the lost one looks clean.
    assert np.isnan(answer.outputs["score"]).tolist() == [False, True, False]
    assert answer.outputs["action"][1] == "escalate"
    assert answer.summary.status is Status.FAILED
    alone = served.infer(texts(HARMLESS[0]), deadline=Deadline.after(30))
    assert answer.outputs["score"][2] == alone.outputs["score"][0]
    assert len(answer.detections) == 3


def test_where_all_are_lost_there_is_no_answer(fragile: tuple[DetectorServed, Fragile]) -> None:
    served, pool = fragile
    assert served.infer(texts(POISON), deadline=Deadline.after(30)).lost
    assert pool.asked == [1]
    assert served.infer(texts(POISON, POISON), deadline=Deadline.after(30)).lost
    assert pool.asked == [1, 2, 1, 1]


def test_texts_whose_time_is_over_are_not_asked_again(
    fragile: tuple[DetectorServed, Fragile],
) -> None:
    served, pool = fragile
    assert served.infer(texts("slow", HARMLESS[0]), deadline=Deadline.after(30)).lost
    assert pool.asked == [2]


def test_many_texts_that_are_lost_for_one_reason_cost_one_look_at_it(
    fragile: tuple[DetectorServed, Fragile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request may have millions of texts, and an error of its own for each takes gigabytes."""
    served, pool = fragile
    clock = ManualClock()
    ask = pool.call
    looked: list[Exception] = []

    def late(payload: Any, *, deadline: Deadline) -> Any:
        clock.advance(6)
        return ask(payload, deadline=NO_DEADLINE)

    def noting(name: str, error: Any) -> Any:
        looked.append(error)
        return failed(name, error)

    monkeypatch.setattr(pool, "call", late)
    monkeypatch.setattr(detector_served, "failed", noting)
    found = served.infer(texts(POISON, *HARMLESS * 50), deadline=Deadline.after(11, clock))
    assert pool.asked == [1 + 50 * len(HARMLESS), 1]  # then the time is over
    assert found.lost
    assert [type(error) for error in looked] == [EngineCrashError, DeadlineError]
    looked.clear()
    assert served.infer(texts("slow", *HARMLESS * 50), deadline=Deadline.after(11, clock)).lost
    assert [type(error) for error in looked] == [DeadlineError]
