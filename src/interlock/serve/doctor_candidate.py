"""What the doctor finds out of a candidate that would be rolled out beside a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from interlock.kernel.clock import Deadline
from interlock.kernel.errors import ConfigError, InterlockError
from interlock.serve import doctor_files
from interlock.serve.checklist import Finding
from interlock.serve.opening import open_model
from interlock.serve.served import Served
from interlock.serve.settings import ModelSettings
from interlock.serve.version import check_interface


def examine(
    name: str, candidate: ModelSettings, stable: ModelSettings, base: Path, start_seconds: float
) -> Iterator[Finding]:
    """Whether it loads, and may stand beside the stable version; its speed is for the rollout."""
    yield from doctor_files.model(f"{name}: candidate", candidate, base)
    item = f"{name}: its candidate can be rolled out"
    try:
        mine = _started(name, candidate, base, start_seconds)
    except InterlockError as error:
        told = f"{candidate.path}: {error.code}: {error.message}"
        yield Finding("function", item, "fail", told)
        return
    try:
        theirs = _started(name, stable, base, start_seconds)
    except InterlockError:
        return  # which has been said
    try:
        check_interface(mine, theirs)
    except ConfigError as error:
        yield Finding("function", item, "fail", f"{candidate.path}: {error.message}")
        return
    if mine.version == theirs.version:
        told = f"{candidate.path} is what is served already, so that no rollout starts"
        yield Finding("function", item, "warn", told)
        return
    yield Finding("function", item, "pass", f"{candidate.path} is {mine.version}")


def _started(name: str, own: ModelSettings, base: Path, start_seconds: float) -> Served:
    """A model that was loaded and tested, and is closed again; raises what keeps it from that."""
    served = open_model(name, own, base)
    try:
        served.start(Deadline.after(start_seconds))
    finally:
        served.close()
    return served
