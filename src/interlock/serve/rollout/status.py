"""What an operator is told of a model's versions, its rollout and the decisions about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from interlock.kernel.errors import JournalError, StorageError
from interlock.serve.rollout.loading import source_of
from interlock.serve.rollout.record import Record
from interlock.serve.rollout.store import Running
from interlock.serve.rollout.traffic import Traffic

if TYPE_CHECKING:
    from interlock.serve.hosting import Hosted


def status_of(
    hosted: Hosted, record: Record, numbers: Callable[[], dict[str, Any]], decisions: int
) -> dict[str, Any]:
    """Versions, the rollout under way with its numbers, and the latest decisions."""
    traffic, placement = hosted.traffic, record.placement
    running = placement.running
    found: dict[str, Any] = {
        "model": hosted.name,
        "stable": None if traffic is None else msgspec.to_builtins(source_of(traffic.stable)),
        "previous": None if placement.previous is None else placement.previous.digest,
        "rollout": None if running is None else _under_way(running, traffic, numbers()),
        "fault": hosted.fault,
        "retiring": hosted.retiring,
        "decisions": [],
    }
    try:
        made = record.decisions(decisions)
    except (JournalError, StorageError) as error:
        found["fault"] = error.message
    else:
        found["decisions"] = [msgspec.to_builtins(decision) for decision in made]
    return found


def _under_way(
    running: Running, traffic: Traffic | None, numbers: dict[str, Any]
) -> dict[str, Any]:
    watch = None if traffic is None else traffic.watch
    return {
        "id": running.id,
        "mode": running.mode,
        "percent": running.percent,
        "candidate": running.candidate.digest,
        "path": running.candidate.path,
        "started": running.started,
        "held": running.held,
        "asked": {} if watch is None else dict(watch.asked),
        "shadow": {} if watch is None else dict(watch.shadow),
        "evidence": numbers,
    }
