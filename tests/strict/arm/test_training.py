"""The arm's network: its graph needs no torch, its training does and repeats itself."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from interlock.engines.onnx import OnnxSession
from interlock.errors import ConfigError
from interlock.strict.arm.kinematics import ARM
from interlock.strict.arm.requests import sample_requests
from interlock.strict.arm.training import (
    Q_SCALE,
    EpochConfig,
    TrainingConfig,
    Weights,
    to_onnx,
    train,
    train_epochs,
)

SHORT = TrainingConfig(seed=3, hidden=8, adam_steps=40, lbfgs_iterations=10, points=64)


def random_weights(seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    sizes = [4, 8, 8, 5]
    return Weights(
        tuple(
            (rng.normal(size=(wide, narrow)), rng.normal(size=narrow))
            for wide, narrow in itertools.pairwise(sizes)
        )
    )


def forward(
    weights: Weights, x: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """P and Q as the module's docstring describes them, in float64."""
    theta, v = x[:, :2].astype(np.float64), x[:, 2:].astype(np.float64)
    hidden = np.concatenate([np.sin(theta), np.cos(theta)], axis=1)
    *inner, (last, bias) = weights.layers
    for weight, offset in inner:
        hidden = np.tanh(hidden @ weight + offset)
    point = hidden @ last + bias
    point /= np.linalg.norm(point, axis=1, keepdims=True)
    return np.einsum("nij,nj->ni", point[:, :4].reshape(-1, 2, 2), v), point[:, 4:] * Q_SCALE


@pytest.mark.parametrize("n", [0, 1, 100])
def test_the_graph_computes_the_network(n: int) -> None:
    weights, x = random_weights(1), sample_requests(n, 4).x
    found = OnnxSession(to_onnx(weights).SerializeToString()).run({"x": x})
    p, q = found["P"], found["Q"]
    wanted_p, wanted_q = forward(weights, x)
    np.testing.assert_allclose(p, wanted_p, atol=1e-5)
    np.testing.assert_allclose(q, wanted_q, atol=1e-5)


@pytest.mark.torch
def test_one_seed_trains_the_same_weights_every_time() -> None:
    first, again = train(ARM, SHORT), train(ARM, SHORT)
    for layer, other in zip(first.layers, again.layers, strict=True):
        np.testing.assert_array_equal(layer[0], other[0])
        np.testing.assert_array_equal(layer[1], other[1])


@pytest.mark.torch
def test_training_lowers_the_loss_in_both_phases() -> None:
    seen: dict[str, list[float]] = {"adam": [], "l-bfgs": []}
    config = TrainingConfig(seed=3, hidden=16, adam_steps=501, lbfgs_iterations=251, points=256)
    train(ARM, config, lambda phase, step, loss: seen[phase].append(loss))
    assert seen["adam"][-1] < seen["adam"][0] / 10
    assert seen["l-bfgs"][-1] < seen["l-bfgs"][0] / 2


@pytest.mark.torch
def test_epochs_repeat_themselves_and_lower_the_loss() -> None:
    config = EpochConfig(n_samples=333, epochs=3, seed=5, hidden=16)
    runs = []
    for _ in range(2):
        seen: list[tuple[str, int, float]] = []
        weights = train_epochs(ARM, config, lambda *step, seen=seen: seen.append(step))
        runs.append((seen, weights))
    (seen, weights), (again, other) = runs
    assert [(phase, epoch) for phase, epoch, _ in seen] == [("epoch", n) for n in (1, 2, 3)]
    assert seen[-1][2] < seen[0][2] / 2
    assert seen == again
    for layer, same in zip(weights.layers, other.layers, strict=True):
        np.testing.assert_array_equal(layer[0], same[0])


@pytest.mark.torch
def test_an_epoch_takes_one_step_for_each_batch_of_its_samples() -> None:
    """One sample a batch or all in one: another number of steps, so other weights."""
    first, second = (
        train_epochs(ARM, EpochConfig(n_samples=32, epochs=1, hidden=8, batch=batch))
        for batch in (1, 32)
    )
    assert (first.layers[0][0] != second.layers[0][0]).any()


@pytest.mark.torch
def test_a_device_that_torch_lacks_is_named() -> None:
    config = EpochConfig(n_samples=4, epochs=1)
    with pytest.raises(ConfigError, match="device 'warp' cannot be used"):
        train_epochs(ARM, config, device="warp")


@pytest.mark.parametrize("field", ["n_samples", "epochs", "hidden", "batch"])
def test_epochs_need_counts(field: str) -> None:
    values = {"n_samples": 4, "epochs": 1, field: 0}
    with pytest.raises(ConfigError, match=f"{field} is 0"):
        train_epochs(ARM, EpochConfig(**values))
