"""A small convolutional network: its training in torch, and its graph in ONNX.

Shared by `train_net.py` and `train_doom.py`. The graph spells out strides, pads, dilations and
group, since circuits need them, and has static shapes with a batch of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Floats = npt.NDArray[np.float32]
OPSET, IR = 18, 10


@dataclass(frozen=True)
class Conv:
    """A convolution with a bias and a ReLU; `pool` is the side of the max pooling after it."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pool: int = 1


@dataclass(frozen=True)
class Dense:
    """A fully connected layer with a bias, and a ReLU unless it is the last."""

    size: int


@dataclass(frozen=True)
class Network:
    """Layers in order, convolutions first; `shape` is that of one input, channels first.

    gains  powers of two by which the trained weights of each layer are multiplied, () for none.
           Between ReLUs and poolings that only multiplies the logits by their product, and leaves
           every bit of the fractions as it is; it evens out what a circuit's fixed point loses in
           each layer
    """

    name: str
    shape: tuple[int, int, int]
    layers: tuple[Conv | Dense, ...]
    gains: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fit:
    """How it is trained: Adam with weight decay, its rate rising, then falling along a cosine."""

    seed: int
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float


Augment = Callable[[Any, Any], Any]


def module(network: Network, torch: Any) -> Any:
    """The network as a torch module that gives logits."""
    nn = torch.nn
    channels, height, width = network.shape
    parts: list[Any] = []
    features = 0
    for index, layer in enumerate(network.layers):
        if isinstance(layer, Conv):
            parts += [
                nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride, layer.padding),
                nn.ReLU(),
            ]
            height = (height + 2 * layer.padding - layer.kernel) // layer.stride + 1
            width = (width + 2 * layer.padding - layer.kernel) // layer.stride + 1
            channels = layer.channels
            if layer.pool > 1:
                parts.append(nn.MaxPool2d(layer.pool))
                height, width = height // layer.pool, width // layer.pool
            continue
        if not features:
            parts.append(nn.Flatten())
            features = channels * height * width
        parts.append(nn.Linear(features, layer.size))
        features = layer.size
        if index < len(network.layers) - 1:
            parts.append(nn.ReLU())
    return nn.Sequential(*parts)


def train(
    network: Network, inputs: Floats, labels: npt.NDArray[Any], fit: Fit, augment: Augment | None
) -> Any:
    """The trained module. Same values, machine and torch release give the same weights."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(fit.seed)
    torch.use_deterministic_algorithms(True)
    model = module(network, torch)
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels.astype(np.int64))
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=fit.learning_rate, weight_decay=fit.weight_decay
    )
    steps = fit.epochs * math.ceil(len(x) / fit.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(1.0, (step + 1) * 20 / steps) * (1 + math.cos(math.pi * step / steps)) / 2,
    )
    for epoch in range(1, fit.epochs + 1):
        losses = []
        for chosen in torch.randperm(len(x)).split(fit.batch):
            batch = x[chosen] if augment is None else augment(torch, x[chosen])
            loss = torch.nn.functional.cross_entropy(model(batch), y[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        print(f"epoch {epoch:3}  loss {math.fsum(losses) / len(losses):.4f}", flush=True)
    _multiply(network, model, torch)
    return model.eval()


def _multiply(network: Network, model: Any, torch: Any) -> None:
    """Multiply each layer's weights by its gain, and its bias by all gains up to it."""
    total = 1.0
    learned = [part for part in model if hasattr(part, "weight")]
    with torch.no_grad():
        for part, gain in zip(learned, network.gains, strict=bool(network.gains)):
            total *= gain
            part.weight *= gain
            part.bias *= total


def to_onnx(network: Network, model: Any) -> bytes:
    """The trained network as ONNX: `input` (1, C, H, W) float32 to `logits` (1, classes)."""
    learned = [part for part in model if hasattr(part, "weight")]
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    taken, convolutions = "input", 0
    dense = [layer for layer in network.layers if isinstance(layer, Dense)]
    for index, (layer, part) in enumerate(zip(network.layers, learned, strict=True)):
        if isinstance(layer, Conv):
            convolutions += 1
            name = f"conv{convolutions}"
        else:
            name = f"fc{index - convolutions + 1}"
        weight, bias = f"{name}.weight", f"{name}.bias"
        weights += [
            numpy_helper.from_array(part.weight.detach().numpy(), weight),
            numpy_helper.from_array(part.bias.detach().numpy(), bias),
        ]
        if isinstance(layer, Dense):
            if layer is dense[0]:
                nodes.append(helper.make_node("Flatten", [taken], ["flat"], name="flatten", axis=1))
                taken = "flat"
            last = layer is dense[-1]
            nodes.append(
                helper.make_node(
                    "Gemm",
                    [taken, weight, bias],
                    ["logits" if last else name],
                    name=name,
                    alpha=1.0,
                    beta=1.0,
                    transA=0,
                    transB=1,
                )
            )
            if last:
                continue
        else:
            nodes.append(
                helper.make_node(
                    "Conv",
                    [taken, weight, bias],
                    [name],
                    name=name,
                    kernel_shape=[layer.kernel] * 2,
                    strides=[layer.stride] * 2,
                    pads=[layer.padding] * 4,
                    dilations=[1, 1],
                    group=1,
                )
            )
        nodes.append(helper.make_node("Relu", [name], [f"{name}_relu"], name=f"{name}_relu"))
        taken = f"{name}_relu"
        if isinstance(layer, Conv) and layer.pool > 1:
            nodes.append(
                helper.make_node(
                    "MaxPool",
                    [taken],
                    [f"{name}_pool"],
                    name=f"{name}_pool",
                    kernel_shape=[layer.pool] * 2,
                    strides=[layer.pool] * 2,
                    pads=[0] * 4,
                    dilations=[1, 1],
                    ceil_mode=0,
                )
            )
            taken = f"{name}_pool"
    graph = helper.make_graph(
        nodes,
        network.name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *network.shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, dense[-1].size])],
        weights,
    )
    built = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name=""
    )
    built = onnx.shape_inference.infer_shapes(built, check_type=True, strict_mode=True)
    onnx.checker.check_model(built, full_check=True)
    return bytes(built.SerializeToString(deterministic=True))


def logits(model: bytes, inputs: Floats) -> Floats:
    """What ONNX Runtime gives for each input on its own: (n, classes)."""
    from interlock.engines.onnx import OnnxSession

    session = OnnxSession(model)
    rows: Sequence[Any] = [session.run({"input": row[None]})["logits"][0] for row in inputs]
    return np.stack(rows)


def parameters(model: bytes) -> int:
    """How many numbers the graph's weights hold."""
    graph = onnx.load_model_from_string(model).graph
    return sum(math.prod(tensor.dims) for tensor in graph.initializer)
