"""Graph against metadata: a signature, a threshold or a decode that differs is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.bundles import TAU_INFER, as_model, strict_metadata, strict_model

from interlock.bundle import Metadata, TensorSpec, signature_of, thresholds
from interlock.bundle.contract import check_contract, decode_nodes
from interlock.errors import BundleContractError


def check(model: onnx.ModelProto, metadata: Metadata | None = None) -> None:
    check_contract(model, metadata or strict_metadata(strict_model()))


def test_a_sound_model_passes_in_every_dtype() -> None:
    for dtype in ("float16", "float32", "float64"):
        model = strict_model(dtype)
        check(model, strict_metadata(model))


def test_signature_names_what_the_graph_leaves_open() -> None:
    model = strict_model()
    model.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_param")
    inputs, outputs = signature_of(model)
    assert inputs == (TensorSpec("x", "float32", ("x_0", 4)),)
    assert outputs[1] == TensorSpec("bottom_mask", "bool", ("batch", 2))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_threshold_one_ulp_away_is_refused(dtype: str) -> None:
    kind = np.dtype(dtype).type
    metadata = strict_metadata(strict_model(dtype))
    assert metadata.strict is not None
    for name, wanted in thresholds(metadata.strict).items():
        for to in (0, np.inf):
            model = strict_model(dtype)
            tensor = next(t for t in model.graph.initializer if t.name == name)
            tensor.CopyFrom(numpy_helper.from_array(np.nextafter(wanted, kind(to)), name))
            with pytest.raises(BundleContractError, match=f"{name} is .* in the graph and"):
                check(model, metadata)


def test_thresholds_compare_after_rounding_to_the_dtype_of_q() -> None:
    model = strict_model("float16")
    assert numpy_helper.to_array(model.graph.initializer[2]).item() != TAU_INFER
    strict = strict_metadata(model).strict
    assert strict is not None
    check(
        model, strict_metadata(model, strict=msgspec.structs.replace(strict, tau_infer=TAU_INFER))
    )


def _tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found: onnx.TensorProto = next(t for t in model.graph.initializer if t.name == name)
    return found


def _no_threshold(model: onnx.ModelProto) -> None:
    constant = helper.make_node("Constant", [], ["tau_infer"], value=_tensor(model, "tau_infer"))
    model.graph.initializer.remove(_tensor(model, "tau_infer"))
    model.graph.node.insert(0, constant)


def _threshold_as_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("tau_infer", TensorProto.FLOAT, []))


def _unused_threshold(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if "tau_infer" in node.input)
    node.input[1] = "tau_train"
    model.graph.node.append(helper.make_node("Identity", ["tau_infer"], ["decoy"]))


def _vector_threshold(model: onnx.ModelProto) -> None:
    value = np.full(2, TAU_INFER, np.float32)
    _tensor(model, "tau_infer").CopyFrom(numpy_helper.from_array(value, "tau_infer"))


def _threshold_of_another_dtype(model: onnx.ModelProto) -> None:
    _tensor(model, "tau_infer").CopyFrom(numpy_helper.from_array(np.array(TAU_INFER), "tau_infer"))


def _another_q(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = "R" if name == "Q" else name


def _constant_masks(model: onnx.ModelProto) -> None:
    del model.graph.node[2:]
    for name in ("decoded", "bottom_mask", "gap_mask"):
        model.graph.node.append(helper.make_node("Identity", ["W"], [name]))


def _sees_the_input(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if "tau_infer" in node.input)
    model.graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0))
    model.graph.node.insert(1, helper.make_node("Mul", ["m", "tau_infer"], ["scaled"]))
    node.input[1] = "scaled"


def _random(model: onnx.ModelProto) -> None:
    model.graph.node[2].op_type = "RandomNormalLike"


def _renamed_output(model: onnx.ModelProto) -> None:
    model.graph.output[2].name = model.graph.node[12].output[0] = "gap"


def _other_order(model: onnx.ModelProto) -> None:
    masks = [model.graph.output[2], model.graph.output[1]]
    copies = [onnx.ValueInfoProto.FromString(mask.SerializeToString()) for mask in masks]
    del model.graph.output[1:]
    model.graph.output.extend(copies)


def _other_dtype(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def _other_rank(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 1


def _other_dimension(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5


def _constant_as_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("nan", TensorProto.FLOAT, []))


def _further_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_no_threshold, "no initializer 'tau_infer'"),
        (_threshold_as_input, "tau_infer is an input as well"),
        (_constant_as_input, "nan is an input as well"),
        (_unused_threshold, "no node of the decode uses tau_infer"),
        (_vector_threshold, "must be a scalar"),
        (_threshold_of_another_dtype, "must be a scalar of dtype float32"),
        (_another_q, "no tensor 'Q'"),
        (_constant_masks, "do not depend on 'P'|do not depend on 'Q'"),
        (_sees_the_input, "depends on the input 'x'"),
        (_random, "RandomNormalLike"),
        (_renamed_output, "output 'gap_mask', not the graph"),
        (_other_order, "another order"),
        (_other_dtype, "float64 in the graph and float32"),
        (_other_rank, "rank 3 in the graph and 2"),
        (_other_dimension, "axis 1 of the input 'x' is 5 in the graph and 4"),
        (_further_input, "input 'more', not the metadata"),
    ],
)
def test_a_graph_that_differs_is_refused(
    change: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    model = strict_model()
    change(model)
    with pytest.raises(BundleContractError, match=reason):
        check(model)


def test_metadata_without_tau_train_refuses_a_graph_that_has_one() -> None:
    metadata = strict_metadata(strict_model())
    assert metadata.strict is not None
    without: Any = msgspec.structs.replace(metadata.strict, tau_train=None)
    with pytest.raises(BundleContractError, match="has tau_train, the metadata has none"):
        check(strict_model(), msgspec.structs.replace(metadata, strict=without))


def test_the_decode_begins_after_p_and_q() -> None:
    model = strict_model()
    strict = strict_metadata(model).strict
    assert strict is not None
    kinds = [node.op_type for node in decode_nodes(model.graph, strict)]
    assert "MatMul" not in kinds
    assert len(kinds) == 12


def test_p_and_q_may_be_the_inputs() -> None:
    whole = strict_model()
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        whole.graph.node[2:],
        "decode",
        [value("P", TensorProto.FLOAT, ["n", 2]), value("Q", TensorProto.FLOAT, ["n", 1])],
        whole.graph.output,
        whole.graph.initializer[2:],
    )
    model = as_model(graph)
    check(model, strict_metadata(model, smoke=()))
