"""Wrapped torch modules: their modes, their export, and bundles compared with them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.parity import assert_same
from support.projective import pairs

from interlock.bundle import Bundle
from interlock.errors import BundleContractError, ConfigError, InputError
from interlock.strict import (
    InferenceConfig,
    StrictResult,
    export_bundle,
    load_onnx_runtime_bundle,
    run_bundle_reference_smoke_test,
    strict_inference,
    validate_bundle,
)

pytestmark = pytest.mark.torch
torch: Any = pytest.importorskip("torch")
Module: Any = torch.nn.Module

from interlock.strict import SCMInferenceWrapper  # noqa: E402 - needs torch

CONFIG = InferenceConfig(tau_infer=1e-4, tau_train=1e-2)


class Rational(Module):  # type: ignore[misc]
    """x (batch, 4) -> P (batch, 2), Q (batch, 1), with dropout to tell the modes apart."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Linear(4, hidden), torch.nn.Tanh(), torch.nn.Dropout(0.5)
        )
        self.p, self.q = torch.nn.Linear(hidden, 2), torch.nn.Linear(hidden, 1)

    def forward(self, x: Any) -> tuple[Any, Any]:
        hidden = self.body(x)
        return self.p(hidden), self.q(hidden)


class Says(Module):  # type: ignore[misc]
    """A module whose forward is a given function of one tensor."""

    def __init__(self, forward: Callable[[Any], Any]) -> None:
        super().__init__()
        self._forward = forward

    def forward(self, x: Any) -> Any:
        return self._forward(x)


class Pair(Module):  # type: ignore[misc]
    """P and Q come from elsewhere, in one input each."""

    def forward(self, P: Any, *Q: Any) -> tuple[Any, Any]:
        return P * 2, Q[0] * 2


class Sum(Module):  # type: ignore[misc]
    """Two inputs: P = a + b, Q = b."""

    def forward(self, a: Any, b: Any) -> tuple[Any, Any]:
        return a + b, b


def columns(x: Any) -> tuple[Any, Any]:
    return x[:, :2], x[:, 2:]


