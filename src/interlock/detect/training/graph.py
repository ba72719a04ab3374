"""The detector as one ONNX graph: encoder, n-grams and rule features to a logit a window.

The encoder's matrices are int8, the word vectors int8 with a scale a row. Activations are rounded
with one scale for all windows of a run (DynamicQuantizeMatMul), their channels made alike before
(see `smooth`), but for the matrices behind the GELU, whose outliers need a scale a block
(MatMulNBits). So a window's result depends a little on
the windows beside it: run each by itself. Written with the operators that ONNX Runtime has for
transformers, without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from interlock.engines.generate.convert.linear import ACCURACY, round_to_int8

Floats = np.ndarray[Any, np.dtype[np.float32]]
Tensors = Mapping[str, Floats]

HEADS = 12
LEVELS = 63
"""Largest level of a weight. Seven bits: with eight, sums of two products overflow the 16 bits that
processors without VNNI have for them."""
WIDE_BLOCK = 128
EPSILON = 1e-12
_MS = "com.microsoft"


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Everything that the graph holds.

    encoder        the encoder's tensors, named as in `interlock.detect.training.minilm`
    attack         (2, 384) and bias (2,): the attack logit for a user's text and for a document
    family         (F, 384) and bias (F,)
    ngram_weight   (buckets,), with `ngram_idf` and `ngram_bias`: see `linear.NgramModel`
    rule_weight    (R,) and `rule_bias`
    mix            (3,) of the logits of encoder, n-grams and rules, and `mix_bias`
    smooth         (k,) numbers by a matrix's name, which its input's channels are divided by
    """

    encoder: Tensors
    attack: Floats
    attack_bias: Floats
    family: Floats
    family_bias: Floats
    ngram_weight: Floats
    ngram_idf: Floats
    ngram_bias: float
    rule_weight: Floats
    rule_bias: float
    mix: Floats
    mix_bias: float
    smooth: Tensors = field(default_factory=dict)


def build(parts: Parts, *, int8: bool = True) -> onnx.ModelProto:
    """The graph; `int8=False` keeps the encoder in float32.

    Inputs   input_ids, attention_mask (W, T) int64; ngrams (W, G) int64; rules (W, R) float32;
             document (W, 1) float32
    Outputs  embedding (W, 384) float32 of length 1; score (W,); logit (W,); families (W, F);
             encoder_logit, ngram_logit, rule_logit (W,); all float32
    """
    graph = _Graph(int8, parts.smooth)
    embedding = _encoder(graph, parts.encoder)
    both = graph.add(
        "Gemm",
        [embedding, graph.put("attack", parts.attack), graph.put("attack.bias", parts.attack_bias)],
        transB=1,
    )
    user, document = graph.add("Split", [both], outputs=2, axis=1, num_outputs=2)
    apart = graph.add("Sub", [document, user])
    mixed = graph.add("Add", [user, graph.add("Mul", [apart, "document"])])
    flat = graph.put("flat", np.array([-1], dtype=np.int64))
    graph.add("Reshape", [mixed, flat], names=["encoder_logit"])
    family = graph.add(
        "Gemm",
        [embedding, graph.put("family", parts.family), graph.put("family.bias", parts.family_bias)],
        transB=1,
    )
    graph.add("Sigmoid", [family], names=["families"])
    _ngrams(graph, parts)
    rules = graph.add(
        "MatMul", ["rules", graph.put("rules.weight", parts.rule_weight.reshape(-1, 1))]
    )
    rules = graph.add("Reshape", [rules, flat])
    graph.add(
        "Add", [rules, graph.put("rules.bias", _scalar(parts.rule_bias))], names=["rule_logit"]
    )
    total = graph.put("mix.bias", _scalar(parts.mix_bias))
    names = ("encoder_logit", "ngram_logit", "rule_logit")
    for index, (name, weight) in enumerate(zip(names, parts.mix, strict=True)):
        share = graph.add("Mul", [name, graph.put(f"mix.{index}", _scalar(float(weight)))])
        total = graph.add("Add", [total, share], names=["logit"] if index == 2 else None)
    graph.add("Sigmoid", ["logit"], names=["score"])
    return graph.model(len(parts.rule_weight), len(parts.family))


