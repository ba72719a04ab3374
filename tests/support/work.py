"""Work for worker processes, by name: what items do there is written in the items."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interlock.kernel.errors import ConfigError
from interlock.kernel.outcome import Outcome, Status


def obedient(factor: int = 1) -> Callable[[Sequence[Any]], list[Outcome[Any]]]:
    """Do to each item what it says, and answer numbers with their product."""
    return lambda items: [_obey(item, factor) for item in items]


def refuses_to_load() -> None:
    """A factory whose options are wrong."""
    raise ConfigError("the model is missing")


def loads_once(path: str) -> Callable[[Sequence[Any]], list[Outcome[Any]]]:
    """A factory that finds its model only the first time."""
    try:
        Path(path).unlink()
    except FileNotFoundError:
        raise ConfigError("the model is missing") from None
    return obedient()


def dies_while_loading() -> None:
    """A factory that takes its process with it."""
    os._exit(3)


def _obey(item: Any, factor: int) -> Outcome[Any]:
    match None if isinstance(item, np.ndarray) else item:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            raise SystemExit(0)
        case "raise":
            raise ValueError("text that must not be kept")
        case "hang":
            time.sleep(600)
        case "hoard":
            hoard = [np.ones(1 << 22) for _ in range(1000)]
            return Outcome(Status.ACCEPTED, value=len(hoard))
        case "pid":
            return Outcome(Status.ACCEPTED, value=os.getpid())
        case "object":
            return Outcome(Status.ACCEPTED, value=object())
        case "large":
            return Outcome(Status.ACCEPTED, value=np.arange(1_000_000, dtype=np.float64))
        case "text of 50 kB":
            return Outcome(Status.ACCEPTED, value="x" * 50_000)
    return Outcome(Status.ACCEPTED, value=item * factor)
