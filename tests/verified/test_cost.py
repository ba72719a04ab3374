"""Predicted rows against those that ezkl counts, on layers of all kinds."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from support.networks import residual, shipped

from interlock.verified.cost import MARGIN, rows_of
from interlock.verified.directory import Cuts, cut
from interlock.verified.ezkl_backend import EzklBackend
from interlock.verified.lowering import lower
from interlock.verified.planner import tiling_of
from interlock.verified.proof_system import GRAPH
from interlock.verified.slices import Slice

pytestmark = pytest.mark.zk


def counted(graph: onnx.ModelProto, directory: Path) -> int:
    directory.mkdir()
    (directory / GRAPH).write_bytes(graph.SerializeToString())
    with EzklBackend() as backend:
        return backend.measure(directory).rows


def within(predicted: int, rows: int) -> bool:
    return predicted <= 1.02 * rows + 8 and rows <= MARGIN * predicted + 8


@pytest.mark.parametrize("name", ["net", "doom"])
def test_rows_of_the_shipped_models_are_predicted(name: str, tmp_path: Path) -> None:
    for part in cut(shipped(name), Cuts()).slices:
        graph = lower(onnx.load_from_string(part.model))
        assert within(rows_of(graph), counted(graph, tmp_path / part.name))


@pytest.mark.parametrize(
    ("name", "index", "size"), [("net", 0, (6, 2)), ("doom", 1, (32, 1)), ("doom", 3, (37, 1))]
)
def test_rows_of_pieces_are_predicted(
    name: str, index: int, size: tuple[int, int], tmp_path: Path
) -> None:
    part: Slice = cut(shipped(name), Cuts()).slices[index]
    _, graphs = tiling_of(part, size)
    assert within(rows_of(graphs[0]), counted(graphs[0], tmp_path / "piece"))


def test_rows_of_residual_blocks_are_predicted(tmp_path: Path) -> None:
    for part in cut(residual(), Cuts()).slices:
        graph = lower(onnx.load_from_string(part.model))
        assert within(rows_of(graph), counted(graph, tmp_path / part.name))
