"""The documented calls of strict inference, as a user types them, on arrays and on tensors.

Each test is one block of the interface's documentation with its imports, in its order. Calibration
and the reference deployment have theirs beside their own tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.projective import columns_model, pairs


class Setting(NamedTuple):
    """What the blocks take as given."""

    P: Any
    Q: Any
    x: Any
    all_of: Any
    any_of: Any


def _numpy() -> Setting:
    x = pairs(64, 5)
    return Setting(x[:, :2], x[:, 2:], x, np.all, np.any)


def _torch() -> Setting:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(pairs(64, 5))
    return Setting(x[:, :2], x[:, 2:], x, torch.all, torch.any)


KINDS = [
    pytest.param(_numpy, id="numpy"),
    pytest.param(_torch, id="torch", marks=pytest.mark.torch),
]


@pytest.fixture(params=KINDS)
def given(request: pytest.FixtureRequest) -> Setting:
    setting: Setting = request.param()
    return setting


def decoded_and_masks(given: Setting) -> tuple[Any, Any, Any]:
    from interlock.strict import InferenceConfig, strict_inference

    cfg = InferenceConfig(tau_infer=1e-6, tau_train=1e-4)
    decoded, bottom_mask, gap_mask = strict_inference(given.P, given.Q, config=cfg)
    return decoded, bottom_mask, gap_mask


def solver(rows: Any) -> Any:
    """An analytic solver that always has an answer."""
    return rows[:, :2] + 1.0


def test_strict_decode(given: Setting) -> None:
    decoded, bottom_mask, gap_mask = decoded_and_masks(given)
    small = abs(given.Q) < 1e-6
    near = (abs(given.Q) >= 1e-6) & (abs(given.Q) < 1e-4)
    assert bottom_mask.shape == gap_mask.shape == decoded.shape
    assert given.all_of(bottom_mask == small)
    assert given.all_of(gap_mask == near)
    assert given.any_of(bottom_mask)
    assert given.any_of(gap_mask)
    assert not given.any_of(bottom_mask & gap_mask)


def test_without_tau_train_only_bottoms_are_watched(given: Setting) -> None:
    from interlock.strict import InferenceConfig, strict_inference

    cfg = InferenceConfig(tau_infer=1e-6)
    _, bottom_mask, gap_mask = strict_inference(given.P, given.Q, config=cfg)
    assert given.any_of(bottom_mask)
    assert not given.any_of(gap_mask)


def test_reject_on_bottom(given: Setting) -> None:
    from interlock.strict import reject_on_bottom

    decoded, bottom_mask, _ = decoded_and_masks(given)
    decoded_safe, accept_mask = reject_on_bottom(decoded, bottom_mask)
    assert given.all_of(accept_mask == ~bottom_mask)
    assert given.all_of(decoded_safe[accept_mask] == decoded[accept_mask])


def test_reject_on_gap(given: Setting) -> None:
    from interlock.strict import reject_on_gap

    decoded, bottom_mask, gap_mask = decoded_and_masks(given)
    decoded_safe, accept_mask = reject_on_gap(decoded, bottom_mask, gap_mask)
    assert given.all_of(accept_mask == ~(bottom_mask | gap_mask))
    assert given.all_of((decoded_safe == decoded_safe) == accept_mask)


def test_route_to_analytic_solver(given: Setting) -> None:
    from interlock.strict import route_to_analytic_solver

    x = given.x
    decoded, bottom_mask, _ = decoded_and_masks(given)
    resolved, route_mask = route_to_analytic_solver(
        decoded,
        bottom_mask=bottom_mask,
        analytic_solver=solver,
        inputs=x,
    )
    assert type(resolved) is type(route_mask) is type(decoded)
    assert given.all_of(route_mask == bottom_mask[:, 0])
    assert given.all_of(resolved[route_mask] == solver(x[route_mask]))
    assert given.all_of(resolved[~route_mask] == decoded[~route_mask])


def test_monitoring(given: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from interlock.strict import JsonlLogger, StrictInferenceMonitor

    monkeypatch.chdir(tmp_path)
    _, bottom_mask, gap_mask = decoded_and_masks(given)
    events = JsonlLogger("strict_inference_events.jsonl")
    monitor = StrictInferenceMonitor(
        bundle_id="robotics_rr_ik_v1",
        event_logger=events,
        acceptance_rate_drift_threshold=0.1,
    )

    monitor.update(bottom_mask, gap_mask)
    rates = monitor.rates()
    state = monitor.export_state(
        include_histograms=True,
        include_batch_summaries=True,
    )
    assert rates["n"] == state["n"] == 128
    assert 0 < rates["bottom_rate"] < 1
    assert rates["accept_rate"] == 1 - rates["bottom_rate"]
    assert len(state["batch_summaries"]) == 1
    assert Path("strict_inference_events.jsonl").exists()


def test_provenance(given: Setting) -> None:
    from interlock.strict import InferenceConfig, strict_inference

    cfg = InferenceConfig(
        tau_infer=1e-6,
        tau_train=1e-4,
        provenance="experimental",
        provenance_representation="split_masks",
    )

    result = strict_inference(given.P, given.Q, config=cfg)
    _decoded, bottom_mask, _gap_mask = result

    fault_mask: Any = getattr(result, "fault_mask", None)
    semantic_bottom_mask: Any = getattr(result, "semantic_bottom_mask", None)
    bottom_provenance = getattr(result, "bottom_provenance", None)
    assert given.all_of((fault_mask | semantic_bottom_mask) == bottom_mask)
    assert bottom_provenance is None


def test_direction_aware_censoring(given: Setting) -> None:
    from interlock.strict import decode_strict_censored_3way

    direction_logits = given.x[:, :2]
    decoded, bottom_mask, class_id = decode_strict_censored_3way(
        given.P[:, :1].squeeze(-1),
        given.Q.squeeze(-1),
        tau_infer=1e-6,
        direction_logits=direction_logits,
    )
    assert decoded.shape == bottom_mask.shape == class_id.shape == (64,)
    above = direction_logits[:, 1] > direction_logits[:, 0]
    assert given.all_of(class_id[~bottom_mask] == 1)
    assert given.all_of((class_id == 2) == (bottom_mask & above))
    assert given.all_of((class_id == 0) == (bottom_mask & ~above))


def test_a_bundle_of_an_onnx_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle's blocks without torch, from the answer on to the resolved one."""
    from interlock.strict import (
        InferenceConfig,
        export_bundle,
        load_onnx_runtime_bundle,
        reject_on_bottom,
        reject_on_gap,
        route_to_analytic_solver,
        validate_bundle,
    )

    monkeypatch.chdir(tmp_path)
    x_numpy = pairs(64, 5)
    cfg = InferenceConfig(tau_infer=1e-6, tau_train=1e-4)
    export_bundle(columns_model(), "bundle_dir", example_inputs=(x_numpy,), config=cfg)
    validate_bundle("bundle_dir")
    assert {path.name for path in Path("bundle_dir").iterdir()} >= {"model.onnx", "metadata.json"}
    runtime = load_onnx_runtime_bundle("bundle_dir", providers=["CPUExecutionProvider"])
    decoded, bottom_mask, gap_mask = runtime.run(x_numpy)

    _, accept_mask = reject_on_bottom(decoded, bottom_mask)
    assert np.array_equal(accept_mask, ~bottom_mask)
    _, accept_mask = reject_on_gap(decoded, bottom_mask, gap_mask)
    assert np.array_equal(accept_mask, ~(bottom_mask | gap_mask))
    resolved, route_mask = route_to_analytic_solver(
        decoded, bottom_mask=bottom_mask, analytic_solver=solver, inputs=x_numpy
    )
    assert route_mask.any()
    assert np.isfinite(resolved).all()


