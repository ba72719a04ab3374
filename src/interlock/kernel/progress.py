"""How far a run is: a live bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol, TextIO

from interlock.kernel.clock import SYSTEM_CLOCK, Clock
from interlock.kernel.outcome import Status


class Progress(Protocol):
    """Is told what was recorded. Called from the driver's thread only."""

    def advance(self, counts: Mapping[Status, int]) -> None:
        """So many more items ended, by status."""
        ...

    def note(self, text: str) -> None:
        """Tell the person something, such as that the run is stopping."""
        ...


class Silent:
    """Shows nothing."""

    def advance(self, counts: Mapping[Status, int]) -> None:
        """Ignore the counts."""

    def note(self, text: str) -> None:
        """Ignore the text."""


SILENT = Silent()


class Rate:
    """Items a second over the last `window` seconds, from at most `samples` kept moments."""

    def __init__(
        self, clock: Clock = SYSTEM_CLOCK, window: float = 30.0, samples: int = 64
    ) -> None:
        self._clock = clock
        self._window = window
        self._spacing = window / samples
        self._done = 0
        self._moments: deque[tuple[float, int]] = deque([(clock.monotonic(), 0)])

    def add(self, items: int) -> None:
        """So many items ended by now."""
        self._done += items
        now = self._clock.monotonic()
        if now - self._moments[-1][0] >= self._spacing:
            self._moments.append((now, self._done))
        # One moment at or before the window's start stays, as the window's left edge.
        while len(self._moments) > 1 and self._moments[1][0] <= now - self._window:
            self._moments.popleft()

    def per_second(self) -> float | None:
        """The rate, or None before any time has passed or any item ended."""
        then, done = self._moments[0]
        seconds = self._clock.monotonic() - then
        return (self._done - done) / seconds if seconds > 0 and self._done > done else None

    def seconds_for(self, items: int) -> float | None:
        """The forecast for `items` more, or None where there is no rate yet."""
        rate = self.per_second()
        return None if rate is None else items / rate


class LineProgress:
    """One line at most every `every` seconds, and a last one from `close`.

    `done` of `total` items were recorded before this start; the rate leaves them out.
    """

    def __init__(
        self,
        label: str,
        *,
        total: int | None = None,
        done: int = 0,
        stream: TextIO | None = None,
        every: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._label = label
        self._total = total
        self._done = done
        self._stream = stream if stream is not None else sys.stderr
        self._every = every
        self._clock = clock
        self._rate = Rate(clock)
        self._counts = dict.fromkeys(Status, 0)
        self._written = clock.monotonic()

    def advance(self, counts: Mapping[Status, int]) -> None:
        """Count, and write a line where the last one is long enough ago."""
        for status, items in counts.items():
            self._counts[status] += items
        items = sum(counts.values())
        self._done += items
        self._rate.add(items)
        if self._clock.monotonic() - self._written >= self._every:
            self._write()

    def note(self, text: str) -> None:
        """Write the text as a line of its own."""
        # Whoever read the lines may have gone; that must not end the run.
        with suppress(OSError):
            print(f"{self._label}: {text}", file=self._stream, flush=True)

    def close(self) -> None:
        """Write where it ended."""
        self._write()

    def _write(self) -> None:
        self._written = self._clock.monotonic()
        self.note(
            ", ".join(
                part
                for part in (
                    _share(self._done, self._total),
                    _statuses(self._counts),
                    _speed(self._rate, self._done, self._total),
                )
                if part
            )
        )


class BarProgress:
    """A live bar with the counts by status, the rate and the time left, drawn by rich."""

    def __init__(
        self,
        label: str,
        *,
        total: int | None = None,
        done: int = 0,
        stream: TextIO | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Display

        self._total = total
        self._done = done
        self._rate = Rate(clock)
        self._counts = dict.fromkeys(Status, 0)
        self._display = Display(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[share]}", markup=False),
            TextColumn("{task.fields[statuses]}", markup=False, style="dim"),
            TextColumn("{task.fields[speed]}", markup=False),
            console=Console(file=stream if stream is not None else sys.stderr, highlight=False),
            refresh_per_second=8,
        )
        self._bar = self._display.add_task(
            label, total=total, completed=done, share=_share(done, total), statuses="", speed=""
        )
        self._display.start()

    def advance(self, counts: Mapping[Status, int]) -> None:
        """Move the bar."""
        for status, items in counts.items():
            self._counts[status] += items
        items = sum(counts.values())
        self._done += items
        self._rate.add(items)
        self._display.update(
            self._bar,
            completed=self._done,
            share=_share(self._done, self._total),
            statuses=_statuses(self._counts),
            speed=_speed(self._rate, self._done, self._total),
        )

    def note(self, text: str) -> None:
        """Print the text above the bar."""
        # The terminal may have been closed; that must not end the run.
        with suppress(OSError):
            self._display.console.print(text, markup=False)

    def close(self) -> None:
        """Leave the bar as it stands."""
        with suppress(OSError):
            self._display.stop()


@contextmanager
def open_progress(
    label: str,
    *,
    total: int | None = None,
    done: int = 0,
    stream: TextIO | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Iterator[Progress]:
    """A bar where `stream` (standard error by default) is a terminal, else lines.

    Nothing where standard error is closed, as a daemon's may be.
    `total` counts the run's items and `done` those that were recorded before this start.
    """
    stream = stream if stream is not None else sys.stderr
    if stream is None:
        yield SILENT
        return
    shown = (BarProgress if stream.isatty() else LineProgress)(
        label, total=total, done=done, stream=stream, clock=clock
    )
    try:
        yield shown
    finally:
        shown.close()


def _share(done: int, total: int | None) -> str:
    if not total:
        return f"{done:,} items"
    return f"{done:,} of {total:,} ({100 * done / total:.0f}%)"


def _statuses(counts: Mapping[Status, int]) -> str:
    return ", ".join(f"{items:,} {status}" for status, items in counts.items() if items)


def _speed(rate: Rate, done: int, total: int | None) -> str:
    speed = rate.per_second()
    if speed is None:
        return ""
    text = f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s"
    left = rate.seconds_for(total - done) if total and total > done else None
    return text if left is None else f"{text}, {duration(left)} left"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
