"""What is known of a slice's circuits between calls: how it was set up, and what proving took.

Small files below the cache of keys, named by the slice and by what its circuits share. A record
names circuits by their digest alone; whether they are the slice's own is computed from its graph,
so that a record that was replaced, or that another release wrote, proves nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from interlock.kernel.replace_file import replace_file
from interlock.verified.ezkl_backend import CircuitSettings
from interlock.verified.planner import Tiling, tiling_of
from interlock.verified.slices import Slice


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a slice was set up: the size of its tiles and the digests of its circuits, in order."""

    slice_sha256: str
    size: tuple[int, int] | None
    circuits: tuple[str, ...]


class CircuitRecords:
    """The records below `cache`, of circuits with these settings under SRS of this origin."""

    def __init__(self, cache: Path, settings: CircuitSettings, srs_origin: str) -> None:
        self._cache = cache
        self._shared = f"{settings.scale} {srs_origin}"
        self._graphs: dict[tuple[str, tuple[int, int] | None], tuple[Tiling, list[str]]] = {}

    def read(self, part: Slice) -> Record | None:
        """How the slice was set up; None where it was not."""
        try:
            data = self._path(part, ".json").read_bytes()
            record = msgspec.json.decode(data, type=Record)
        except (OSError, msgspec.MsgspecError):
            return None
        return record if record.slice_sha256 == part.sha256 else None

    def write(self, part: Slice, record: Record) -> None:
        """Replace the slice's record; raises StorageError."""
        replace_file(self._path(part, ".json"), msgspec.json.encode(record), parents=True)

    def seconds(self, part: Slice) -> float | None:
        """What the last proof of the slice took."""
        try:
            return float(self._path(part, ".seconds").read_text("ascii"))
        except (OSError, ValueError):
            return None

    def write_seconds(self, part: Slice, seconds: float) -> None:
        """Remember what a proof took; raises StorageError."""
        replace_file(self._path(part, ".seconds"), f"{seconds:.6f}".encode(), parents=True)

    def compiled(self, part: Slice) -> Path:
        """Where the slice's circuit in one piece is, or would be, without keys."""
        return self._cache / "compiled" / self._key(part)

    def graphs(self, part: Slice, size: tuple[int, int] | None) -> tuple[Tiling, list[str]]:
        """The tiling of a slice, and the SHA-256 of the lowered graph of each circuit, in order.

        Raises EngineUnavailableError where the slice cannot be cut so.
        """
        key = (part.sha256, size)
        found = self._graphs.get(key)
        if found is None:
            tiling, graphs = tiling_of(part, size)
            data = (graph.SerializeToString(deterministic=True) for graph in graphs)
            found = tiling, [hashlib.sha256(one).hexdigest() for one in data]
            self._graphs[key] = found
        return found

    def _path(self, part: Slice, ending: str) -> Path:
        return self._cache / "plans" / (self._key(part) + ending)

    def _key(self, part: Slice) -> str:
        return hashlib.sha256(f"{self._shared} {part.sha256}".encode()).hexdigest()


def circuit_digest(
    backend: str, settings: CircuitSettings, logrows: int, graph_sha256: str, srs_sha256: str
) -> str:
    """The SHA-256 that names a circuit: its graph, how it is laid out, and its SRS."""
    told = {
        "backend": backend,
        "settings": settings.told(),
        "logrows": logrows,
        "graph_sha256": graph_sha256,
        "srs_sha256": srs_sha256,
    }
    return hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()
