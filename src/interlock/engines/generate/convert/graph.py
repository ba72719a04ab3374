"""The ONNX graph of a decoder, with its key-value cache as inputs and outputs.

Inputs: `input_ids` (rows, tokens) int64; `attention_mask` (rows, total) int64, ones for the tokens
that count, old and new, of each row; `past_key_values.<layer>.key|value` (rows, kv_heads, capacity,
head_size) float32. Outputs: `logits` (rows, 1, vocabulary) of each row's last token;
`present.<layer>.key|value` like the past, and on the CPU the same memory where the caller binds it
so. The names are those that ONNX Runtime GenAI's models have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from interlock.engines.generate.convert.checkpoint import Architecture, Checkpoint, SourceError
from interlock.engines.generate.convert.nodes import MICROSOFT, Nodes
from interlock.engines.generate.convert.rope import rope_tables
from interlock.engines.generate.spec import WEIGHTS, Weights
from interlock.kernel.errors import InterlockError

OPSET = 21
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
        return _Decoder(checkpoint, weights).model()
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        if isinstance(error, InterlockError):
            raise
        # Sizes that contradict one another show where an array is put into its shape.
        raise SourceError(f"the model is malformed ({type(error).__name__})") from None


def float32_bytes(shape: Architecture) -> int:
    """Bytes of the model's matrices in float32."""
    width, narrow = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layer = shape.hidden * (2 * width + 2 * narrow + (3 if shape.gated else 2) * shape.intermediate)
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


