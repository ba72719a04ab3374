"""The ONNX graph of a Llama-like decoder, with its key-value cache as inputs and outputs.

Inputs: `input_ids` (rows, tokens) int64; `attention_mask` (rows, total) int64, ones for the tokens
that count, old and new, of each row; `past_key_values.<layer>.key|value` (rows, kv_heads, capacity,
head_size) float32. Outputs: `logits` (rows, 1, vocabulary) of each row's last token;
`present.<layer>.key|value` like the past, and on the CPU the same memory where the caller binds it
so. The names are those that ONNX Runtime GenAI's models have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from interlock.engines.generate.convert.checkpoint import (
    Architecture,
    Checkpoint,
    Floats,
    SourceError,
)
from interlock.engines.generate.convert.linear import (
    ACCURACY,
    BLOCK,
    NBits,
    joined,
    round_to_int8,
    transcode,
)
from interlock.engines.generate.convert.rope import rope_tables
from interlock.engines.generate.spec import WEIGHTS, Weights
from interlock.kernel.errors import InterlockError

OPSET = 21
MICROSOFT = "com.microsoft"
_LAST = "last_hidden"
# A protobuf message cannot be larger, and the graph's structure takes a little.
LARGEST = (1 << 31) - (1 << 20)
# Smaller tensors stay in the graph, where shapes and constants are looked for.
_LEAST_EXTERNAL = 4096
_ALIGNED = 64


@dataclass(frozen=True)
class BuiltGraph:
    """A model, and the tensors that stand beside it where it is too large for one ONNX file.

    proto    its graph; of the tensors beside it, it says where they lie in the file WEIGHTS
    tensors  name -> array; empty where all of them are in the graph
    """

    proto: onnx.ModelProto
    tensors: Mapping[str, npt.NDArray[Any]]

    def weights(self) -> bytes:
        """The content of the file WEIGHTS."""
        parts: list[bytes | memoryview] = []
        at = 0
        for array in self.tensors.values():
            gap = -at % _ALIGNED or (_ALIGNED if at == 0 else 0)
            parts += [bytes(gap), array.reshape(-1).view(np.uint8).data]
            at += gap + array.nbytes
        return b"".join(parts)


def build_graph(checkpoint: Checkpoint, weights: Weights) -> BuiltGraph:
    """The model with its weights.

    Raises SourceError where a tensor is missing, has the wrong shape, or holds numbers that
    are not finite.
    """
    try:
        return _Builder(checkpoint, weights).model()
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        if isinstance(error, InterlockError):
            raise
        # Sizes that contradict one another show where an array is put into its shape.
        raise SourceError(f"the model is malformed ({type(error).__name__})") from None


def float32_bytes(shape: Architecture) -> int:
    """Bytes of the model's matrices in float32."""
    width, narrow = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layer = shape.hidden * (2 * width + 2 * narrow + 3 * shape.intermediate)
    tables = (1 if shape.tied else 2) * shape.vocabulary * shape.hidden
    return 4 * (shape.layers * layer + tables)


def with_all_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model of `build_graph` that gives the logits of every token."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.name == _LAST:
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    shape = copy.graph.output[0].type.tensor_type.shape
    shape.dim[1].dim_param = "tokens"
    return copy


def cache_names(layers: int) -> tuple[list[str], list[str]]:
    """Names of the cache's inputs and outputs, key before value, layer by layer."""
    pairs = [(layer, kind) for layer in range(layers) for kind in ("key", "value")]
    return (
        [f"past_key_values.{layer}.{kind}" for layer, kind in pairs],
        [f"present.{layer}.{kind}" for layer, kind in pairs],
    )


