"""The decode fused into an ONNX graph: same masks and bits as for NumPy arrays, stable contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from support.adversarial import CONFIGS, FORMATS, pairs, values
from support.counts import count
from support.parity import assert_same

from interlock.errors import ConfigError, InputError
from interlock.strict import InferenceConfig, strict_inference
from interlock.strict.graph import append_decode

CONFIG = InferenceConfig(1e-6, 1e-4)
KINDS = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
Dims = tuple[int | str | None, ...]

SHAPES: list[tuple[Dims, Dims]] = [
    (("B",), ("B",)),
    (("B", 3), ("B", 3)),
    (("B", 3), ("B", 1)),
    (("B", 3), ("B",)),
    (("B", 1), ("B",)),
    (("B", 3, 2), ("B",)),
    (("B", 3, 2), ("B", 3)),
    (("B", 3, 2), ("B", 3, 1)),
]


def tail(dims: Dims) -> tuple[int, ...]:
    """The dimensions after the batch axis."""
    return tuple(dim for dim in dims[1:] if isinstance(dim, int))


def pass_through(
    p: Dims, q: Dims, kind: int = TensorProto.FLOAT, opset: int = 17, q_kind: int | None = None
) -> onnx.ModelProto:
    """A model whose outputs P and Q are its inputs."""
    q_kind = kind if q_kind is None else q_kind
    graph = helper.make_graph(
        [helper.make_node("Identity", ["p"], ["P"]), helper.make_node("Identity", ["q"], ["Q"])],
        "pass_through",
        [
            helper.make_tensor_value_info("p", kind, p),
            helper.make_tensor_value_info("q", q_kind, q),
        ],
        [
            helper.make_tensor_value_info("P", kind, p),
            helper.make_tensor_value_info("Q", q_kind, q),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def session(model: onnx.ModelProto, optimised: bool = True) -> ort.InferenceSession:
    """A session with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options)


def decode(model: onnx.ModelProto, p: Any, q: Any, **kwargs: Any) -> Sequence[Any]:
    """The three outputs for given P and Q."""
    outputs: Sequence[Any] = session(model, **kwargs).run(None, {"p": p, "q": q})
    return outputs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("optimised", [False, True])
@pytest.mark.parametrize(("p_dims", "q_dims"), SHAPES)
def test_the_same_as_numpy_on_adversarial_pairs(
    dtype: str, index: int, optimised: bool, p_dims: Dims, q_dims: Dims
) -> None:
    form, config = FORMATS[dtype], CONFIGS[dtype][index]
    opset = (17, 18, 23)[index]
    bare = pass_through(p_dims, q_dims, KINDS[dtype], opset)
    model = append_decode(bare, p="P", q="Q", config=config)
    n = count(6_000, 600_000)
    p, q = (values(b, form) for b in pairs(form, n, config, np.random.default_rng(index)))
    p = p.reshape(-1, *tail(p_dims))
    q = np.resize(q, (len(p), *tail(q_dims)))
    assert_same(decode(model, p, q, optimised=optimised), strict_inference(p, q, config=config))


@pytest.mark.parametrize("opset", [17, 18, 20, 23])
@pytest.mark.parametrize("config", [CONFIG, InferenceConfig(1e-6)])
@pytest.mark.parametrize(("p_dims", "q_dims"), SHAPES)
def test_the_contract(opset: int, config: InferenceConfig, p_dims: Dims, q_dims: Dims) -> None:
    bare = pass_through(p_dims, q_dims, opset=opset)
    before = bare.SerializeToString(deterministic=True)
    model = append_decode(bare, p="P", q="Q", config=config)
    assert bare.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(model, full_check=True)
    added = model.graph.node[len(bare.graph.node) :]
    assert len(added) <= 12
    assert {node.domain for node in added} == {""}
    assert [output.name for output in model.graph.output] == ["decoded", "bottom_mask", "gap_mask"]
    scalars = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    assert scalars["tau_infer"] == np.float32(1e-6)
    assert scalars["tau_infer"].shape == ()
    assert scalars["tau_infer"].dtype == np.float32
    assert ("tau_train" in scalars) == (config.tau_train is not None)
    mask = q_dims if len(q_dims) < len(p_dims) else p_dims
    shapes = [
        tuple(axis.dim_param or axis.dim_value for axis in output.type.tensor_type.shape.dim)
        for output in model.graph.output
    ]
    assert shapes == [p_dims, mask, mask]
    for rows in (0, 1, 5):
        p = np.ones((rows, *tail(p_dims)), np.float32)
        q = np.full((rows, *tail(q_dims)), 5e-5, np.float32)
        assert_same(decode(model, p, q), strict_inference(p, q, config=config))


@pytest.mark.parametrize(("p_dims", "q_dims"), SHAPES[2:4])
def test_another_runtime_agrees(p_dims: Dims, q_dims: Dims) -> None:
    form, config = FORMATS["float64"], CONFIGS["float64"][0]
    model = append_decode(
        pass_through(p_dims, q_dims, TensorProto.DOUBLE, 18), p="P", q="Q", config=config
    )
    p, q = (values(b, form) for b in pairs(form, 3_000, config, np.random.default_rng(5)))
    p = p.reshape(-1, *tail(p_dims))
    q = np.resize(q, (len(p), *tail(q_dims)))
    with np.errstate(all="ignore"):
        got = ReferenceEvaluator(model).run(None, {"p": p, "q": q})
    assert_same(list(got), strict_inference(p, q, config=config))


