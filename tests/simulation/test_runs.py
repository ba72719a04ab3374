"""Runs, driven step by step through faults: what was acknowledged stays, nothing is done twice."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from simulation.seeds import first_caught, run_seeds
from simulation.store import FakeStore
from simulation.world import World, simulate
from support.counts import count

from interlock.kernel import drive as drive_module
from interlock.kernel.dispatch import Dispatcher, Result
from interlock.kernel.errors import StorageError
from interlock.kernel.outcome import Outcome
from interlock.kernel.task import Completed

FILE = "tests/simulation/test_runs.py"
MUTANT_SEEDS = 300


def test_every_run_keeps_its_promises() -> None:
    run_seeds(count(200, 5000), simulate, FILE)


def test_a_seed_replays_to_the_same_end() -> None:
    for seed in range(20):
        first, second = simulate(seed), simulate(seed)
        assert first.durable == second.durable
        assert (first.steps, first.starts, first.sent) == (
            second.steps,
            second.starts,
            second.sent,
        )


def test_the_faults_do_happen() -> None:
    """A simulation in which nothing fails would prove nothing."""
    worlds = [simulate(seed) for seed in range(100)]
    assert sum(world.starts for world in worlds) > 100
    assert sum(sum(world.excused.values()) for world in worlds) > 300
    steps = {step.name for world in worlds for o in world.durable.values() for step in o.steps}
    assert steps == {"load", "work", "worker", "record"}


class DropsAnAcknowledgedRecord(FakeStore):
    """A store that returns from `record` without the last outcome."""

    def commit(self, results: Sequence[tuple[str, Outcome[Any]]]) -> None:
        super().commit(results[:-1] if len(results) > 2 else results)


class OffersEverythingAgain(FakeStore):
    """A store whose pending items include those that have an outcome."""

    def pending(self) -> Iterator[str]:
        yield from self.world.keys


@pytest.mark.parametrize("store", [DropsAnAcknowledgedRecord, OffersEverythingAgain])
def test_a_broken_store_is_caught(store: type[FakeStore]) -> None:
    assert first_caught(MUTANT_SEEDS, lambda seed: simulate(seed, store)) is not None


def _records_twice(drive: Any, results: list[Result]) -> list[Result]:
    drive._log.record([(result.key, result.outcome) for result in results])
    drive._log.record([(result.key, result.outcome) for result in results])
    return results


def _passes_over_a_failed_write(drive: Any, results: list[Result]) -> list[Result]:
    try:
        return _record(drive, results)
    except StorageError:
        return []


def _hands_out_first(drive: Any, results: list[Result]) -> None:
    for result in results:
        drive._on_result(result.key, result.outcome)
    _keep(drive, results)


_record, _keep = drive_module._Drive._record, drive_module._Drive._keep
_settle = Dispatcher.settle


def _forgets_lost_items(dispatcher: Dispatcher, done: Completed) -> list[Result]:
    found = _settle(dispatcher, done)
    if done.lost is not None:
        dispatcher._again.clear()
    return found


def _believes_a_second_delivery(dispatcher: Dispatcher, done: Completed) -> list[Result]:
    if done.task.id not in dispatcher._in_flight and done.outcomes is not None:
        return [Result(0, k, o) for k, o in zip(done.task.keys, done.outcomes, strict=False)]
    return _settle(dispatcher, done)


def _blames_the_group(dispatcher: Dispatcher, done: Completed) -> list[Result]:
    if done.lost is not None:
        return _settle(dispatcher, Completed(done.task, error=done.lost.code))
    return _settle(dispatcher, done)


@pytest.mark.parametrize(
    ("owner", "name", "mutant"),
    [
        (drive_module._Drive, "_record", _records_twice),
        (drive_module._Drive, "_record", _passes_over_a_failed_write),
        (drive_module._Drive, "_keep", _hands_out_first),
        (Dispatcher, "settle", _forgets_lost_items),
        (Dispatcher, "settle", _believes_a_second_delivery),
        (Dispatcher, "settle", _blames_the_group),
        (Dispatcher, "release", lambda dispatcher, results: results),
    ],
    ids=[
        "records twice",
        "passes over a failed write",
        "hands out before recording",
        "forgets lost items",
        "believes a second delivery",
        "blames the group",
        "ignores the order",
    ],
)
def test_a_broken_driver_is_caught(
    owner: type, name: str, mutant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, mutant)
    assert first_caught(MUTANT_SEEDS, simulate) is not None


def test_a_failing_seed_is_printed_with_its_command() -> None:
    with pytest.raises(AssertionError, match=rf"INTERLOCK_SEED=\d+ pytest {FILE}"):
        run_seeds(MUTANT_SEEDS, lambda seed: simulate(seed, DropsAnAcknowledgedRecord), FILE)


def test_the_world_is_drawn_from_its_seed() -> None:
    assert {World(seed).capacity for seed in range(50)} == {1, 2, 3, 4, 5}
    assert {World(seed).ordered for seed in range(50)} == {True, False}