class _Builder:
    def __init__(self, checkpoint: Checkpoint, weights: Weights) -> None:
        self._checkpoint = checkpoint
        self._shape: Architecture = checkpoint.architecture
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._stored: dict[str, npt.NDArray[Any]] = {}

    def model(self) -> BuiltGraph:
        shape = self._shape
        self._lengths()
        hidden = self._embedding()
        cos, sin = rope_tables(shape)
        self._store("cos_cache", cos)
        self._store("sin_cache", sin)
        normed = self._first_norm(hidden)
        for layer in range(shape.layers):
            hidden, normed = self._layer(layer, hidden, normed)
        self._store("last", np.array([-1], np.int64))
        self._head(self._add("Gather", [normed, "last"], _LAST, axis=1))
        return self._finished()

    def _finished(self) -> BuiltGraph:
        shape = self._shape
        cache = ("rows", shape.kv_heads, "capacity", shape.head_size)
        pasts, presents = cache_names(shape.layers)
        inputs = [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ("rows", "tokens")),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ("rows", "total")),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, cache) for name in pasts),
        ]
        present = ("rows", shape.kv_heads, "present_capacity", shape.head_size)
        outputs = [
            helper.make_tensor_value_info(
                "logits", TensorProto.FLOAT, ("rows", 1, shape.vocabulary)
            ),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, present) for name in presents),
        ]
        beside: dict[str, npt.NDArray[Any]] = {}
        if sum(array.nbytes for array in self._stored.values()) > LARGEST:
            beside = {k: v for k, v in self._stored.items() if v.nbytes >= _LEAST_EXTERNAL}
        inside = [
            numpy_helper.from_array(array, name)
            for name, array in self._stored.items()
            if name not in beside
        ]
        stored = [*inside, *_external(beside)]
        graph = helper.make_graph(self._nodes, "decoder", inputs, outputs, stored)
        proto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
            ir_version=10,
            producer_name="interlock",
        )
        return BuiltGraph(proto, beside)

    def _add(
        self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any
    ) -> str:
        self._nodes.append(
            helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes)
        )
        return output

    def _store(self, name: str, array: npt.NDArray[Any]) -> str:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SourceError(f"the weights of {name} hold numbers that are not finite")
        self._stored[name] = np.ascontiguousarray(array)
        return name

    def _lengths(self) -> None:
        """Each row's last position, and the longest row, as GroupQueryAttention wants them."""
        self._store("one", np.array([1], np.int64))
        self._store("mask_axis", np.array([1], np.int64))
        self._add("ReduceSum", ["attention_mask", "mask_axis"], "row_lengths", keepdims=0)
        self._add("Sub", ["row_lengths", "one"], "last_positions")
        self._add("Cast", ["last_positions"], "seqlens_k", to=TensorProto.INT32)
        self._add("Shape", ["attention_mask"], "total_axis", start=1, end=2)
        self._store("no_axes", np.array([0], np.int64))
        self._add("Squeeze", ["total_axis", "no_axes"], "total_scalar")
        self._add("Cast", ["total_scalar"], "total_length", to=TensorProto.INT32)

    def _embedding(self) -> str:
        name = "model.embed_tokens.weight"
        rows = self._shape.vocabulary
        if self._weights == "fp32":
            matrix = self._matrix(name, rows, self._shape.hidden)
            self._store("embedding", matrix)
            return self._add("Gather", ["embedding", "input_ids"], "embedded")
        quantized = self._checkpoint.quantized(name) if self._weights == "exact" else None
        if self._weights == "exact" and (quantized is None or quantized.kind != "Q8_0"):
            self._store("embedding", self._matrix(name, rows, self._shape.hidden))
            return self._add("Gather", ["embedding", "input_ids"], "embedded")
        if quantized is None:
            packed = round_to_int8(self._matrix(name, rows, self._shape.hidden))
        else:
            packed = transcode(quantized)
        self._store("embedding", packed.packed.reshape(rows, -1))
        self._store("embedding.scale", packed.scale)
        # Its own zero for bytes is that of four-bit levels.
        self._store("embedding.zero", np.full(packed.scale.shape, 128, np.uint8))
        self._add(
            "GatherBlockQuantized",
            ["embedding", "input_ids", "embedding.scale", "embedding.zero"],
            "embedded",
            MICROSOFT,
            gather_axis=0,
            quantize_axis=1,
            block_size=BLOCK,
            bits=8,
        )
        if packed.packed.shape[1] * BLOCK != self._shape.hidden:
            self._store("hidden_from", np.array([0], np.int64))
            self._store("hidden_to", np.array([self._shape.hidden], np.int64))
            self._store("hidden_axis", np.array([2], np.int64))
            return self._add(
                "Slice", ["embedded", "hidden_from", "hidden_to", "hidden_axis"], "embedded_cut"
            )
        return "embedded"

    def _first_norm(self, hidden: str) -> str:
        weight = self._norm_weight("model.layers.0.input_layernorm.weight")
        return self._add(
            "SimplifiedLayerNormalization",
            [hidden, weight],
            "layer0.normed",
            axis=-1,
            epsilon=self._shape.norm_epsilon,
            stash_type=1,
        )

    def _norm_weight(self, name: str) -> str:
        weight = self._checkpoint.floats(name)
        if weight.shape != (self._shape.hidden,):
            raise SourceError(f"{name} has shape {weight.shape}, not ({self._shape.hidden},)")
        return self._store(name, weight)

    def _layer(self, layer: int, hidden: str, normed: str) -> tuple[str, str]:
        shape = self._shape
        here = f"model.layers.{layer}"
        at = f"layer{layer}"
        width, narrow = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        qkv = self._linear(
            f"{at}.qkv",
            normed,
            [
                (f"{here}.self_attn.q_proj", width),
                (f"{here}.self_attn.k_proj", narrow),
                (f"{here}.self_attn.v_proj", narrow),
            ],
            shape.hidden,
            bias=shape.attention_bias,
        )
        pasts, presents = cache_names(layer + 1)
        attended = f"{at}.attended"
        self._nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [
                    qkv,
                    "",
                    "",
                    *pasts[-2:],
                    "seqlens_k",
                    "total_length",
                    "cos_cache",
                    "sin_cache",
                ],
                [attended, *presents[-2:]],
                name=f"{at}.attention",
                domain=MICROSOFT,
                num_heads=shape.heads,
                kv_num_heads=shape.kv_heads,
                do_rotary=1,
                rotary_interleaved=0,
                scale=shape.head_size**-0.5,
                local_window_size=-1 if shape.window is None else shape.window,
            )
        )
        out = self._linear(
            f"{at}.out", attended, [(f"{here}.self_attn.o_proj", shape.hidden)], width
        )
        hidden, normed = self._skip_norm(
            f"{at}.middle", out, hidden, f"{here}.post_attention_layernorm.weight"
        )
        both = self._linear(
            f"{at}.gate_up",
            normed,
            [
                (f"{here}.mlp.gate_proj", shape.intermediate),
                (f"{here}.mlp.up_proj", shape.intermediate),
            ],
            shape.hidden,
        )
        gate, up = f"{at}.gate", f"{at}.up"
        self._nodes.append(
            helper.make_node(
                "Split", [both], [gate, up], name=f"{at}.split", axis=-1, num_outputs=2
            )
        )
        # QuickGelu with alpha 1 is x * sigmoid(x), the SiLU of these models.
        self._add("QuickGelu", [gate], f"{at}.silu", MICROSOFT, alpha=1.0)
        self._add("Mul", [f"{at}.silu", up], f"{at}.gated")
        down = self._linear(
            f"{at}.down",
            f"{at}.gated",
            [(f"{here}.mlp.down_proj", shape.hidden)],
            shape.intermediate,
        )
        last = layer == shape.layers - 1
        weight = "model.norm.weight" if last else f"model.layers.{layer + 1}.input_layernorm.weight"
        return self._skip_norm(f"{at}.end", down, hidden, weight)

    def _skip_norm(self, at: str, new: str, hidden: str, weight: str) -> tuple[str, str]:
        normed, total = f"{at}.normed", f"{at}.sum"
        self._nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization",
                [new, hidden, self._norm_weight(weight)],
                [normed, "", "", total],
                name=at,
                domain=MICROSOFT,
                epsilon=self._shape.norm_epsilon,
            )
        )
        return total, normed

    def _head(self, normed: str) -> None:
        shape = self._shape
        source = "model.embed_tokens" if shape.tied else "lm_head"
        logits = self._linear("head", normed, [(source, shape.vocabulary)], shape.hidden)
        self._add("Identity", [logits], "logits")

    def _linear(
        self,
        at: str,
        x: str,
        parts: Sequence[tuple[str, int]],
        k: int,
        *,
        bias: bool = False,
    ) -> str:
        """x Wᵀ with the rows of all `parts` (name, rows), each named without its `.weight`."""
        found = self._linear_without_bias(at, x, parts, k)
        if not bias:
            return found
        values = np.concatenate([self._vector(f"{name}.bias", n) for name, n in parts])
        self._store(f"{at}.bias", values)
        return self._add("Add", [found, f"{at}.bias"], f"{at}.biased")

    def _linear_without_bias(
        self, at: str, x: str, parts: Sequence[tuple[str, int]], k: int
    ) -> str:
        names = [(f"{name}.weight", n) for name, n in parts]
        if self._weights == "int8":
            return self._bits(at, x, joined([self._rounded(name, n, k) for name, n in names]))
        if self._weights == "exact":
            exact = [self._checkpoint.quantized(name) for name, _ in names]
            found = [transcode(matrix) for matrix in exact if matrix is not None]
            if len(found) == len(names):
                kinds = {(part.bits, part.zero) for part in found}
                if len(kinds) == 1:
                    return self._bits(at, x, joined(found))
                ends = [self._bits(f"{at}.{i}", x, part) for i, part in enumerate(found)]
                return self._add("Concat", ends, at, axis=-1)
        matrix = np.concatenate([self._matrix(name, n, k) for name, n in names])
        self._store(f"{at}.weight", matrix.T)
        return self._add("MatMul", [x, f"{at}.weight"], at)

    def _rounded(self, name: str, n: int, k: int) -> NBits:
        """Eight-bit blocks: the file's own where it has such, else rounded."""
        own = self._checkpoint.quantized(name)
        if own is not None and own.kind == "Q8_0":
            return transcode(own)
        return round_to_int8(self._matrix(name, n, k))

    def _bits(self, at: str, x: str, matrix: NBits) -> str:
        n, blocks, _ = matrix.packed.shape
        self._store(f"{at}.weight", matrix.packed)
        self._store(f"{at}.scale", matrix.scale)
        inputs = [x, f"{at}.weight", f"{at}.scale"]
        if matrix.zero is not None:
            width = (blocks * matrix.bits + 7) // 8
            value = matrix.zero if matrix.bits == 8 else matrix.zero * 0x11
            inputs.append(self._store(f"{at}.zero", np.full((n, width), value, np.uint8)))
        product = at if matrix.offset is None else f"{at}.levels"
        self._add(
            "MatMulNBits",
            inputs,
            product,
            MICROSOFT,
            K=matrix.k,
            N=n,
            bits=matrix.bits,
            block_size=BLOCK,
            accuracy_level=ACCURACY,
        )
        if matrix.offset is None:
            return product
        # What the offsets add is each block's sum of x times its offset.
        self._store(f"{at}.blocks", np.array([0, 0, blocks, BLOCK], np.int64))
        self._store(f"{at}.block_axis", np.array([3], np.int64))
        self._store(f"{at}.offset", matrix.offset.T)
        self._add("Reshape", [x, f"{at}.blocks"], f"{at}.x_blocks")
        self._add("ReduceSum", [f"{at}.x_blocks", f"{at}.block_axis"], f"{at}.sums", keepdims=0)
        self._add("MatMul", [f"{at}.sums", f"{at}.offset"], f"{at}.shift")
        return self._add("Add", [product, f"{at}.shift"], at)

    def _matrix(self, name: str, n: int, k: int) -> Floats:
        matrix = self._checkpoint.floats(name)
        if matrix.shape != (n, k):
            raise SourceError(f"{name} has shape {matrix.shape}, not ({n}, {k})")
        return matrix

    def _vector(self, name: str, n: int) -> Floats:
        vector = self._checkpoint.floats(name)
        if vector.shape != (n,):
            raise SourceError(f"{name} has shape {vector.shape}, not ({n},)")
        return vector


def _external(tensors: Mapping[str, npt.NDArray[Any]]) -> Iterator[onnx.TensorProto]:
    """What the graph says of tensors in the file WEIGHTS; see `BuiltGraph.weights`."""
    at = 0
    for name, array in tensors.items():
        # The file does not begin with a tensor's bytes, which could look like another format's.
        at += -at % _ALIGNED or (_ALIGNED if at == 0 else 0)
        tensor = onnx.TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        for key, value in (("location", WEIGHTS), ("offset", at), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        yield tensor
        at += array.nbytes
