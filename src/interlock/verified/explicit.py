"""Spells out attributes that ONNX lets a node leave out: circuits do not know the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import helper

from interlock.kernel.errors import ConfigError

Shape = tuple[int, ...]

_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_POOLS = {"MaxPool", "AveragePool", "LpPool"}


def spell_out(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> None:
    """Give a convolution or pooling its kernel shape, strides, pads, dilations and group.

    shapes  those of all tensors around it; the kernel's gives `kernel_shape`, the input's resolves
            `auto_pad`

    What the node computes stays the same. Other nodes stay as they are. Raises ConfigError for a
    transposed convolution with `auto_pad` SAME, whose output shape is not the input's affair.
    """
    if node.op_type not in _CONVOLUTIONS | _POOLS or node.domain not in ("", "ai.onnx"):
        return
    given: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    kernel = list(given.get("kernel_shape") or shapes[node.input[1]][2:])
    rank = len(kernel)
    wanted: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": list(given.get("strides") or [1] * rank),
    }
    # Dilations of the poolings beside MaxPool came with later opsets; their default is 1 anyway.
    if node.op_type in _CONVOLUTIONS or "dilations" in given:
        wanted["dilations"] = list(given.get("dilations") or [1] * rank)
    if node.op_type in _CONVOLUTIONS:
        wanted["group"] = given.get("group", 1)
    automatic = given.get("auto_pad", b"NOTSET").decode()
    dilations = wanted.get("dilations", [1] * rank)
    if automatic.startswith("SAME"):
        if node.op_type == "ConvTranspose":
            raise ConfigError(
                f"the ConvTranspose that makes '{node.output[0]}' has auto_pad {automatic}",
                hint="export the model with explicit pads",
            )
        size = shapes[node.input[0]][2:]
        wanted["pads"] = _same(size, kernel, wanted["strides"], dilations, automatic)
    elif automatic == "VALID":
        wanted["pads"] = [0] * (2 * rank)
    else:
        wanted["pads"] = list(given.get("pads") or [0] * (2 * rank))
    kept = [a for a in node.attribute if a.name not in wanted and a.name != "auto_pad"]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(k, v) for k, v in wanted.items())])


def _same(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    automatic: str,
) -> list[int]:
    """Pads that give ceil(size / stride) places an axis; of an odd number, one side gets more."""
    before, after = [], []
    for length, width, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        places = -(-length // stride)
        total = max(0, (places - 1) * stride + (width - 1) * dilation + 1 - length)
        small, large = total // 2, total - total // 2
        before.append(small if automatic == "SAME_UPPER" else large)
        after.append(large if automatic == "SAME_UPPER" else small)
    return before + after
