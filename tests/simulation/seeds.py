"""One integer decides a simulation; a failing one is printed with the command to replay it."""

import os
from collections.abc import Callable, Iterator

SEED = "INTERLOCK_SEED"


class BrokenInvariant(AssertionError):
    """Something that must always hold did not."""


def require(holds: bool, what: str) -> None:
    """Raise BrokenInvariant, saying `what` should have been so."""
    if not holds:
        raise BrokenInvariant(what)


def seeds(count: int) -> Iterator[int]:
    """The seeds 0 … count-1, or the one named by INTERLOCK_SEED."""
    chosen = os.environ.get(SEED)
    yield from range(count) if chosen is None else [int(chosen)]


def run_seeds(count: int, simulate: Callable[[int], object], file: str) -> None:
    """Simulate every seed; the first that fails ends the test with the command that replays it."""
    for seed in seeds(count):
        try:
            simulate(seed)
        except Exception as error:
            raise BrokenInvariant(
                f"seed {seed}: {type(error).__name__}: {error}\n"
                f"replay it with: {SEED}={seed} pytest {file}"
            ) from error


def first_caught(count: int, simulate: Callable[[int], object]) -> Exception | None:
    """What the first failing seed raises, or None where all of them hold."""
    for seed in range(count):
        try:
            simulate(seed)
        except Exception as error:  # noqa: BLE001 - whatever fails the simulation has caught it
            return error
    return None
