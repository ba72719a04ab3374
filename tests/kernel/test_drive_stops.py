"""How a run is stopped: by signals, a closed terminal or an event, and resumed."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.driving import END, ITEMS, double, go, recorded, resume, start, whole

from interlock.kernel.drive import drive
from interlock.kernel.errors import InterruptedRunError
from interlock.kernel.executor import LocalExecutor
from interlock.kernel.journal import Item, Journal
from interlock.kernel.outcome import Outcome
from interlock.kernel.task import Work


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db") as journal:
        yield journal


@pytest.fixture(autouse=True)
def on_a_terminal() -> Iterator[None]:
    """SIGHUP as a terminal leaves it to us and our children: nohup ignores it, and so do runs."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class Told:
    """Progress that keeps its notes, the first of which says that the run is stopping."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stopping = threading.Event()

    def advance(self, counts: object) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.stopping.set()


def signals_at(item: int, number: int) -> Work:
    """Work that sends this process a signal once, when it comes to `item`."""
    sent = threading.Event()

    def work(items: Sequence[int]) -> list[Outcome[int]]:
        if item in items and not sent.is_set():
            sent.set()
            os.kill(os.getpid(), number)
        time.sleep(0.001)
        return double(items)

    return work


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_run_and_it_resumes(journal: Journal, number: int) -> None:
    work = signals_at(10, number)
    told = Told()

    with pytest.raises(InterruptedRunError, match="run 'r' was interrupted after") as stopped:
        go(start(journal), work, workers=2, progress=told)
    assert "--resume" in stopped.value.hint
    before = recorded(journal)
    # In flight at the signal, and therefore finished, were at most 4 tasks beyond item 10.
    assert 10 < len(before) <= 11 + 4 + 4
    assert journal.info("r").state == "interrupted"
    assert len(told.notes) <= 1
    summary = go(resume(journal), work, workers=2)
    assert recorded(journal) == whole()
    assert summary.sent == ITEMS - len(before)


_ON_A_TERMINAL = """
import fcntl, pathlib, sys, termios, time
from interlock.errors import InterruptedRunError
from interlock.kernel.drive import drive
from interlock.kernel.executor import LocalExecutor
from interlock.kernel.journal import Item, Journal
from interlock.kernel.outcome import Outcome, Status
from interlock.kernel.progress import open_progress

fcntl.ioctl(2, termios.TIOCSCTTY, 0)
place = pathlib.Path(sys.argv[1])

def slow(items):
    with open(place / "sent", "a") as sent:
        sent.writelines(f"k{item}\\n" for item in items)
    time.sleep(0.2)
    return [Outcome(Status.ACCEPTED, value=item) for item in items]

with Journal.open(place / "journal.db") as journal:
    items = [Item(f"k{n}", n) for n in range(1000)]
    run = journal.create_run("test", config={}, items=items, run_id="r")
    with run, LocalExecutor(slow, workers=2) as executor, open_progress("items") as progress:
        (place / "began").touch()
        drive(run, run.payload, executor, progress=progress)
"""


def test_a_terminal_that_is_closed_loses_nothing_in_flight(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", _ON_A_TERMINAL, str(tmp_path)]
    child = subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        until = time.monotonic() + END
        while not (tmp_path / "began").exists() and time.monotonic() < until:
            time.sleep(0.02)
        # A terminal that nobody reads would fill, and hold up who writes to it.
        os.set_blocking(ours, False)
        stop = time.monotonic() + 1.0
        while time.monotonic() < stop:
            with contextlib.suppress(BlockingIOError):
                os.read(ours, 1 << 16)
            time.sleep(0.01)
        os.close(ours)
        child.wait(END)
    finally:
        child.kill()
        child.wait()
    with Journal.open(tmp_path / "journal.db") as journal:
        assert journal.info("r").state == "interrupted"
        assert set((tmp_path / "sent").read_text().split()) == set(recorded(journal))


def test_a_terminal_that_is_closed_says_so_more_than_once(journal: Journal) -> None:
    """Its shell and the system each tell the run, a session's end after a SIGTERM."""
    release, told = threading.Event(), Told()

    def work(items: Sequence[int]) -> list[Outcome[int]]:
        if items[0] == 5:
            os.kill(os.getpid(), signal.SIGTERM)
            assert told.stopping.wait(END)
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGHUP)
                release.wait(0.2)  # for the driver to see it
        return double(items)

    with pytest.raises(InterruptedRunError):
        go(start(journal), work, workers=1, queued=0, grace=END, progress=told)
    assert "k5" in recorded(journal)