@pytest.mark.torch
def test_wrapping_exporting_and_running_a_torch_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch: Any = pytest.importorskip("torch")
    Module: Any = torch.nn.Module

    from interlock.strict import (
        InferenceConfig,
        SCMInferenceWrapper,
        export_bundle,
        load_onnx_runtime_bundle,
        run_bundle_reference_smoke_test,
        validate_bundle,
    )

    class Columns(Module):  # type: ignore[misc]
        def forward(self, x: Any) -> tuple[Any, Any]:
            return x[:, :2] * 2.0, x[:, 2:] * 1.0

    monkeypatch.chdir(tmp_path)
    model = Columns()
    x_numpy = pairs(64, 5)
    x = x_example = x_smoke = torch.from_numpy(x_numpy)

    wrapped = SCMInferenceWrapper(
        model,
        config=InferenceConfig(tau_infer=1e-6, tau_train=1e-4),
    ).eval()

    decoded, bottom_mask, gap_mask = wrapped(x)
    P, _Q = wrapped.train()(x)
    assert torch.equal(P, x[:, :2] * 2)
    wrapped.eval()

    export_bundle(wrapped, "bundle_dir", example_inputs=(x_example,))
    validate_bundle("bundle_dir")

    runtime = load_onnx_runtime_bundle(
        "bundle_dir",
        providers=["CPUExecutionProvider"],
    )
    served, served_bottom, served_gap = runtime.run(x_numpy)
    assert np.array_equal(served_bottom, bottom_mask.numpy())
    assert np.array_equal(served_gap, gap_mask.numpy())
    np.testing.assert_allclose(served, decoded.numpy(), rtol=1e-6)

    run_bundle_reference_smoke_test("bundle_dir", wrapped, (x_smoke,))