def _encoder(graph: _Graph, tensors: Tensors) -> str:
    words = graph.rows("words", tensors["words.weight"], "input_ids")
    # Position vectors of as many places as the longest window has.
    one = graph.put("one", np.array([1], dtype=np.int64))
    zero = graph.put("zero", np.array([0], dtype=np.int64))
    shape = graph.add("Shape", ["input_ids"])
    tokens = graph.add("Gather", [shape, one], axis=0)
    places = graph.put("positions", tensors["positions.weight"] + tensors["kinds.weight"][0])
    places = graph.add("Slice", [places, zero, tokens, zero])
    hidden = graph.norm("norm", tensors, graph.add("Add", [words, places]))
    mask = graph.add("Cast", ["attention_mask"], to=TensorProto.INT32)
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
    for layer in range(layers):
        at = f"layers.{layer}"
        both = graph.dense(f"{at}.qkv", tensors, hidden)
        query, key, value = graph.add("Split", [both], outputs=3, axis=2, num_outputs=3)
        bias = np.concatenate([tensors[f"{at}.{part}.bias"] for part in _QKV])
        attended = graph.add(
            "MultiHeadAttention",
            [query, key, value, graph.put(f"{at}.qkv.bias", bias), mask],
            domain=_MS,
            num_heads=HEADS,
        )
        mixed = graph.dense(f"{at}.mixed", tensors, attended)
        hidden = graph.skip(f"{at}.mixed", tensors, mixed, hidden)
        wide = graph.dense(f"{at}.wide", tensors, hidden)
        wide = graph.add(
            "BiasGelu", [wide, graph.put(f"{at}.wide.bias", tensors[f"{at}.wide.bias"])], domain=_MS
        )
        narrow = graph.dense(f"{at}.narrow", tensors, wide, blocks=True)
        hidden = graph.skip(f"{at}.narrow", tensors, narrow, hidden, norm=f"{at}.norm")
    weight = graph.add("Cast", ["attention_mask"], to=TensorProto.FLOAT)
    weight = graph.add("Unsqueeze", [weight, graph.put("last", np.array([2], dtype=np.int64))])
    total = graph.add("ReduceSum", [graph.add("Mul", [hidden, weight]), one], keepdims=0)
    # The mean's divisor is gone once the length is 1.
    return str(graph.add("LpNormalization", [total], names=["embedding"], axis=1, p=2))


_QKV = ("query", "key", "value")


def matrices(tensors: Tensors, name: str) -> Floats:
    """(n, k) of an encoder's matrix by name; of `qkv`, the three one below the other."""
    at, _, kind = name.rpartition(".")
    parts = _QKV if kind == "qkv" else (kind,)
    return np.concatenate([tensors[f"{at}.{part}.weight"] for part in parts]).astype(np.float32)


def _ngrams(graph: _Graph, parts: Parts) -> None:
    one = graph.put("one", np.array([1], dtype=np.int64))
    product = (parts.ngram_weight * parts.ngram_idf).astype(np.float32)
    square = (parts.ngram_idf * parts.ngram_idf).astype(np.float32)
    # Both columns of a bucket lie side by side: one look-up brings them.
    pairs = graph.put("ngrams.table", np.stack([product, square], axis=1))
    found = graph.add("Gather", [pairs, "ngrams"], axis=0)
    sums = graph.add("ReduceSum", [found, one], keepdims=0)
    total, squares = graph.add("Split", [sums], outputs=2, axis=1, num_outputs=2)
    least = graph.put("ngrams.least", _scalar(1e-12))
    norm = graph.add("Sqrt", [graph.add("Max", [squares, least])])
    flat = graph.put("flat", np.array([-1], dtype=np.int64))
    ratio = graph.add("Reshape", [graph.add("Div", [total, norm]), flat])
    graph.add(
        "Add", [ratio, graph.put("ngrams.bias", _scalar(parts.ngram_bias))], names=["ngram_logit"]
    )


def _scalar(value: float) -> Floats:
    return np.array([value], dtype=np.float32)


