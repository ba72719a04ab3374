"""Training of the arm's P/Q network (needs the extra `torch`), and its graph in ONNX.

The network maps theta to a 2x2 matrix M and a scalar q, seen as one point (M, q) on a sphere, that
is, up to a positive factor: dq = M v / q. The target is (adj J, det J) up to scale, which is smooth
and never zero, while dq itself blows up at the singularities. The loss is the distance of the two
points on the sphere, so only the ratio and the sign are learned (up to both signs at once, training
settles into patches of opposite sign); the graph divides by the norm, so |Q| has a fixed scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from interlock.errors import ConfigError, MissingExtraError
from interlock.strict.arm.kinematics import Arm

Q_SCALE = 0.25
"""Weight of the determinant against the adjugate, so that both parts of the point are near 1."""


OnStep = Callable[[str, int, float], None] | None


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained. Same values, machine and torch release give the same weights.

    First `adam_steps` steps of Adam on fresh batches of `batch` points, then `lbfgs_iterations` of
    L-BFGS on `points` fixed ones, which the smooth target rewards with two more digits.
    """

    seed: int = 7
    hidden: int = 64
    adam_steps: int = 3000
    batch: int = 512
    learning_rate: float = 2e-3
    lbfgs_iterations: int = 2000
    points: int = 8192


@dataclass(frozen=True)
class EpochConfig:
    """Training in epochs: `n_samples` joint angles are drawn once, and each epoch sees them all.

    An epoch shuffles the samples and takes one step of Adam on each batch of `batch`, the last of
    which may be smaller. The learning rate rises to `learning_rate` over the first twentieth of
    all steps and falls to 0 along a cosine. Same values, machine and torch release give the same
    weights.
    """

    n_samples: int
    epochs: int
    seed: int = 7
    hidden: int = 64
    batch: int = 16
    learning_rate: float = 1e-2


@dataclass(frozen=True)
class Weights:
    """Layers of the network in order: weight (in, out) and bias (out,), float64."""

    layers: tuple[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], ...]


def train(arm: Arm, config: TrainingConfig = TrainingConfig(), on_step: OnStep = None) -> Weights:
    """Train on random joint angles; `on_step(phase, step, loss)` is told now and then.

    Raises MissingExtraError without torch. Runs on one thread, so that sums have one order.
    """

    def fit(torch: Any, network: Any) -> None:
        _adam(torch, network, arm, config, on_step)
        _lbfgs(torch, network, arm, config, on_step)

    return _trained(config.seed, config.hidden, fit)


def train_epochs(
    arm: Arm, config: EpochConfig, on_step: OnStep = None, *, device: str = "cpu"
) -> Weights:
    """Train on a fixed set of joint angles; `on_step("epoch", epoch, loss)` after each epoch,
    counted from 1, with the mean loss over its batches.

    device  where torch computes, such as `cpu` or `cuda`

    Raises MissingExtraError without torch and ConfigError for values that are no counts or a
    device that torch lacks.
    """
    for name in ("n_samples", "epochs", "hidden", "batch"):
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} is {value!r}; it must be a whole number of 1 or more")

    def fit(torch: Any, network: Any) -> None:
        try:
            network.to(device)
        except (RuntimeError, AssertionError) as error:
            # torch says in several ways that a device is unknown, or not compiled in.
            raise ConfigError(f"device {device!r} cannot be used: {error}") from None
        _epochs(torch, network, arm, config, on_step, device)

    return _trained(config.seed, config.hidden, fit)


def _trained(seed: int, hidden: int, fit: Callable[[Any, Any], None]) -> Weights:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "training the arm's network") from None

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(seed)
        network = _network(torch, hidden)
        fit(torch, network)
        linear = [layer for layer in network.cpu() if isinstance(layer, torch.nn.Linear)]
        return Weights(
            tuple(
                (layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy().copy())
                for layer in linear
            )
        )
    finally:
        torch.set_num_threads(threads)


def _adam(torch: Any, network: Any, arm: Arm, config: TrainingConfig, on_step: OnStep) -> None:
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    for step in range(config.adam_steps):
        theta = _random_angles(torch, config.batch)
        loss = _projective_loss(torch, network(_features(torch, theta)), arm, theta)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if on_step is not None and step % 500 == 0:
            on_step("adam", step, float(loss.detach()))


def _lbfgs(torch: Any, network: Any, arm: Arm, config: TrainingConfig, on_step: OnStep) -> None:
    theta = _random_angles(torch, config.points)
    features = _features(torch, theta)
    optimiser = torch.optim.LBFGS(
        network.parameters(),
        max_iter=config.lbfgs_iterations,
        max_eval=2 * config.lbfgs_iterations,
        history_size=50,
        line_search_fn="strong_wolfe",
        tolerance_grad=0.0,
        tolerance_change=0.0,
    )
    evaluations = 0

    def closure() -> Any:
        nonlocal evaluations
        optimiser.zero_grad(set_to_none=True)
        loss = _projective_loss(torch, network(features), arm, theta)
        loss.backward()
        if on_step is not None and evaluations % 250 == 0:
            on_step("l-bfgs", evaluations, float(loss.detach()))
        evaluations += 1
        return loss

    if config.lbfgs_iterations > 0:
        optimiser.step(closure)


