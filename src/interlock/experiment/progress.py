"""How far an experiment is: a bar a model on a terminal, a line a sample anywhere else.

[178/393] prompt_0178: OK (3.2s)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TextIO

from interlock.experiment.answers import words
from interlock.experiment.ledger import Ledger
from interlock.experiment.plan import Variant, split_key
from interlock.kernel.clock import SYSTEM_CLOCK, Clock
from interlock.kernel.outcome import Outcome, Status
from interlock.kernel.progress import Rate, duration


class Display(Protocol):
    """Is told of every recorded sample. Called from the driver's thread."""

    def result(self, key: str, outcome: Outcome[Any]) -> None:
        """A sample was recorded."""
        ...

    def advance(self, counts: Mapping[Status, int]) -> None:
        """See `interlock.kernel.progress.Progress`."""
        ...

    def note(self, text: str) -> None:
        """Something that a person should see."""
        ...

    def close(self) -> None:
        """Leave things as they stand."""
        ...


class Quiet:
    """Shows nothing."""

    def result(self, key: str, outcome: Outcome[Any]) -> None:
        """Ignore it."""

    def advance(self, counts: Mapping[Status, int]) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def close(self) -> None:
        """Nothing to leave."""


class _Counts:
    """Samples done, by variant, with the rate and the failures of this start."""

    def __init__(
        self, totals: Mapping[str, int], done: Mapping[str, int], ledger: Ledger, clock: Clock
    ) -> None:
        self.totals = totals
        self.done = dict(done)
        self.ledger = ledger
        self.rate = Rate(clock)
        self.bad = 0

    def add(self, label: str, outcome: Outcome[Any]) -> None:
        self.done[label] = self.done.get(label, 0) + 1
        self.bad += not outcome.status.usable
        self.rate.add(1)

    def summary(self) -> str:
        """`12.3/s, 2 min 05 s left, $0.0123 spent, 3 failed or refused`."""
        parts = []
        speed = self.rate.per_second()
        if speed is not None:
            parts.append(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s")
            left = sum(self.totals.values()) - sum(self.done.values())
            wait = self.rate.seconds_for(left) if left else None
            if wait is not None:
                parts.append(f"{duration(wait)} left")
        money = self.ledger.read()
        if money.spent or money.uncertain:
            maybe = f" (+ up to ${money.uncertain:.4f} uncertain)" if money.uncertain else ""
            parts.append(f"${money.spent:.4f} spent{maybe}")
        if self.bad:
            parts.append(f"{self.bad:,} failed or refused")
        return ", ".join(parts)


class Lines:
    """A line a sample, and one with rate, time left, cost and failures now and then."""

    def __init__(
        self,
        variants: Sequence[Variant],
        counts: _Counts,
        *,
        samples: int,
        stream: TextIO,
        every: float,
        clock: Clock,
    ) -> None:
        self._several = len(variants) > 1
        self._counts = counts
        self._samples = samples
        self._stream = stream
        self._every = every
        self._clock = clock
        self._told = clock.monotonic()

    def result(self, key: str, outcome: Outcome[Any]) -> None:
        """Write the sample's line."""
        label, prompt_id, sample = split_key(key)
        self._counts.add(label, outcome)
        name = f"{prompt_id}#{sample}" if self._samples > 1 else prompt_id
        model = f"{label} " if self._several else ""
        at, total = self._counts.done[label], self._counts.totals[label]
        self._write(f"{model}[{at}/{total}] {name}: {_ending(outcome)}")

    def advance(self, counts: Mapping[Status, int]) -> None:
        """Let the lines out; samples that were recorded together appear together."""
        if self._clock.monotonic() - self._told >= self._every:
            self._summary()
        with suppress(OSError, ValueError):
            self._stream.flush()

    def note(self, text: str) -> None:
        """Write the text."""
        self._write(text)
        self.advance({})

    def close(self) -> None:
        """Write where it ended."""
        self._summary()
        self.advance({})

    def _summary(self) -> None:
        self._told = self._clock.monotonic()
        text = self._counts.summary()
        done, total = sum(self._counts.done.values()), sum(self._counts.totals.values())
        self._write(f"{done:,} of {total:,} samples{', ' + text if text else ''}")

    def _write(self, text: str) -> None:
        # Whoever read the lines may have gone; that must not end the run.
        with suppress(OSError, ValueError):
            self._stream.write(f"{text}\n")


def _ending(outcome: Outcome[Any]) -> str:
    step = outcome.steps[-1] if outcome.steps else None
    seconds = f" ({step.seconds:.1f}s)" if step is not None else ""
    reason = step.reason if step is not None else ""
    if outcome.status is Status.ACCEPTED:
        return f"OK{seconds}"
    if outcome.status is Status.FLAGGED:
        return f"OK, flagged {reason}{seconds}"
    verb = "REFUSED" if outcome.status is Status.REFUSED else "FAILED"
    return f"{verb}: {words(reason)}{seconds}"


class Bars:
    """A live bar a variant, drawn by rich, with one line of totals below."""

    def __init__(self, variants: Sequence[Variant], counts: _Counts, *, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

        self._counts = counts
        self._display = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}", markup=False, style="dim"),
            console=Console(file=stream, highlight=False),
            refresh_per_second=4,
        )
        self._bars: dict[str, TaskID] = {
            variant.label: self._display.add_task(
                variant.label,
                total=counts.totals[variant.label],
                completed=counts.done.get(variant.label, 0),
                told="",
            )
            for variant in variants
        }
        self._last = list(self._bars)[-1]
        self._display.start()

    def result(self, key: str, outcome: Outcome[Any]) -> None:
        """Move the variant's bar."""
        label = split_key(key)[0]
        self._counts.add(label, outcome)
        self._display.advance(self._bars[label])

    def advance(self, counts: Mapping[Status, int]) -> None:
        """Renew the totals."""
        self._display.update(self._bars[self._last], told=self._counts.summary())

    def note(self, text: str) -> None:
        """Print the text above the bars."""
        self._display.console.print(text, markup=False)

    def close(self) -> None:
        """Leave the bars as they stand."""
        self._display.stop()


def open_display(
    variants: Sequence[Variant],
    *,
    totals: Mapping[str, int],
    done: Mapping[str, int],
    ledger: Ledger,
    samples: int = 1,
    stream: TextIO | None = None,
    every: float = 10.0,
    clock: Clock = SYSTEM_CLOCK,
) -> Display:
    """Bars where `stream` (standard error by default) is a terminal, else lines.

    `totals` and `done` count samples by the variants' labels.
    """
    stream = stream if stream is not None else sys.stderr
    if stream is None:
        return Quiet()
    counts = _Counts(totals, done, ledger, clock)
    if stream.isatty():
        return Bars(variants, counts, stream=stream)
    return Lines(variants, counts, samples=samples, stream=stream, every=every, clock=clock)
