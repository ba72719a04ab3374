"""What is known about a run without reading its items' contents."""

from __future__ import annotations

import os
import platform
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from interlock.kernel.journal_digest import Setting
from interlock.kernel.journal_lock import FileHold
from interlock.kernel.outcome import Status

RunState = Literal["running", "done", "interrupted", "failed"]

SELECT_RUN = (
    "SELECT id, run_id, name, state, created, finished, config_digest, inputs_digest, settings,"
    " versions, holder FROM runs"
)


@dataclass(frozen=True)
class RunInfo:
    """A run's state and counts.

    `state` is `running` while a process holds the run; one that was killed is `interrupted`.
    `pending` items have no outcome; `open_attempts` of them were begun. `withdrawn` items were
    removed or changed by an accepted change and count nowhere else. Digests are SHA-256 in hex,
    defined in `interlock.kernel.journal_digest`; `settings` holds the leaves of the configuration
    by path, `(not shown)` for text. `versions` names what created the run.
    """

    run_id: str
    name: str
    state: RunState
    created: datetime
    finished: datetime | None
    items: int
    pending: int
    open_attempts: int
    counts: dict[Status, int]
    withdrawn: int
    config_digest: str
    inputs_digest: str
    settings: dict[str, Any]
    versions: dict[str, str]
    changes: tuple[str, ...]
    holder: str | None


class Holder(msgspec.Struct, frozen=True):
    """The process that holds a run."""

    pid: int
    host: str

    @property
    def text(self) -> str:
        """`process 12`, with the host where it is another one."""
        return f"process {self.pid}" + ("" if self.host == _host() else f" on {self.host}")


def this_holder() -> bytes:
    """This process, as kept in the run."""
    return msgspec.json.encode(Holder(os.getpid(), _host()))


def read_holder(recorded: bytes | None) -> str | None:
    """The recorded holder in words."""
    return None if recorded is None else msgspec.json.decode(recorded, type=Holder).text


def versions() -> dict[str, str]:
    """The releases that write the journal."""
    import interlock

    return {
        "interlock": interlock.__version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def milliseconds(moment: datetime) -> int:
    """A time stamp as stored."""
    return round(moment.timestamp() * 1000)


def moment(stored: int) -> datetime:
    """A stored time stamp."""
    return datetime.fromtimestamp(stored / 1000, UTC)


def count_outcomes(connection: sqlite3.Connection, run: int) -> dict[Status, int]:
    """How many current items ended in each status, zeros included."""
    rows = connection.execute(
        "SELECT status, count(*) FROM items JOIN outcomes ON item = items.id"
        " WHERE run = ? AND position IS NOT NULL GROUP BY status",
        (run,),
    )
    return dict.fromkeys(Status, 0) | {Status(name): count for name, count in rows}


def count_items(connection: sqlite3.Connection, run: int) -> int:
    """How many current items the run has."""
    row = connection.execute(
        "SELECT count(*) FROM items WHERE run = ? AND position IS NOT NULL", (run,)
    ).fetchone()
    return int(row[0])


def run_info(connection: sqlite3.Connection, journal: Path, row: tuple[Any, ...]) -> RunInfo:
    """What a row of `SELECT_RUN` and the run's items say."""
    run, run_id, name, state, created, finished, config, inputs, settings, made_by, holder = row
    held = state == "running" and FileHold.is_held(journal, run_id)
    counts = count_outcomes(connection, run)
    items = count_items(connection, run)
    withdrawn, open_attempts = connection.execute(
        "SELECT (SELECT count(*) FROM items WHERE run = :run AND position IS NULL),"
        " (SELECT count(*) FROM items WHERE run = :run AND position IS NOT NULL"
        "  AND NOT EXISTS (SELECT 1 FROM outcomes WHERE item = items.id)"
        "  AND EXISTS (SELECT 1 FROM attempts WHERE item = items.id))",
        {"run": run},
    ).fetchone()
    changes = connection.execute(
        "SELECT accepted, change FROM changes WHERE run = ? ORDER BY rowid", (run,)
    )
    return RunInfo(
        run_id=run_id,
        name=name,
        state=state if state != "running" or held else "interrupted",
        created=moment(created),
        finished=None if finished is None else moment(finished),
        items=items,
        pending=items - sum(counts.values()),
        open_attempts=open_attempts,
        counts=counts,
        withdrawn=withdrawn,
        config_digest=config.hex(),
        inputs_digest=inputs.hex(),
        settings={
            path: msgspec.json.decode(setting.json) if setting.json else setting.text
            for path, setting in msgspec.json.decode(settings, type=dict[str, Setting]).items()
        },
        versions=msgspec.json.decode(made_by, type=dict[str, str]),
        changes=tuple(f"{moment(at):%Y-%m-%d %H:%M:%S} {change}" for at, change in changes),
        holder=read_holder(holder) if held else None,
    )


def _host() -> str:
    return platform.node()
