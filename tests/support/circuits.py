"""A network small enough that its circuits prove in a second, and keys that a process shares."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from interlock.kernel.batch import Array
from interlock.verified.chain import ChainRun, SliceChain
from interlock.verified.circuit_prover import CircuitProver
from interlock.verified.directory import Cuts, cut
from interlock.verified.prover import Limits
from interlock.verified.slices import SlicedModel
from interlock.verified.steps import Policy

# Nine rows' bits in all circuits: the smallest that hold a table of 256.
SMALL = Limits(key_bytes=2_200_000, memory_bytes=1_500_000_000)


@cache
def tiny() -> SlicedModel:
    """A convolution with ReLU and pooling, and two dense layers, in three slices."""
    rng = np.random.default_rng(20260101)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)
        return numpy_helper.from_array(values.astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "cw", "cb"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "dw", "db"], ["d"], transB=1),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "ow", "ob"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 6, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [
            weight("cw", 2, 1, 3, 3),
            weight("cb", 2),
            weight("dw", 4, 12),
            weight("db", 4),
            weight("ow", 3, 4),
            weight("ob", 3),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return cut(model.SerializeToString(), Cuts())


def image(seed: int = 0) -> dict[str, Array]:
    """An input of the tiny network."""
    rng = np.random.default_rng(seed)
    return {"x": rng.uniform(-1, 1, (1, 1, 6, 4)).astype(np.float32)}


@cache
def shared_cache() -> Path:
    """Keys of the tiny network, kept between the tests of one process: each takes a second to make.

    Tests set slices up in other pieces, so processes that run side by side must not share them.
    """
    directory = Path(tempfile.mkdtemp(prefix="interlock-tests-zk-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def ready_prover(slices: tuple[int, ...] = (0, 1, 2)) -> Iterator[CircuitProver]:
    """A prover with these slices of the tiny network set up, in pieces of 2^9 rows."""
    with CircuitProver(shared_cache(), ceiling=SMALL, workers=1) as prover:
        for index in slices:
            prover.setup(tiny().slices[index])
        yield prover


def infer(prover: CircuitProver, *, seed: int = 0, excluded: tuple[str, ...] = ()) -> ChainRun:
    """An inference of the tiny network with its record; `excluded` slices are left to ONNX."""
    policy = Policy(record=True, excluded=dict.fromkeys(excluded, "excluded by the test"))
    return SliceChain(tiny(), prover).run(image(seed), policy)
