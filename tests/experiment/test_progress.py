"""Lines without a terminal, bars on one: samples, rate, time left, cost and failures."""

from __future__ import annotations

import io
from typing import Any

import pytest

from interlock.experiment.config import parse_config
from interlock.experiment.ledger import Ledger
from interlock.experiment.plan import Variant, sample_key, variants
from interlock.experiment.progress import Display, open_display
from interlock.kernel.clock import ManualClock
from interlock.kernel.outcome import Outcome, Status, Step, StepResult

ENDINGS: list[Outcome[Any]] = [
    Outcome(Status.ACCEPTED, steps=(Step("chat", StepResult.ACCEPTED, seconds=3.21),)),
    Outcome(Status.FLAGGED, steps=(Step("chat", StepResult.FLAGGED, "max_tokens", 1.0),)),
    Outcome(Status.REFUSED, steps=(Step("chat", StepResult.REFUSED, "content_filter", 0.5),)),
    Outcome(Status.FAILED, steps=(Step("chat", StepResult.ERROR, "rate_limit", 0.1),)),
]


def chosen(*names: str) -> tuple[Variant, ...]:
    """Models of these names."""
    return variants(parse_config({"models": [{"name": n, "type": "x"} for n in names]}))


def shown(display: Display, variant: Variant, clock: ManualClock) -> None:
    """Four samples, a second apart, and the end."""
    for n, outcome in enumerate(ENDINGS):
        clock.advance(1.0)
        display.advance({outcome.status: 1})
        display.result(sample_key(variant, f"prompt_{178 + n:04}", 0), outcome)
    display.note("Retry 1/3 after 1s: Rate limit exceeded")
    display.close()


def test_lines_are_those_of_the_pilot() -> None:
    stream, clock, ledger = io.StringIO(), ManualClock(), Ledger()
    ledger.spend(1.5, 0.25)
    (variant,) = chosen("m")
    display = open_display(
        [variant],
        totals={variant.label: 393},
        done={variant.label: 177},
        ledger=ledger,
        stream=stream,
        clock=clock,
    )
    shown(display, variant, clock)
    assert stream.getvalue().splitlines() == [
        "[178/393] prompt_0178: OK (3.2s)",
        "[179/393] prompt_0179: OK, flagged max_tokens (1.0s)",
        "[180/393] prompt_0180: REFUSED: Content filter (0.5s)",
        "[181/393] prompt_0181: FAILED: Rate limit exceeded (0.1s)",
        "Retry 1/3 after 1s: Rate limit exceeded",
        "181 of 393 samples, 1/s, 3 min 32 s left, $1.5000 spent (+ up to $0.2500 uncertain), "
        "2 failed or refused",
    ]


def test_several_models_and_samples_are_told_apart() -> None:
    stream = io.StringIO()
    first, second = chosen("a", "b")
    display = open_display(
        [first, second],
        totals={first.label: 2, second.label: 2},
        done={},
        ledger=Ledger(),
        samples=2,
        stream=stream,
    )
    display.result(sample_key(second, "p1", 1), ENDINGS[0])
    assert stream.getvalue() == "b_tempdefault [1/2] p1#1: OK (3.2s)\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_are_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream, clock = Terminal(), ManualClock()
    first, second = chosen("a", "b")
    display = open_display(
        [first, second],
        totals={first.label: 4, second.label: 8},
        done={second.label: 8},
        ledger=Ledger(),
        stream=stream,
        clock=clock,
    )
    shown(display, first, clock)
    drawn = stream.getvalue()
    assert "a_tempdefault" in drawn
    assert "4/4" in drawn
    assert "8/8" in drawn
    assert "Retry 1/3 after 1s" in drawn


def test_a_stream_that_was_closed_ends_no_run() -> None:
    stream = io.StringIO()
    (variant,) = chosen("m")
    display = open_display(
        [variant], totals={variant.label: 4}, done={}, ledger=Ledger(), stream=stream
    )
    stream.close()
    shown(display, variant, ManualClock())