class _Graph:
    """Nodes and constants as they are added."""

    def __init__(self, int8: bool, smooth: Tensors) -> None:
        self.int8 = int8
        self.smooth = smooth
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, onnx.TensorProto] = {}
        self.count = 0

    def put(self, name: str, value: np.ndarray[Any, Any]) -> str:
        """A constant; one that is there already is used again."""
        if name not in self.stored:
            self.stored[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def add(
        self,
        kind: str,
        inputs: list[str],
        *,
        outputs: int = 1,
        names: list[str] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> Any:
        """A node; the name of its output, or a list where it has several."""
        self.count += 1
        given = names or [f"{kind}_{self.count}_{index}" for index in range(outputs)]
        self.nodes.append(
            helper.make_node(
                kind, inputs, given, f"{kind}_{self.count}", domain=domain, **attributes
            )
        )
        return given[0] if len(given) == 1 else given

    def rows(self, name: str, table: Floats, ids: str) -> str:
        """The rows of a table that `ids` name."""
        if not self.int8:
            return str(self.add("Gather", [self.put(name, table), ids], axis=0))
        scale = np.maximum(np.abs(table).max(axis=1, keepdims=True), 1e-12) / 127
        levels = np.rint(table / scale).astype(np.int8)
        found = self.add("Gather", [self.put(f"{name}.levels", levels), ids], axis=0)
        found = self.add("Cast", [found], to=TensorProto.FLOAT)
        scales = self.put(f"{name}.scale", scale.astype(np.float32))
        return str(self.add("Mul", [found, self.add("Gather", [scales, ids], axis=0)]))

    def dense(self, name: str, tensors: Tensors, hidden: str, *, blocks: bool = False) -> str:
        """hidden Wᵀ without a bias; see `matrices`.

        blocks  a scale for each block of activations and weights, in place of one for all
                activations and one for each row of the matrix
        """
        whole = matrices(tensors, name)
        if not self.int8:
            return str(self.add("MatMul", [hidden, self.put(name, whole.T)]))
        if not blocks:
            if name in self.smooth:
                whole = whole * self.smooth[name]
                inverse = self.put(f"{name}.smooth", np.reciprocal(self.smooth[name]))
                hidden = str(self.add("Mul", [hidden, inverse]))
            scale = np.maximum(np.abs(whole).max(axis=1), np.float32(1e-12)) / np.float32(LEVELS)
            levels = np.rint(whole / scale[:, None]).astype(np.int8)
            stored = [self.put(f"{name}.levels", levels.T), self.put(f"{name}.scale", scale)]
            return str(self.add("DynamicQuantizeMatMul", [hidden, *stored], domain=_MS))
        packed = round_to_int8(whole, WIDE_BLOCK)
        stored = [
            self.put(f"{name}.levels", packed.packed),
            self.put(f"{name}.scale", packed.scale),
        ]
        return str(
            self.add(
                "MatMulNBits",
                [hidden, *stored],
                domain=_MS,
                K=packed.k,
                N=packed.packed.shape[0],
                bits=packed.bits,
                block_size=WIDE_BLOCK,
                accuracy_level=ACCURACY,
            )
        )

    def norm(self, name: str, tensors: Tensors, hidden: str) -> str:
        gains = [self.put(f"{name}.{kind}", tensors[f"{name}.{kind}"]) for kind in _NORM]
        return str(self.add("LayerNormalization", [hidden, *gains], axis=-1, epsilon=EPSILON))

    def skip(
        self, name: str, tensors: Tensors, change: str, hidden: str, norm: str | None = None
    ) -> str:
        """The layer norm of hidden + change + the bias of `name`."""
        norm = norm or f"{name}_norm"
        gains = [self.put(f"{norm}.{kind}", tensors[f"{norm}.{kind}"]) for kind in _NORM]
        bias = self.put(f"{name}.bias", tensors[f"{name}.bias"])
        return str(
            self.add(
                "SkipLayerNormalization",
                [change, hidden, *gains, bias],
                domain=_MS,
                epsilon=EPSILON,
            )
        )

    def model(self, rules: int, families: int) -> onnx.ModelProto:
        integer, real = TensorProto.INT64, TensorProto.FLOAT
        inputs = [
            helper.make_tensor_value_info("input_ids", integer, ["windows", "tokens"]),
            helper.make_tensor_value_info("attention_mask", integer, ["windows", "tokens"]),
            helper.make_tensor_value_info("ngrams", integer, ["windows", "grams"]),
            helper.make_tensor_value_info("rules", real, ["windows", rules]),
            helper.make_tensor_value_info("document", real, ["windows", 1]),
        ]
        width: dict[str, list[str | int]] = {
            "embedding": ["windows", 384],
            "families": ["windows", families],
        }
        names = (
            "embedding",
            "score",
            "logit",
            "families",
            "encoder_logit",
            "ngram_logit",
            "rule_logit",
        )
        outputs = [
            helper.make_tensor_value_info(name, real, width.get(name, ["windows"]))
            for name in names
        ]
        graph = helper.make_graph(
            self.nodes, "detector", inputs, outputs, list(self.stored.values())
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(_MS, 1)],
            ir_version=10,
            producer_name="interlock",
        )


_NORM = ("weight", "bias")
