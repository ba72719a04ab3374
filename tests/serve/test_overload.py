"""A lasting overload and what is none, as a lane with two threads meets them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.serve.overload import Overload

STANDING, LIMIT = 1, 64


class Queue:
    """A queue whose threads take one request at each step, where one waits."""

    def __init__(self) -> None:
        self.overload = Overload()
        self.waiting = 0
        self.refused = 0
        self._owed = 0.0

    def come(self, requests: int) -> None:
        for _ in range(requests):
            self.overload.arrived()
            room = STANDING if self.overload.lasting else LIMIT
            if self.waiting < room:
                self.waiting += 1
            else:
                self.refused += 1

    def step(self, load: float) -> None:
        """The time of one answer, in which `load` requests come."""
        self._owed += load
        self.come(int(self._owed))
        self._owed -= int(self._owed)
        if self.waiting:
            # Where the threads keep up, they have waited for what they take.
            waited = 0.001 if self.waiting == 1 and load < 1 else 0.0
            self.waiting -= 1
            self.overload.taken(1, waited, crowded=2 * self.waiting >= LIMIT)

    def run(self, load: float, steps: int) -> None:
        for _ in range(steps):
            self.step(load)


@given(burst=st.integers(1, 40), load=st.floats(0.1, 0.8))
def test_a_burst_that_is_worked_off_is_no_overload(burst: int, load: float) -> None:
    queue = Queue()
    queue.run(load, 300)
    queue.come(burst)
    for _ in range(500):
        queue.step(load)
        assert not queue.overload.lasting
    assert queue.refused == 0


@given(load=st.floats(1.0, 1.2), steps=st.integers(1, 150))
def test_a_machine_that_is_slow_for_a_moment_is_no_overload(load: float, steps: int) -> None:
    queue = Queue()
    queue.run(0.8, 300)
    queue.run(load, steps)
    queue.run(0.8, 500)
    assert queue.refused == 0


@given(load=st.floats(1.3, 5.0))
def test_an_overload_is_told_by_the_time_that_the_queue_was_filled_and_not_much_later(
    load: float,
) -> None:
    queue = Queue()
    queue.run(0.8, 300)
    queue.run(load, 150)
    assert queue.overload.lasting
    queue.run(load, 400)
    assert queue.overload.lasting
    assert queue.waiting <= STANDING


@given(load=st.floats(1.05, 1.15))
def test_a_slight_overload_fills_half_of_the_queue_and_not_more(load: float) -> None:
    queue = Queue()
    queue.run(load, 1_500)
    for _ in range(500):
        queue.step(load)
        assert 0 < queue.waiting <= LIMIT / 2 + 4
    assert queue.refused


@pytest.mark.parametrize("load", [0.5, 0.8, 0.95])
def test_an_overload_ends_with_the_load(load: float) -> None:
    queue = Queue()
    queue.run(3.0, 500)
    assert queue.overload.lasting
    queue.run(load, 400)
    assert not queue.overload.lasting


def test_clients_that_wait_for_their_answers_are_no_overload() -> None:
    overload = Overload()
    for _ in range(8):
        overload.arrived()
    for _ in range(1_000):
        overload.taken(1, 0.0, crowded=True)
        overload.arrived()
        assert not overload.lasting


def test_after_a_pause_a_burst_has_its_room_at_once() -> None:
    overload = Overload()
    for _ in range(200):
        for _ in range(3):
            overload.arrived()
        overload.taken(1, 0.0, crowded=True)
    assert overload.lasting
    overload.taken(1, 1.1, crowded=True)
    assert not overload.lasting


def test_merged_requests_count_each() -> None:
    """Four arrive for each batch of four: threads never wait, and nothing is left behind."""
    overload = Overload()
    for _ in range(1_000):
        for _ in range(4):
            overload.arrived()
        overload.taken(4, 0.0, crowded=True)
        assert not overload.lasting