def test_a_stop_while_the_last_items_end_leaves_the_run_done(journal: Journal) -> None:
    summary = go(start(journal), signals_at(ITEMS - 1, signal.SIGINT), workers=2)
    assert summary.recorded == ITEMS
    assert journal.info("r").state == "done"


def test_a_second_signal_stops_at_once(journal: Journal) -> None:
    release, told = threading.Event(), Told()

    def work(items: Sequence[int]) -> list[Outcome[int]]:
        if items[0] == 5:
            os.kill(os.getpid(), signal.SIGINT)
            # Two signals that arrive before the first is noticed are one to the system.
            assert told.stopping.wait(END)
            os.kill(os.getpid(), signal.SIGINT)
            release.wait(END)
        return double(items)

    with pytest.raises(InterruptedRunError):
        go(start(journal), work, workers=1, queued=0, grace=1e6, progress=told)
    assert len(recorded(journal)) == 5
    release.set()
    go(resume(journal), double)
    assert recorded(journal) == whole()


def test_a_third_signal_gets_out_of_code_that_hangs(journal: Journal) -> None:
    def load(key: str) -> int:
        for _ in range(3):
            # To this thread, so that none is still on its way when the next one comes.
            signal.raise_signal(signal.SIGINT)
        time.sleep(END)
        return 0

    with start(journal) as run, LocalExecutor(double) as executor, pytest.raises(KeyboardInterrupt):
        drive(run, load, executor)
    go(resume(journal), double)
    assert recorded(journal) == whole()


def test_what_does_not_end_within_the_grace_is_left_for_later(journal: Journal) -> None:
    stop = threading.Event()

    def hang_after_three(key: str, outcome: Outcome[Any]) -> None:
        if key == "k2":
            stop.set()

    items = [1, 2, 3, "hang", 5]
    with pytest.raises(InterruptedRunError):
        go(
            start(journal, items),
            "support.work:obedient",
            kind="processes",
            queued=1,
            stop=stop,
            grace=0.3,
            on_result=hang_after_three,
        )
    assert recorded(journal) == {"k0": 1, "k1": 2, "k2": 3}
    assert journal.info("r").state == "interrupted"


def test_handlers_are_restored_whatever_happens(journal: Journal) -> None:
    def handlers() -> list[Any]:
        numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
        return [signal.getsignal(number) for number in numbers]

    before = handlers()
    inside: list[Any] = []
    go(start(journal), double, on_result=lambda *_: inside.extend(handlers()))
    assert handlers() == before
    assert not set(inside) & set(before)

    def break_down(key: str, outcome: Outcome[Any]) -> None:
        raise OSError("the reader is gone")

    other = journal.create_run("o", config={}, items=[Item("x", 1)], run_id="o")
    with pytest.raises(OSError, match="gone"):
        go(other, double, on_result=break_down)
    assert handlers() == before


def test_a_signal_that_is_ignored_stays_ignored(journal: Journal) -> None:
    # A shell starts background jobs so, which Ctrl-C in the foreground must not reach.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        summary = go(start(journal), signals_at(10, signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert summary.recorded == ITEMS


def test_it_works_outside_the_main_thread(journal: Journal) -> None:
    run = start(journal)
    stop = threading.Event()
    raised: list[BaseException] = []
    before = signal.getsignal(signal.SIGINT)
    seen: list[Any] = []

    def look(key: str, outcome: Outcome[Any]) -> None:
        seen.append(signal.getsignal(signal.SIGINT))
        if len(seen) == 5:
            stop.set()

    def body() -> None:
        try:
            go(run, double, stop=stop, on_result=look)
        except InterruptedRunError as error:
            raised.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(END)
    assert not thread.is_alive()
    assert len(raised) == 1
    assert set(seen) == {before}
    go(resume(journal), double)
    assert recorded(journal) == whole()
