"""What is remembered of a slice's circuits, and when it does not count."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support.circuits import tiny

from interlock.verified.circuit_records import CircuitRecords, Record, circuit_digest
from interlock.verified.ezkl_backend import CircuitSettings
from interlock.verified.planner import tiling_of

PART, OTHER = tiny().slices[:2]
SETTINGS = CircuitSettings()


def records(cache: Path, scale: int = 13, origin: str = "development") -> CircuitRecords:
    return CircuitRecords(cache, CircuitSettings(scale), origin)


def test_a_record_is_found_again_by_the_same_slice_alone(tmp_path: Path) -> None:
    record = Record(PART.sha256, (1, 2), ("a", "b"))
    records(tmp_path).write(PART, record)
    assert records(tmp_path).read(PART) == record
    assert records(tmp_path).read(OTHER) is None
    assert records(tmp_path, scale=12).read(PART) is None
    assert records(tmp_path, origin="file").read(PART) is None


def test_a_record_under_another_slices_name_does_not_count(tmp_path: Path) -> None:
    records(tmp_path).write(OTHER, Record(PART.sha256, None, ("a",)))
    assert records(tmp_path).read(OTHER) is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"slice_sha256": 1}'])
def test_a_broken_record_does_not_count(tmp_path: Path, data: bytes) -> None:
    records(tmp_path).write(PART, Record(PART.sha256, None, ("a",)))
    (path,) = (tmp_path / "plans").glob("*.json")
    path.write_bytes(data)
    assert records(tmp_path).read(PART) is None


def test_seconds_are_those_of_the_last_proof(tmp_path: Path) -> None:
    assert records(tmp_path).seconds(PART) is None
    for seconds in (1.5, 0.25):
        records(tmp_path).write_seconds(PART, seconds)
    assert records(tmp_path).seconds(PART) == 0.25
    (path,) = (tmp_path / "plans").glob("*.seconds")
    path.write_text("soon")
    assert records(tmp_path).seconds(PART) is None


@pytest.mark.parametrize("size", [None, (1, 1), (2, 3)])
def test_graphs_are_named_by_their_bytes(tmp_path: Path, size: tuple[int, int] | None) -> None:
    tiling, digests = records(tmp_path).graphs(PART, size)
    expected, graphs = tiling_of(PART, size)
    assert tiling == expected
    assert digests == [
        hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest() for graph in graphs
    ]
    assert len(set(digests)) == len(tiling.circuits)


def test_a_circuits_digest_depends_on_all_that_makes_it() -> None:
    digests = {
        circuit_digest("ezkl 1", SETTINGS, 9, "graph", "srs"),
        circuit_digest("ezkl 2", SETTINGS, 9, "graph", "srs"),
        circuit_digest("ezkl 1", CircuitSettings(12), 9, "graph", "srs"),
        circuit_digest("ezkl 1", SETTINGS, 10, "graph", "srs"),
        circuit_digest("ezkl 1", SETTINGS, 9, "other", "srs"),
        circuit_digest("ezkl 1", SETTINGS, 9, "graph", "other"),
    }
    assert len(digests) == 6
