"""Strict decode against bare division and against the peer, and fused into a network's graph."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import partial
from typing import Any

import measure
import numpy as np
import onnx
import onnxruntime as ort
import peer_venv
import peer_zeroproof
from onnx import TensorProto, helper, numpy_helper

from interlock.strict import InferenceConfig, decode_numba, strict_inference
from interlock.strict.graph import append_decode

CONFIG = InferenceConfig(1e-6, 1e-4)
DIVISION, PEER, PEER_TORCH = "preallocated division", "peer, NumPy", "peer, torch"


def run() -> list[str]:
    """Print every figure; return the lines of the bars."""
    peer_python = peer_venv.interpreter("zeroproofml", peer_zeroproof.REQUIREMENTS)
    bars = []
    with (
        peer_zeroproof.Peer(peer_python) as peer,
        peer_zeroproof.Peer(peer_python) as peer_torch,
    ):
        for dtype in ("float32", "float64"):
            for n in (1, 1_000, 1_000_000):
                times = _decode(peer, peer_torch, dtype, n)
                show(f"decode, {dtype}, {n:,} elements", times, (DIVISION, PEER))
                if n == 1_000_000:
                    division = times.ratio("numba, out=", DIVISION)[0]
                    faster = 1 / times.ratio("numba, out=", PEER)[0]
                    bars += [
                        measure.bar(f"numba / division, {dtype}, 1e6", division, 2.5),
                        measure.bar(f"peer / numba, {dtype}, 1e6", faster, 50, at_least=True),
                    ]
    for batch in (1, 1_000, 10_000):
        times = _network(batch)
        show(f"MLP-256, batch {batch:,}", times, ("model + Div",))
        if batch >= 1_000:
            ratio = times.ratio("model + fused decode", "model + Div")[0]
            bars.append(measure.bar(f"MLP-256 fused / model + Div, {batch:,}", ratio, 1.15))
    return bars


def show(title: str, times: measure.Times, bases: tuple[str, ...]) -> None:
    """Print the median time of each case, and its ratio to each of `bases`."""
    print(f"\n{title}")
    for case in times.samples:
        ratios = []
        for base in bases:
            middle, low, high = times.ratio(case, base)
            ratios.append(f"{middle:8.3f} x {base} [{low:.3f} to {high:.3f}]")
        print(f"  {case:24} {measure.duration(times.median(case)):>9}  {'  '.join(ratios)}")


def _pair(n: int, dtype: str) -> tuple[Any, Any]:
    """Like a network's answers: most denominators ordinary, some near or below the threshold."""
    rng = np.random.default_rng(7)
    q = rng.normal(size=n)
    small = rng.random(n) < 0.1
    q[small] *= 10 ** rng.uniform(-8, -3, small.sum())
    return rng.normal(size=n).astype(dtype), q.astype(dtype)


def _decode(
    peer: peer_zeroproof.Peer, peer_torch: peer_zeroproof.Peer, dtype: str, n: int
) -> measure.Times:
    p, q = _pair(n, dtype)
    quotient = np.empty_like(p)
    out = (np.empty_like(p), np.empty(n, np.bool_), np.empty(n, np.bool_))
    decode_numba.compile_kernels()
    graph = session(append_decode(bare(dtype), p="P", q="Q", config=CONFIG))
    peer.load(p, q, backend="numpy", config=CONFIG)
    peer_torch.load(p, q, backend="torch", config=CONFIG)

    def divide() -> None:
        # What a caller without masks would run, warnings silenced as a decode has to.
        with np.errstate(all="ignore"):
            np.divide(p, q, out=quotient)

    cases = {
        DIVISION: measure.calls_of(lambda: np.divide(p, q, out=quotient)),
        "division under errstate": measure.calls_of(divide),
        "numpy": measure.calls_of(lambda: strict_inference(p, q, config=CONFIG, engine="numpy")),
        "numba": measure.calls_of(lambda: strict_inference(p, q, config=CONFIG, engine="numba")),
        "numba, out=": measure.calls_of(
            lambda: strict_inference(p, q, config=CONFIG, engine="numba", out=out)
        ),
        "onnxruntime": measure.calls_of(lambda: graph.run(None, {"p": p, "q": q})),
        PEER: peer.seconds,
        PEER_TORCH: peer_torch.seconds,
    }
    cases |= dict(_torch_cases(p, q))
    return measure.interleaved(cases)


def _torch_cases(p: Any, q: Any) -> Iterator[tuple[str, measure.Sampler]]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    torch.set_num_threads(1)
    tensors = torch.from_numpy(p), torch.from_numpy(q)
    yield "torch", measure.calls_of(lambda: strict_inference(*tensors, config=CONFIG))


def bare(dtype: str, rank: int = 1, q_tail: tuple[int, ...] = ()) -> onnx.ModelProto:
    """A model that hands its inputs p and q on as P and Q; P has `rank` axes."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    dims: dict[str, list[str | int | None]] = {
        "p": ["batch", *["width"] * (rank - 1)],
        "q": ["batch", *q_tail],
    }

    def described(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, dims[name.lower()])

    nodes = [helper.make_node("Identity", [name], [name.upper()]) for name in ("p", "q")]
    graph = helper.make_graph(
        nodes, "bare", [described("p"), described("q")], [described("P"), described("Q")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def mlp() -> onnx.ModelProto:
    """4 inputs, two hidden layers of 256, heads P (2) and Q (1)."""
    rng = np.random.default_rng(3)
    nodes, weights, source = [], [], "x"
    for index, (rows, columns) in enumerate([(4, 256), (256, 256), (256, 3)]):
        matrix = rng.normal(0, rows**-0.5, (rows, columns)).astype(np.float32)
        weights += [
            numpy_helper.from_array(matrix, f"w{index}"),
            numpy_helper.from_array(np.zeros(columns, np.float32), f"b{index}"),
        ]
        nodes.append(helper.make_node("Gemm", [source, f"w{index}", f"b{index}"], [f"h{index}"]))
        source = f"h{index}"
        if index < 2:
            nodes.append(helper.make_node("Relu", [source], [f"r{index}"]))
            source = f"r{index}"
    weights.append(numpy_helper.from_array(np.array([2, 1]), "sizes"))
    nodes.append(helper.make_node("Split", [source, "sizes"], ["P", "Q"], axis=1))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
            for name, width in (("P", 2), ("Q", 1))
        ],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _network(batch: int) -> measure.Times:
    divided = mlp()
    divided.graph.node.append(helper.make_node("Div", ["P", "Q"], ["quotient"]))
    del divided.graph.output[:]
    divided.graph.output.append(
        helper.make_tensor_value_info("quotient", TensorProto.FLOAT, ["batch", 2])
    )
    fused = append_decode(mlp(), p="P", q="Q", config=CONFIG)
    x = {"x": np.random.default_rng(4).normal(size=(batch, 4)).astype(np.float32)}
    sessions = {"model + Div": session(divided), "model + fused decode": session(fused)}
    cases = {
        name: measure.calls_of(partial(graph.run, None, x)) for name, graph in sessions.items()
    }
    return measure.interleaved(cases, rounds=40)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """A session with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options)