def _epochs(
    torch: Any, network: Any, arm: Arm, config: EpochConfig, on_step: OnStep, device: str
) -> None:
    # Drawn on the CPU: a seed means the same samples and order on every device.
    theta = _random_angles(torch, config.n_samples)
    # The second moment forgets faster than Adam's default, which a short training needs.
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=(0.9, 0.98))
    steps = config.epochs * math.ceil(config.n_samples / config.batch)
    rise = max(1.0, steps / 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(1.0, (step + 1) / rise) * (1 + math.cos(math.pi * step / steps)) / 2,
    )
    for epoch in range(1, config.epochs + 1):
        losses = []
        for chosen in torch.randperm(config.n_samples).split(config.batch):
            batch = theta[chosen].to(device)
            loss = _projective_loss(torch, network(_features(torch, batch)), arm, batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        if on_step is not None:
            on_step("epoch", epoch, math.fsum(losses) / len(losses))


def _random_angles(torch: Any, n: int) -> Any:
    return (torch.rand(n, 2, dtype=torch.float64) * 2 - 1) * math.pi


def _network(torch: Any, hidden: int) -> Any:
    layers = torch.nn
    return layers.Sequential(
        layers.Linear(4, hidden),
        layers.Tanh(),
        layers.Linear(hidden, hidden),
        layers.Tanh(),
        layers.Linear(hidden, 5),
    ).double()


def _features(torch: Any, theta: Any) -> Any:
    return torch.cat([torch.sin(theta), torch.cos(theta)], dim=1)


def _projective_loss(torch: Any, output: Any, arm: Arm, theta: Any) -> Any:
    """Half the squared distance of the two points on the unit sphere, averaged."""
    unit = torch.nn.functional.normalize(output, dim=1)
    target = torch.nn.functional.normalize(_target(torch, arm, theta), dim=1)
    return ((unit - target) ** 2).sum(1).mean() / 2


def _target(torch: Any, arm: Arm, theta: Any) -> Any:
    """(n, 5): the adjugate of the Jacobian row by row, then the determinant, weighted."""
    elbow, both = theta[:, 0], theta[:, 0] + theta[:, 1]
    j00 = -arm.first * torch.sin(elbow) - arm.second * torch.sin(both)
    j10 = arm.first * torch.cos(elbow) + arm.second * torch.cos(both)
    j01 = -arm.second * torch.sin(both)
    j11 = arm.second * torch.cos(both)
    determinant = arm.first * arm.second * torch.sin(theta[:, 1])
    return torch.stack([j11, -j01, -j10, j00, determinant / Q_SCALE], dim=1)


def to_onnx(weights: Weights) -> onnx.ModelProto:
    """The network as ONNX: input `x` (batch, 4) float32, outputs `P` (batch, 2), `Q` (batch, 1)."""
    constants: dict[str, npt.NDArray[Any]] = {
        "slice_theta": np.array([0, 2], dtype=np.int64),
        "slice_v": np.array([2, 4], dtype=np.int64),
        "axis_1": np.array([1], dtype=np.int64),
        "matrix_shape": np.array([-1, 2, 2], dtype=np.int64),
        "column_shape": np.array([-1, 2, 1], dtype=np.int64),
        "split_point": np.array([4, 1], dtype=np.int64),
        "q_scale": np.array(Q_SCALE, dtype=np.float32),
    }
    for index, (weight, bias) in enumerate(weights.layers):
        constants[f"weight_{index}"] = weight.astype(np.float32)
        constants[f"bias_{index}"] = bias.astype(np.float32)
    for name in ("slice_theta", "slice_v"):
        start, end = constants.pop(name)
        constants[f"{name}_start"] = np.array([start], dtype=np.int64)
        constants[f"{name}_end"] = np.array([end], dtype=np.int64)

    node = helper.make_node
    nodes = [
        node("Slice", ["x", "slice_theta_start", "slice_theta_end", "axis_1"], ["theta"]),
        node("Slice", ["x", "slice_v_start", "slice_v_end", "axis_1"], ["v"]),
        node("Sin", ["theta"], ["sine"]),
        node("Cos", ["theta"], ["cosine"]),
        node("Concat", ["sine", "cosine"], ["hidden_0"], axis=1),
    ]
    last = len(weights.layers) - 1
    for index in range(len(weights.layers)):
        linear = f"linear_{index}"
        gemm = [f"hidden_{index}", f"weight_{index}", f"bias_{index}"]
        nodes.append(node("Gemm", gemm, ["point" if index == last else linear]))
        if index < last:
            nodes.append(node("Tanh", [linear], [f"hidden_{index + 1}"]))
    nodes += [
        node("ReduceL2", ["point", "axis_1"], ["norm"], keepdims=1),
        node("Div", ["point", "norm"], ["unit"]),
        node("Split", ["unit", "split_point"], ["matrix_flat", "q"], axis=1),
        node("Mul", ["q", "q_scale"], ["Q"]),
        node("Reshape", ["matrix_flat", "matrix_shape"], ["matrix"]),
        node("Reshape", ["v", "column_shape"], ["column"]),
        node("MatMul", ["matrix", "column"], ["p_column"]),
        node("Squeeze", ["p_column", "axis_minus_1"], ["P"]),
    ]
    constants["axis_minus_1"] = np.array([-1], dtype=np.int64)
    graph = helper.make_graph(
        nodes,
        "two_link_arm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor_value_info("P", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("Q", TensorProto.FLOAT, ["batch", 1]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model
