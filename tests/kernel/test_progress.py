"""What a person is told while a run goes on."""

import io

import pytest

from interlock.kernel.clock import ManualClock
from interlock.kernel.outcome import Status
from interlock.kernel.progress import (
    BarProgress,
    LineProgress,
    Rate,
    duration,
    open_progress,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ClosedPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_the_rate_is_that_of_the_last_window() -> None:
    clock = ManualClock()
    rate = Rate(clock, window=10.0)
    assert rate.per_second() is None
    for _ in range(100):
        clock.advance(1.0)
        rate.add(100)
    assert rate.per_second() == pytest.approx(100.0)
    for _ in range(12):
        clock.advance(1.0)
        rate.add(1)
    assert rate.per_second() == pytest.approx(1.0)
    assert rate.seconds_for(60) == pytest.approx(60.0)


def test_the_rate_falls_while_nothing_ends() -> None:
    clock = ManualClock()
    rate = Rate(clock, window=10.0)
    clock.advance(1.0)
    rate.add(10)
    assert rate.per_second() == pytest.approx(10.0)
    clock.advance(9.0)
    assert rate.per_second() == pytest.approx(1.0)


def test_the_rate_keeps_few_moments() -> None:
    clock = ManualClock()
    rate = Rate(clock, window=10.0, samples=16)
    for _ in range(10_000):
        clock.advance(0.01)
        rate.add(1)
    assert len(rate._moments) <= 18
    assert rate.per_second() == pytest.approx(100.0, rel=0.02)


def test_lines_tell_share_statuses_rate_and_time_left() -> None:
    clock, stream = ManualClock(), io.StringIO()
    progress = LineProgress("arm", total=1000, done=400, stream=stream, every=10.0, clock=clock)
    for _ in range(20):
        clock.advance(1.0)
        progress.advance({Status.ACCEPTED: 9, Status.REFUSED: 1, Status.FAILED: 0})
    progress.note("stopping")
    progress.close()
    assert stream.getvalue().splitlines() == [
        "arm: 500 of 1,000 (50%), 90 accepted, 10 refused, 10/s, 50 s left",
        "arm: 600 of 1,000 (60%), 180 accepted, 20 refused, 10/s, 40 s left",
        "arm: stopping",
        "arm: 600 of 1,000 (60%), 180 accepted, 20 refused, 10/s, 40 s left",
    ]


def test_without_a_total_there_is_no_time_left() -> None:
    clock, stream = ManualClock(), io.StringIO()
    progress = LineProgress("arm", stream=stream, clock=clock)
    clock.advance(4.0)
    progress.advance({Status.ACCEPTED: 2})
    progress.close()
    assert stream.getvalue() == "arm: 2 items, 2 accepted, 0.5/s\n"


def test_a_reader_who_left_does_not_end_the_run() -> None:
    progress = LineProgress("arm", stream=ClosedPipe(), every=0.0)
    progress.advance({Status.ACCEPTED: 1})
    progress.close()


def test_a_terminal_gets_a_bar_and_a_file_gets_lines() -> None:
    terminal, file = Terminal(), io.StringIO()
    with open_progress("arm", total=10, stream=terminal) as progress:
        assert isinstance(progress, BarProgress)
        progress.advance({Status.ACCEPTED: 10})
        progress.note("[stopping]")
    shown = terminal.getvalue()
    assert "10 of 10 (100%)" in shown
    assert "10 accepted" in shown
    assert "[stopping]" in shown
    with open_progress("arm", total=10, stream=file) as progress:
        assert isinstance(progress, LineProgress)
        progress.advance({Status.ACCEPTED: 10})
    assert "\x1b" not in file.getvalue()
    assert file.getvalue().startswith("arm: 10 of 10 (100%), 10 accepted")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3600, "1 h 00 min"),
        (7810, "2 h 10 min"),
    ],
)
def test_durations_read_as_a_person_says_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_standard_error_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    with open_progress("run", total=2) as progress:
        progress.advance({Status.ACCEPTED: 1})
        progress.note("stopping")
