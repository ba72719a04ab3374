"""What the doctor finds out from files: who may change a model, the configuration and the state."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from interlock.kernel.errors import JournalError
from interlock.serve.checklist import Finding, passed
from interlock.serve.opening import DETECTOR, REGISTERED, STORED
from interlock.serve.rollout.store import FILE, Placement, recorded
from interlock.serve.settings import ModelSettings


def model(name: str, own: ModelSettings, base: Path) -> Iterator[Finding]:
    """Whether a model's files can be read, and neither they nor what its settings name be changed
    by every user.
    """
    item = f"{name}: permissions"
    beside = [base / path for path in (own.policy, own.calibration) if path is not None]
    if own.require_signature is not None:
        beside.append(base / own.require_signature)
    if own.path.startswith((REGISTERED, DETECTOR, STORED)):
        if found := _open_to_all(beside):
            yield Finding("environment", item, "fail", f"every user may change {found}")
        else:
            yield Finding("environment", item, "pass", "not a path of this deployment")
        return
    root = base / own.path
    if not root.exists():
        return
    paths = [root, *root.rglob("*")] if root.is_dir() else [root]
    unreadable = [path for path in paths if not os.access(path, os.R_OK)]
    if unreadable:
        yield Finding("environment", item, "fail", f"{unreadable[0]} cannot be read")
    elif found := _open_to_all([*paths, *beside]):
        yield Finding("environment", item, "fail", f"every user may change {found}")
    else:
        detail = f"{len(paths)} files and directories, read by us, not for every user to change"
        yield Finding("environment", item, "pass", detail)


def configuration(file: Path) -> Finding:
    """Whether the configuration is not for every user to change, who could name another model."""
    found = _open_to_all([file])
    detail = f"every user may change {found}" if found else "not for every user to change"
    return Finding("environment", "the configuration: permissions", passed(not found), detail)


def state(directory: Path) -> tuple[dict[str, Placement], Finding]:
    """Where the models stand, and whether a server could record there what becomes of them.

    A server that cannot serves what is configured, and rolls nothing out.
    """
    found: dict[str, Placement] = {}
    try:
        why = _unusable(directory)
        found = {} if why else recorded(directory)
    except JournalError as error:
        why = error.message
    except OSError as error:
        why = f"{directory} cannot be used: {error.strerror}"
    item = "the state can be kept"
    return found, Finding("environment", item, passed(not why), why or "by this user alone")


def _unusable(directory: Path) -> str:
    """Why a server could not keep its state there alone; empty where it can. Raises OSError."""
    file = directory / FILE
    there = next(place for place in (directory, *directory.parents) if place.exists())
    if not there.is_dir():
        return f"{there} is no directory"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written"
    if file.exists() and not os.access(file, os.R_OK | os.W_OK):
        return f"{file} cannot be read and written"
    if opened := _open_to_all([directory, file]):
        return f"every user may change {opened}, and so what is served"
    return ""


def _open_to_all(paths: Iterable[Path]) -> Path | None:
    """The first that every user may change, or exchange by its directory; None where none is.

    In a directory with the sticky bit, as /tmp has it, the files of others stay what they are.
    """
    above: set[Path] = set()
    for path in paths:
        if not path.exists():
            continue  # which loading says
        if path.stat().st_mode & stat.S_IWOTH:
            return path
        above |= {*path.absolute().parents, *path.resolve().parents}
    for place in sorted(above):
        mode = place.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return place
    return None
