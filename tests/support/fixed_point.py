"""The shipped networks in integers, written from what a circuit is meant to compute.

An oracle for circuits: it shares nothing with them, and agrees with their witnesses to the last
integer. Products are sums of integers at twice the scale, scaled back by rounding half away from
zero; a convolution adds its bias before, a dense layer after.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from interlock.kernel.batch import Array


def rounded(values: Array) -> Array:
    """To the nearest integer, half away from zero."""
    return np.copysign(np.floor(np.abs(values) + 0.5), values)


def run(model: bytes, images: Array, scale: int) -> Array:
    """The outputs (n, classes) float64 of a batch of inputs (n, …), as circuits give them."""
    graph = onnx.load_from_string(model).graph
    weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in graph.initializer}
    unit = 2.0**scale
    values = {graph.input[0].name: rounded(images.astype(np.float64) * unit)}
    for node in graph.node:
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        value = values[node.input[0]]
        match node.op_type:
            case "Conv":
                weight = rounded(weights[node.input[1]] * unit)
                bias = rounded(weights[node.input[2]] * unit * unit)
                top, left, bottom, right = given["pads"]
                padded = np.pad(value, ((0, 0), (0, 0), (top, bottom), (left, right)))
                windows = np.lib.stride_tricks.sliding_window_view(
                    padded, weight.shape[2:], axis=(2, 3)
                )[:, :, :: given["strides"][0], :: given["strides"][1]]
                sums = np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True)
                made = rounded((sums + bias[None, :, None, None]) / unit)
            case "Gemm":
                weight = rounded(weights[node.input[1]] * unit)
                bias = rounded(weights[node.input[2]] * unit)
                made = rounded(value @ weight.T / unit) + bias
            case "Relu":
                made = np.maximum(value, 0)
            case "MaxPool":
                n, channels, height, width = value.shape
                blocks = value.reshape(n, channels, height // 2, 2, width // 2, 2)
                made = blocks.max(axis=(3, 5))
            case "Flatten":
                made = value.reshape(len(value), -1)
            case other:
                raise NotImplementedError(other)
        values[node.output[0]] = made
    return np.asarray(values[graph.output[0].name] / unit)
