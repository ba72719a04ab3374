"""Attributes spelled out: the same results, nothing left to a default."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from support.counts import count
from support.models import FLOAT, build, constant, tensor

from interlock.engines.onnx import OnnxSession
from interlock.errors import ConfigError
from interlock.verified import slice_model


def attributes(model: bytes) -> dict[str, object]:
    (node,) = onnx.load_model_from_string(model).graph.node
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def one(node: onnx.NodeProto, size: int, weights: list[onnx.TensorProto]) -> bytes:
    """A model of one node over x (1, 2, size, size), its output's shape left to inference."""
    model = build(
        [node], [tensor("x", FLOAT, [1, 2, size, size])], [tensor("y", FLOAT, [None] * 4)], weights
    )
    return model


@given(
    size=st.integers(5, 9),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    automatic=st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
    kind=st.sampled_from(["Conv", "MaxPool", "AveragePool"]),
)
@settings(max_examples=count(60, 600), deadline=None)
def test_what_is_spelled_out_computes_the_same(
    size: int, kernel: int, stride: int, dilation: int, automatic: str, kind: str
) -> None:
    rng = np.random.default_rng(size)
    given_: dict[str, Any] = {"auto_pad": automatic, "strides": [stride, stride]}
    if kind != "AveragePool" and automatic in ("NOTSET", "VALID"):
        given_["dilations"] = [dilation, dilation]
    assume((kernel - 1) * dilation + 1 <= size)
    # ONNX Runtime itself fails where SAME would need negative pads.
    assume(kernel >= stride or not automatic.startswith("SAME"))
    weights, inputs = [], ["x"]
    if kind == "Conv":
        weights = [constant("w", rng.normal(size=(3, 2, kernel, kernel)), np.float32)]
        inputs.append("w")
    else:
        given_["kernel_shape"] = [kernel, kernel]
    model = one(helper.make_node(kind, inputs, ["y"], **given_), size, weights)
    (part,) = slice_model(model, at=[]).slices
    spelled = attributes(part.model)
    assert {"kernel_shape", "strides", "pads"} <= spelled.keys()
    assert "auto_pad" not in spelled
    if kind == "Conv":
        assert spelled["group"] == 1
        assert "dilations" in spelled
    x = {"x": rng.normal(size=(1, 2, size, size)).astype(np.float32)}
    wanted, found = OnnxSession(model).run(x)["y"], OnnxSession(part.model).run(x)["y"]
    assert found.shape == wanted.shape
    assert np.allclose(found, wanted, atol=1e-6)


def test_what_was_given_stays() -> None:
    weight = constant("w", np.ones((2, 1, 3, 3)), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=2, pads=[1, 0, 2, 0], strides=[2, 1])
    (part,) = slice_model(one(node, 6, [weight]), at=[]).slices
    assert attributes(part.model) == {
        "group": 2,
        "pads": [1, 0, 2, 0],
        "strides": [2, 1],
        "dilations": [1, 1],
        "kernel_shape": [3, 3],
    }


def test_a_transposed_convolution_with_auto_pad_is_refused() -> None:
    weight = constant("w", np.ones((2, 1, 3, 3)), np.float32)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], auto_pad="SAME_UPPER")
    with pytest.raises(ConfigError, match="makes 'y' has auto_pad SAME_UPPER"):
        slice_model(one(node, 6, [weight]), at=[])