@pytest.fixture
def wrapped() -> Any:
    torch.manual_seed(0)
    return SCMInferenceWrapper(Rational(), config=CONFIG).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of a model like `wrapped`; making one takes a second."""
    torch.manual_seed(0)
    wrapper = SCMInferenceWrapper(Rational(), config=CONFIG).eval()
    directory = tmp_path_factory.mktemp("wrapper") / "b"
    return export_bundle(wrapper, directory, example_inputs=(torch.randn(20, 4),))


@pytest.fixture
def x() -> Any:
    return torch.randn(50, 4, generator=torch.Generator().manual_seed(1))


def test_the_steps_from_a_model_to_a_checked_bundle(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, bundle_dir = Rational(), tmp_path / "bundle_dir"
    x, x_example, x_smoke = torch.randn(3, 20, 4).unbind()

    wrapped = SCMInferenceWrapper(
        model,
        config=InferenceConfig(tau_infer=1e-6, tau_train=1e-4),
    ).eval()
    decoded, bottom_mask, gap_mask = wrapped(x)
    export_bundle(wrapped, bundle_dir, example_inputs=(x_example,))
    validate_bundle(bundle_dir)
    runtime = load_onnx_runtime_bundle(bundle_dir, providers=["CPUExecutionProvider"])
    served, served_bottom, served_gap = runtime.run(x.numpy())
    run_bundle_reference_smoke_test(bundle_dir, wrapped, (x_smoke,))

    np.testing.assert_allclose(served, decoded, rtol=1e-3)
    np.testing.assert_array_equal(served_bottom, bottom_mask)
    np.testing.assert_array_equal(served_gap, gap_mask)


def test_eval_mode_decodes_strictly_without_gradients(wrapped: Any, x: Any) -> None:
    p, q = wrapped.model(x)
    found = wrapped(x)
    assert isinstance(found, StrictResult)
    assert not found.decoded.requires_grad
    wanted = strict_inference(p.detach(), q.detach(), config=CONFIG)
    assert_same([t.numpy() for t in found], [t.numpy() for t in wanted])


def test_training_mode_passes_p_and_q_on_for_a_loss(wrapped: Any, x: Any) -> None:
    p, q = wrapped.train()(x)
    (p.square().mean() + q.square().mean()).backward()
    assert all(parameter.grad is not None for parameter in wrapped.parameters())


def test_it_starts_in_the_models_mode() -> None:
    assert SCMInferenceWrapper(Rational(), CONFIG).training
    assert not SCMInferenceWrapper(Rational().eval(), CONFIG).training


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x, "a Tensor"),
        (lambda x: (x, x, x), "a tuple of Tensor, Tensor, Tensor"),
        (lambda x: (), "a tuple of nothing"),
        (lambda x: {"P": x, "Q": x}, "a dict"),
        (lambda x: (x, 1.0), "a tuple of Tensor, float"),
        (lambda x: None, "a NoneType"),
    ],
)
def test_a_model_without_a_pair_is_told_so(
    forward: Callable[[Any], Any], message: str, train: bool
) -> None:
    wrapper = SCMInferenceWrapper(Says(forward), CONFIG).train(train)
    with pytest.raises(InputError, match=f"the model returned {message}; it must return two"):
        wrapper(torch.ones(2, 3))


def test_what_is_no_module_or_no_config_cannot_be_wrapped() -> None:
    with pytest.raises(ConfigError, match="model is a function"):
        SCMInferenceWrapper(columns, CONFIG)
    with pytest.raises(ConfigError, match="config is a float"):
        SCMInferenceWrapper(Rational(), 1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_bundle_answers_to_the_bit_where_the_model_only_selects(
    dtype: str, tmp_path: Path
) -> None:
    wrapper = SCMInferenceWrapper(Says(columns), CONFIG).eval()
    export_bundle(wrapper, tmp_path / "b", example_inputs=(pairs(50, 2, dtype),))
    x = pairs(5000, 3, dtype)
    x[::7, 2], x[::11, 1], x[::13, 2] = CONFIG.tau_infer, np.inf, np.nan
    found = load_onnx_runtime_bundle(tmp_path / "b").run(x)
    assert_same(found, strict_inference(*columns(x), config=CONFIG))


def test_row_masks_survive_the_export(tmp_path: Path) -> None:
    wrapper = SCMInferenceWrapper(Says(lambda x: (x[:, :2], x[:, 2])), CONFIG).eval()
    export_bundle(wrapper, tmp_path / "b", example_inputs=(pairs(50, 2),))
    x = pairs(500, 3)
    found = load_onnx_runtime_bundle(tmp_path / "b").run(x)
    assert found.bottom_mask.shape == (500,)
    assert_same(found, strict_inference(x[:, :2], x[:, 2], config=CONFIG))


def test_one_example_row_gives_an_open_batch(wrapped: Any, x: Any, tmp_path: Path) -> None:
    export_bundle(wrapped, tmp_path / "b", example_inputs=(x[:1],))
    runtime = load_onnx_runtime_bundle(tmp_path / "b")
    for n in (0, 1, 7, 50):
        assert runtime.run(x[:n]).decoded.shape == (n, 2)


def test_export_leaves_the_modes_as_they_were_and_exports_eval(
    wrapped: Any, x: Any, tmp_path: Path
) -> None:
    wrapped.train()
    wrapped.model.p.eval()
    export_bundle(wrapped, tmp_path / "b", example_inputs=(x,))
    assert wrapped.training
    assert wrapped.model.body.training
    assert not wrapped.model.p.training
    # Dropout off, so the answers repeat and equal those of eval mode.
    run_bundle_reference_smoke_test(tmp_path / "b", wrapped, (x,))
    assert wrapped.training


def test_inputs_keep_the_names_of_forwards_parameters(tmp_path: Path) -> None:
    wrapper = SCMInferenceWrapper(Sum(), CONFIG).eval()
    a, b = torch.randn(5, 2), torch.rand(5, 1) + 0.5
    bundle = export_bundle(wrapper, tmp_path / "b", example_inputs=(a, b))
    assert [spec.name for spec in bundle.metadata.inputs] == ["a", "b"]
    runtime = load_onnx_runtime_bundle(tmp_path / "b")
    wanted = [tensor.numpy() for tensor in wrapper(a, b)]
    assert_same(runtime.run(a, b), wanted)
    assert_same(runtime.run({"b": b, "a": a}), wanted)


def test_inputs_may_be_called_p_and_q(tmp_path: Path) -> None:
    wrapper = SCMInferenceWrapper(Pair(), CONFIG).eval()
    p, q = torch.randn(5, 2), torch.rand(5, 1) + 0.5
    bundle = export_bundle(wrapper, tmp_path / "b", example_inputs=(p, q))
    assert [spec.name for spec in bundle.metadata.inputs] == ["P", "Q_0"]
    assert bundle.metadata.strict is not None
    assert bundle.metadata.strict.p != "P"
    wanted = [tensor.numpy() for tensor in wrapper(p, q)]
    assert_same(load_onnx_runtime_bundle(tmp_path / "b").run(p, q), wanted)


def test_the_exported_graph_tells_nothing_of_this_machine(exported: Bundle) -> None:
    for trace in (str(Path(__file__).parent), "Traceback", "stack_trace", str(exported.path)):
        assert trace.encode() not in exported.model


def test_export_is_quiet(
    wrapped: Any,
    x: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        export_bundle(wrapped, tmp_path / "b", example_inputs=(x,))
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def branches(x: Any) -> tuple[Any, Any]:
    return (x, x[:, :1]) if bool(x.sum() > 0) else (-x, x[:, :1])


def fixes_the_batch(x: Any) -> tuple[Any, Any]:
    return x.reshape(4, 3)[:, :2], x[:, 2:]


def mixes_the_rows(x: Any) -> tuple[Any, Any]:
    return x[:, :2].reshape(-1), x[:, 2:].repeat(2, 1).reshape(-1)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (branches, "cannot export the model with an open batch axis"),
        (fixes_the_batch, "the batch, must be open"),
        (mixes_the_rows, r"P has shape \(8,\) for 4 rows"),
        (lambda x: (x[:, :2], x[:, 2:].double()), "P is float32 and Q is float64"),
        (lambda x: tuple(part.half() for part in columns(x)), "P and Q are float16"),
        (lambda x: tuple(part.bfloat16() for part in columns(x)), "bfloat16"),
        (lambda x: (x[:, 0], x[:, 2:]), "do not belong together"),
        (lambda x: x[:, :2], "it must return two tensors"),
        (lambda x: (x @ x, x), "the model failed on the inputs"),
    ],
)
def test_models_that_no_bundle_can_hold_are_refused_and_nothing_is_written(
    forward: Callable[[Any], Any], message: str, tmp_path: Path
) -> None:
    wrapper = SCMInferenceWrapper(Says(forward), CONFIG).eval()
    with pytest.raises(InputError, match=message):
        export_bundle(wrapper, tmp_path / "b", example_inputs=(pairs(4, 1),))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "is empty"),
        ((torch.ones(3, 4), torch.ones(3, 4)), "has 2 inputs"),
        ((torch.ones(3, 4, dtype=torch.float64),), "the model failed"),
        ((torch.ones(3, 5),), "the model failed"),
        ((torch.ones(3, 4, dtype=torch.bfloat16),), "bfloat16, which NumPy arrays cannot"),
        ((torch.ones(0, 4),), "at least one row"),
    ],
)
def test_wrong_example_inputs_are_named(
    wrapped: Any, inputs: tuple[Any, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        export_bundle(wrapped, tmp_path / "b", example_inputs=inputs)
    assert list(tmp_path.iterdir()) == []


def test_a_bare_module_and_a_second_config_are_refused(
    wrapped: Any, x: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="states no thresholds"):
        export_bundle(wrapped.model, tmp_path / "b", example_inputs=(x,))
    with pytest.raises(ConfigError, match="the wrapper's own"):
        export_bundle(wrapped, tmp_path / "b", example_inputs=(x,), config=InferenceConfig(0.5))


def test_a_tensor_gives_the_answers_of_its_array(exported: Bundle, x: Any) -> None:
    runtime = load_onnx_runtime_bundle(exported.path)
    wanted = runtime.run(x.numpy())
    assert_same(runtime.run(x.requires_grad_()), wanted)
    assert all(isinstance(part, np.ndarray) for part in runtime.run(x))


def test_a_model_that_has_changed_since_the_export_is_found_out(
    exported: Bundle, wrapped: Any, x: Any
) -> None:
    agreed = run_bundle_reference_smoke_test(exported.path, wrapped, (x,))
    assert (agreed.rows, agreed.accepted + agreed.bottom) == (50, 100)
    assert agreed.tolerance_used <= 1
    with torch.no_grad():
        wrapped.model.p.bias += 0.01
    with pytest.raises(BundleContractError, match="accepted values differ"):
        run_bundle_reference_smoke_test(exported.path, wrapped, (x,))


def test_other_thresholds_than_the_bundles_are_found_out(
    exported: Bundle, wrapped: Any, x: Any
) -> None:
    other = SCMInferenceWrapper(wrapped.model, InferenceConfig(1e-5, 1e-2))
    with pytest.raises(BundleContractError, match="tau_infer"):
        run_bundle_reference_smoke_test(exported.path, other, (x,))


@pytest.mark.parametrize("inputs", [(), (np.zeros((3, 5), np.float32),), ("x",)])
def test_a_smoke_test_takes_the_models_inputs(
    exported: Bundle, wrapped: Any, inputs: tuple[Any, ...]
) -> None:
    with pytest.raises(InputError):
        run_bundle_reference_smoke_test(exported.path, wrapped, inputs)


def test_a_smoke_test_needs_a_wrapper(exported: Bundle, wrapped: Any, x: Any) -> None:
    with pytest.raises(InputError, match="SCMInferenceWrapper"):
        run_bundle_reference_smoke_test(exported.path, wrapped.model, (x,))
