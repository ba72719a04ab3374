"""Routes through engines, guards and probes that fail: each row ends once, as its guards said."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from simulation.route_world import RouteWorld, simulate
from simulation.seeds import first_caught, run_seeds
from support.counts import count

from interlock.kernel import batch_route, route
from interlock.kernel.limits import RetryPolicy, call_with_retry
from interlock.kernel.outcome import Status

FILE = "tests/simulation/test_routes.py"
MUTANT_SEEDS = 300


def test_every_route_keeps_its_promises() -> None:
    run_seeds(count(200, 5000), simulate, FILE)


def test_the_faults_do_happen() -> None:
    """Every status is reached, in single items and in batches, and late steps answer too."""
    seen: set[tuple[bool, Status]] = set()
    steps: set[tuple[bool, int]] = set()
    for seed in range(150):
        world = RouteWorld(seed)
        for _ in range(4):
            world.run_once()
            for row in world.rows:
                status, index, _ = world.expected(row)
                seen.add((world.batch, status))
                steps.add((world.batch, index))
    assert seen == {(batch, status) for batch in (True, False) for status in Status}
    assert steps >= {(batch, index) for batch in (True, False) for index in (-1, 0, 1, 2)}


_single_judge, _batch_judge = route._judge, batch_route._judge
_run_step = batch_route._run_step


def _single_skips_a_guard(step: Any, *rest: Any) -> Any:
    return _single_judge(dataclasses.replace(step, guards=step.guards[1:]), *rest)


def _batch_skips_a_guard(of: Any, step: Any, *rest: Any) -> Any:
    return _batch_judge(of, dataclasses.replace(step, guards=step.guards[1:]), *rest)


def _sends_all_rows_on(
    of: Any, step: Any, index: int, inputs: Any, waiting: Any, *rest: Any
) -> Any:
    _run_step(of, step, index, inputs, waiting, *rest)
    return waiting


def _loses_a_row(of: Any, step: Any, index: int, inputs: Any, waiting: Any, *rest: Any) -> Any:
    return _run_step(of, step, index, inputs, waiting, *rest)[1:]


def _retries_for_ever(call: Any, policy: RetryPolicy, **rest: Any) -> Any:
    return call_with_retry(call, RetryPolicy(retries=9, first=0.0, longest=0.0), **rest)


def _retries_everything(call: Any, policy: RetryPolicy, **rest: Any) -> Any:
    try:
        return call()
    except ValueError:
        return call()


def _accepts_anything(rows: Any, *rest: Any) -> Any:
    return True


@pytest.mark.parametrize(
    ("owner", "name", "mutant"),
    [
        (route, "_judge", _single_skips_a_guard),
        (batch_route, "_judge", _batch_skips_a_guard),
        (batch_route, "_run_step", _sends_all_rows_on),
        (batch_route, "_run_step", _loses_a_row),
        (route.Route, "gate", lambda *_: None),
        (route, "call_with_retry", _retries_for_ever),
        (batch_route, "call_with_retry", _retries_everything),
        (route, "late", lambda *_: False),
        (batch_route, "late", lambda *_: False),
        (route, "finite", _accepts_anything),
        (batch_route, "_set_status", lambda out, waiting, codes: None),
    ],
    ids=[
        "skips a guard",
        "skips a guard in a batch",
        "sends answered rows on",
        "loses a row",
        "asks what is not available",
        "retries for ever",
        "retries what is final",
        "uses a late answer",
        "uses a late answer in a batch",
        "accepts NaN",
        "forgets the status",
    ],
)
def test_a_broken_route_is_caught(
    owner: Any, name: str, mutant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, mutant)
    assert first_caught(MUTANT_SEEDS, simulate) is not None


def test_values_are_traceable() -> None:
    """The world's numbers occur once, so a value from another step or row cannot pass for it."""
    world = RouteWorld(1)
    engine = world.steps[0].engine
    first, second = engine._numbers(5), engine._numbers(5)
    assert not np.intersect1d(first, second).size
