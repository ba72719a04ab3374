"""The encoder that the server's bench asks: MiniLM's shape, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

LAYERS, WIDTH, HEADS, INNER, VOCABULARY = 6, 384, 12, 1536, 30522
TOKENS = 32


def encoder(path: Path) -> None:
    """Write MiniLM-L6's graph with random weights, from token ids to one score a text.

    input_ids and attention_mask int64 [batch, tokens], score float32 [batch]. What is measured is
    time, which weights do not change. They are int8 by channel; activations are rounded with one
    scale for the whole batch, so rows depend on their neighbours and are not merged by our server.
    """
    graph = _Graph(np.random.default_rng(0))
    x = graph.add(
        "Add",
        graph.add("Gather", graph.weight("words", VOCABULARY, WIDTH), "input_ids"),
        graph.weight("places", 1, TOKENS, WIDTH),
    )
    x = graph.norm(x)
    mask = graph.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    bias = graph.add("Mul", graph.add("Sub", mask, graph.constant(1.0)), graph.constant(1e4))
    bias = graph.add("Unsqueeze", bias, graph.constant([1, 2]))
    for _ in range(LAYERS):
        parts = [graph.heads(graph.dense(x, WIDTH, WIDTH)) for _ in range(3)]
        keys = graph.add("Transpose", parts[1], perm=[0, 1, 3, 2])
        scores = graph.add("MatMul", parts[0], keys)
        scores = graph.add("Mul", scores, graph.constant((WIDTH // HEADS) ** -0.5))
        weights = graph.add("Softmax", graph.add("Add", scores, bias), axis=-1)
        mixed = graph.add("MatMul", weights, parts[2])
        mixed = graph.add("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = graph.add("Reshape", mixed, graph.constant([0, 0, WIDTH]))
        x = graph.norm(graph.add("Add", x, graph.dense(mixed, WIDTH, WIDTH)))
        inner = graph.add("Gelu", graph.dense(x, WIDTH, INNER))
        x = graph.norm(graph.add("Add", x, graph.dense(inner, INNER, WIDTH)))
    pooled = graph.add("ReduceMean", x, graph.constant([1]), keepdims=0)
    score = graph.add("Sigmoid", graph.dense(pooled, WIDTH, 1))
    graph.add("Squeeze", score, graph.constant([1]), to="score")
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", TOKENS])
        for name in ("input_ids", "attention_mask")
    ]
    out = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])
    made = helper.make_graph(graph.nodes, "minilm", ids, [out], graph.weights)
    opset = helper.make_opsetid("", 20)
    whole = path.with_suffix(".float32.onnx")
    onnx.save(helper.make_model(made, opset_imports=[opset], ir_version=10), whole)
    quantize_dynamic(whole, path, per_channel=True, weight_type=QuantType.QInt8)
    whole.unlink()


class _Graph:
    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str, to: str | int | None = None, **about: Any) -> str:
        name = to if isinstance(to, str) else f"n{len(self.nodes)}"
        if isinstance(to, int):
            about["to"] = to
        self.nodes.append(helper.make_node(op, list(inputs), [name], **about))
        return name

    def constant(self, value: float | list[int]) -> str:
        array = np.asarray(value, dtype=np.float32 if isinstance(value, float) else np.int64)
        return self._keep(array)

    def weight(self, _: str, *shape: int) -> str:
        return self._keep(self._rng.normal(0, 0.05, shape).astype(np.float32))

    def dense(self, x: str, taken: int, given: int) -> str:
        product = self.add("MatMul", x, self.weight("dense", taken, given))
        return self.add("Add", product, self.weight("bias", given))

    def heads(self, x: str) -> str:
        split = self.add("Reshape", x, self.constant([0, 0, HEADS, WIDTH // HEADS]))
        return self.add("Transpose", split, perm=[0, 2, 1, 3])

    def norm(self, x: str) -> str:
        scale, bias = self.weight("scale", WIDTH), self.weight("bias", WIDTH)
        return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12)

    def _keep(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name