def test_the_sign_of_zero_survives() -> None:
    model = append_decode(pass_through(("B",), ("B",)), p="P", q="Q", config=CONFIG)
    p = np.array([-0.0, 0.0, 0.0] * 50, np.float32)
    q = np.array([1, -1, 1] * 50, np.float32)
    assert np.signbit(decode(model, p, q)[0]).tolist() == [True, True, False] * 50


def dense(p_name: str = "P", extra: Sequence[onnx.NodeProto] = ()) -> onnx.ModelProto:
    """P and Q as slices of one Gemm, with names of ours used inside; no shapes inside stated."""
    weights = numpy_helper.from_array(np.eye(3, dtype=np.float32), "tau_infer")
    nodes = [
        helper.make_node("MatMul", ["x", "tau_infer"], ["decoded"]),
        helper.make_node("Split", ["decoded"], [p_name, "gap_mask"], axis=1, num_outputs=2),
        *extra,
    ]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("gap_mask", TensorProto.FLOAT, ["batch", 1])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("p_name", ["P", "interlock_decode_quotient", "tau_train"])
def test_names_of_the_model_that_collide_are_renamed(p_name: str) -> None:
    model = append_decode(dense(p_name), p=p_name, q="gap_mask", config=CONFIG)
    onnx.checker.check_model(model, full_check=True)
    x = np.array([[1, 2, 4], [1, 2, 0], [1, 2, 5e-5]], np.float32)
    got = session(model).run(None, {"x": x})
    assert_same(got, strict_inference(x[:, :2], x[:, 2:], config=CONFIG))
    first = model.graph.output[0].type.tensor_type.shape.dim
    assert (first[0].dim_param, first[1].dim_value) == ("batch", 2)


def test_names_inside_subgraphs_are_renamed_too() -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node(op, ["decoded"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )

    choose = helper.make_node(
        "If", ["flag"], ["Q"], then_branch=branch("one", "Neg"), else_branch=branch("two", "Abs")
    )
    base = dense("P", [choose])
    base.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    base.graph.output.append(helper.make_tensor_value_info("Q", TensorProto.FLOAT, ["batch", 3]))
    base.graph.output.append(
        helper.make_tensor_value_info("decoded", TensorProto.FLOAT, ["batch", 3])
    )
    model = append_decode(base, p="decoded", q="Q", config=CONFIG)
    x = np.array([[1, 2, 4], [1, 2, 0]], np.float32)
    got = session(model).run(None, {"x": x})
    assert_same(got, strict_inference(x, -x, config=CONFIG))


def test_an_input_with_a_name_of_ours_is_refused() -> None:
    model = pass_through(("B",), ("B",))
    model.graph.input[0].name = model.graph.node[0].input[0] = "decoded"
    with pytest.raises(InputError, match="input 'decoded'"):
        append_decode(model, p="P", q="Q", config=CONFIG)
    renamed = append_decode(model, p="P", q="Q", config=CONFIG, outputs=("y", "b", "g"))
    assert [output.name for output in renamed.graph.output] == ["y", "b", "g"]


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (("B",), ("B", 1)),
        (("B", 3), ("B", 2)),
        (("B", 1), ("B", 3)),
        ((4, 3), (3,)),
        (("B",), ()),
        ((4, 3), (1, 1)),
    ],
)
def test_shapes_that_would_need_a_silent_broadcast_are_refused(p: Dims, q: Dims) -> None:
    with pytest.raises(InputError, match="do not belong together"):
        append_decode(pass_through(p, q), p="P", q="Q", config=CONFIG)


def test_models_that_cannot_take_the_decode_are_refused() -> None:
    good = pass_through(("B",), ("B",))
    with pytest.raises(InputError, match="opset is 16"):
        append_decode(pass_through(("B",), ("B",), opset=16), p="P", q="Q", config=CONFIG)
    with pytest.raises(InputError, match="q is 'nothing'"):
        append_decode(good, p="P", q="nothing", config=CONFIG)
    for kind, name in ((TensorProto.FLOAT16, "FLOAT16"), (TensorProto.INT64, "INT64")):
        with pytest.raises(InputError, match=name):
            append_decode(pass_through(("B",), ("B",), kind), p="P", q="Q", config=CONFIG)
    mixed = pass_through(("B",), ("B",), TensorProto.FLOAT, q_kind=TensorProto.DOUBLE)
    with pytest.raises(InputError, match="one dtype"):
        append_decode(mixed, p="P", q="Q", config=CONFIG)
    with pytest.raises(ConfigError, match="rounds to 0 in float32"):
        append_decode(good, p="P", q="Q", config=InferenceConfig(1e-60))
    for outputs in (("a", "b"), ("a", "a", "b"), ("a", "b", "tau_infer"), ("", "a", "b"), "abc"):
        with pytest.raises(ConfigError, match="outputs is"):
            append_decode(good, p="P", q="Q", config=CONFIG, outputs=outputs)