class _Decoder:
    def __init__(self, checkpoint: Checkpoint, weights: Weights) -> None:
        self._shape: Architecture = checkpoint.architecture
        self._graph = Nodes(checkpoint, weights)

    def model(self) -> BuiltGraph:
        shape = self._shape
        self._lengths()
        hidden = self._graph.embedding(
            "model.embed_tokens.weight", "input_ids", shape.vocabulary, shape.hidden
        )
        cos, sin = rope_tables(shape)
        self._graph.store("cos_cache", cos)
        self._graph.store("sin_cache", sin)
        normed = self._first_norm(hidden)
        for layer in range(shape.layers):
            hidden, normed = self._layer(layer, hidden, normed)
        self._graph.store("last", np.array([-1], np.int64))
        self._head(self._graph.add("Gather", [normed, "last"], _LAST, axis=1))
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
        if sum(array.nbytes for array in self._graph.stored.values()) > LARGEST:
            beside = {k: v for k, v in self._graph.stored.items() if v.nbytes >= _LEAST_EXTERNAL}
        inside = [
            numpy_helper.from_array(array, name)
            for name, array in self._graph.stored.items()
            if name not in beside
        ]
        stored = [*inside, *_external(beside)]
        graph = helper.make_graph(self._graph.nodes, "decoder", inputs, outputs, stored)
        proto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
            ir_version=10,
            producer_name="interlock",
        )
        return BuiltGraph(proto, beside)

    def _lengths(self) -> None:
        """Each row's last position, and the longest row, as GroupQueryAttention wants them."""
        self._graph.store("one", np.array([1], np.int64))
        self._graph.store("mask_axis", np.array([1], np.int64))
        self._graph.add("ReduceSum", ["attention_mask", "mask_axis"], "row_lengths", keepdims=0)
        self._graph.add("Sub", ["row_lengths", "one"], "last_positions")
        self._graph.add("Cast", ["last_positions"], "seqlens_k", to=TensorProto.INT32)
        self._graph.add("Shape", ["attention_mask"], "total_axis", start=1, end=2)
        self._graph.store("no_axes", np.array([0], np.int64))
        self._graph.add("Squeeze", ["total_axis", "no_axes"], "total_scalar")
        self._graph.add("Cast", ["total_scalar"], "total_length", to=TensorProto.INT32)

    def _first_norm(self, hidden: str) -> str:
        return self._graph.add(
            "LayerNormalization" if self._shape.layer_norm else "SimplifiedLayerNormalization",
            [hidden, *self._norm("model.layers.0.input_layernorm")],
            "layer0.normed",
            axis=-1,
            epsilon=self._shape.norm_epsilon,
            stash_type=1,
        )

    def _norm(self, name: str) -> list[str]:
        """The norm's weight, and its bias where it has one."""
        parts = ("weight", "bias") if self._shape.layer_norm else ("weight",)
        names = [f"{name}.{part}" for part in parts]
        return [
            self._graph.store(each, self._graph.vector(each, self._shape.hidden)) for each in names
        ]

    def _layer(self, layer: int, hidden: str, normed: str) -> tuple[str, str]:
        shape = self._shape
        here = f"model.layers.{layer}"
        at = f"layer{layer}"
        width, narrow = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        qkv = self._graph.linear(
            f"{at}.qkv",
            normed,
            [
                (f"{here}.self_attn.q_proj", width),
                (f"{here}.self_attn.k_proj", narrow),
                (f"{here}.self_attn.v_proj", narrow),
            ],
            shape.hidden,
            bias=shape.biases != "none",
        )
        pasts, presents = cache_names(layer + 1)
        attended = f"{at}.attended"
        self._graph.nodes.append(
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
        out = self._graph.linear(
            f"{at}.out",
            attended,
            [(f"{here}.self_attn.o_proj", shape.hidden)],
            width,
            bias=shape.biases == "all",
        )
        hidden, normed = self._skip_norm(
            f"{at}.middle", out, hidden, f"{here}.post_attention_layernorm"
        )
        mlp = self._gated_mlp if shape.gated else self._plain_mlp
        down = mlp(at, f"{here}.mlp", normed)
        last = layer == shape.layers - 1
        norm = "model.norm" if last else f"model.layers.{layer + 1}.input_layernorm"
        return self._skip_norm(f"{at}.end", down, hidden, norm)

    def _gated_mlp(self, at: str, here: str, normed: str) -> str:
        shape = self._shape
        both = self._graph.linear(
            f"{at}.gate_up",
            normed,
            [
                (f"{here}.gate_proj", shape.intermediate),
                (f"{here}.up_proj", shape.intermediate),
            ],
            shape.hidden,
            bias=shape.biases == "all",
        )
        gate, up = f"{at}.gate", f"{at}.up"
        self._graph.nodes.append(
            helper.make_node(
                "Split", [both], [gate, up], name=f"{at}.split", axis=-1, num_outputs=2
            )
        )
        # QuickGelu with alpha 1 is x * sigmoid(x), the SiLU of these models.
        self._graph.add("QuickGelu", [gate], f"{at}.silu", MICROSOFT, alpha=1.0)
        self._graph.add("Mul", [f"{at}.silu", up], f"{at}.gated")
        return self._graph.linear(
            f"{at}.down",
            f"{at}.gated",
            [(f"{here}.down_proj", shape.hidden)],
            shape.intermediate,
            bias=shape.biases == "all",
        )

    def _plain_mlp(self, at: str, here: str, normed: str) -> str:
        shape = self._shape
        bias = shape.biases == "all"
        inner = self._graph.linear(
            f"{at}.up", normed, [(f"{here}.c_fc", shape.intermediate)], shape.hidden, bias=bias
        )
        self._graph.add("Gelu", [inner], f"{at}.gelu", approximate="tanh")
        return self._graph.linear(
            f"{at}.down",
            f"{at}.gelu",
            [(f"{here}.c_proj", shape.hidden)],
            shape.intermediate,
            bias=bias,
        )

    def _skip_norm(self, at: str, new: str, hidden: str, norm: str) -> tuple[str, str]:
        """The sum of `new` and `hidden`, and its norm."""
        normed, total = f"{at}.normed", f"{at}.sum"
        self._graph.nodes.append(
            helper.make_node(
                "SkipLayerNormalization"
                if self._shape.layer_norm
                else "SkipSimplifiedLayerNormalization",
                [new, hidden, *self._norm(norm)],
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
        logits = self._graph.linear("head", normed, [(source, shape.vocabulary)], shape.hidden)
        self._graph.add("Identity", [logits], "logits")


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
