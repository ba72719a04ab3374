"""What circuits cost against what is predicted: rows, key bytes, peak memory, seconds.

python bench/circuit_cost.py [largest logrows, 14]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from interlock.verified.circuit_prover import CircuitProver
from interlock.verified.cost import cost_of, instances_of, rows_of
from interlock.verified.directory import Cuts, cut
from interlock.verified.ezkl_backend import EzklBackend
from interlock.verified.lowering import lower
from interlock.verified.planner import plan_slice, tiling_of
from interlock.verified.proof_system import GRAPH, PROVING_KEY
from interlock.verified.prover import Limits

MODELS = Path(__file__).parents[1] / "models"
LAPTOP = Limits(key_bytes=300_000_000, memory_bytes=1_500_000_000)

# Inputs and outputs of dense layers that fill circuits of 2^9 to 2^16 rows well.
SIZES = {
    9: (10, 13),
    10: (84, 10),
    11: (100, 20),
    12: (200, 28),
    13: (200, 60),
    14: (400, 60),
    15: (400, 120),
    16: (784, 120),
}


def dense(inputs: int, outputs: int) -> onnx.ModelProto:
    """A Gemm of that size."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32) / np.sqrt(inputs)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs])],
        [
            numpy_helper.from_array(weight.astype(np.float32), "w"),
            numpy_helper.from_array(np.zeros(outputs, np.float32), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def rows() -> None:
    """Rows of the shipped models' slices and of the pieces that they are planned in."""
    print("rows, predicted / counted by ezkl")
    errors = []
    with EzklBackend() as backend:
        for name in ("net", "doom"):
            for part in cut((MODELS / name / "model.onnx").read_bytes(), Cuts()).slices:
                graphs = {"whole": lower(onnx.load_from_string(part.model))}
                planned = plan_slice(part, LAPTOP).tiling
                if planned is not None and planned.size is not None:
                    graphs["piece"] = tiling_of(part, planned.size)[1][0]
                for what, graph in graphs.items():
                    with tempfile.TemporaryDirectory() as scratch:
                        (Path(scratch) / GRAPH).write_bytes(graph.SerializeToString())
                        counted = backend.measure(Path(scratch)).rows
                    errors.append(rows_of(graph) / counted - 1)
                    print(f"  {name} {part.name} {what:5} {rows_of(graph):8} / {counted:8}")
    print(f"  largest error {100 * max(map(abs, errors)):.2f}% of {len(errors)} circuits")


def costs(largest: int) -> None:
    """Key, memory and time of dense layers."""
    print("dense layers, one thread: predicted / measured")
    with CircuitProver(workers=1) as prover:
        for logrows, size in SIZES.items():
            if logrows > largest:
                continue
            graph = lower(onnx.shape_inference.infer_shapes(dense(*size)))
            cost = cost_of(rows_of(graph), instances_of(graph))
            with tempfile.TemporaryDirectory() as scratch, EzklBackend() as backend:
                place = Path(scratch)
                (place / GRAPH).write_bytes(graph.SerializeToString())
                backend.measure(place)
                backend.compile(place, logrows)
                srs = prover.srs.provide(logrows, backend).path
                backend.setup(place, srs)
                given = [np.ones((1, size[0]), np.float32) / 8]
                backend.prove(place, srs, given)
                began = time.perf_counter()
                backend.prove(place, srs, given)
                seconds = time.perf_counter() - began
                status = Path(f"/proc/{backend._worker.pid}/status").read_text()
                peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
                key = (place / PROVING_KEY).stat().st_size
            print(
                f"  logrows {logrows}: key {cost.key_bytes / 1e6:.1f} / {key / 1e6:.1f} MB, "
                f"memory {cost.memory_bytes / 1e6:.0f} / {peak / 1e6:.0f} MB, "
                f"proof {cost.prove_seconds:.2f} / {seconds:.2f} s"
            )


def main() -> None:
    """Print predictions beside measurements."""
    print(measure.machine(("ezkl",)))
    rows()
    costs(int(sys.argv[1]) if len(sys.argv) > 1 else 14)


if __name__ == "__main__":
    main()
