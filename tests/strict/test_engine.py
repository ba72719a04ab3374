"""A strict bundle in a route, made by hand and from what a route file may name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.projective import columns_model, pairs

from interlock.errors import BundleIntegrityError, ConfigError, InputError
from interlock.kernel.clock import NO_DEADLINE
from interlock.kernel.outcome import EvidenceKind, StepResult
from interlock.kernel.route import BatchAnswer, Route, RouteStep
from interlock.strict import (
    InferenceConfig,
    MaskGuard,
    StrictEngine,
    export_bundle,
    factories,
    load_onnx_runtime_bundle,
    strict_inference,
)
from interlock.strict.arm.requests import sample_requests

CONFIG = InferenceConfig(tau_infer=1e-4, tau_train=1e-2)
X = pairs(300, 1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "columns"
    export_bundle(columns_model(), path, example_inputs=(X,), config=CONFIG)
    return path


@pytest.fixture(scope="module")
def engine(directory: Path) -> StrictEngine:
    return StrictEngine(load_onnx_runtime_bundle(directory))


def test_an_answer_is_the_decoded_value_with_its_masks(engine: StrictEngine) -> None:
    other = np.zeros(300)
    answer = engine.answer_batch({"x": X, "not for the model": other}, deadline=NO_DEADLINE)
    decoded, bottom, gap = strict_inference(X[:, :2], X[:, 2:], config=CONFIG)
    np.testing.assert_array_equal(answer.value, decoded)
    np.testing.assert_array_equal(answer.fields["bottom_mask"], bottom)
    np.testing.assert_array_equal(answer.fields["gap_mask"], gap)


def test_a_missing_input_is_named(engine: StrictEngine) -> None:
    with pytest.raises(InputError, match="no input 'x'"):
        engine.answer_batch({"y": X}, deadline=NO_DEADLINE)


def test_in_a_route_bottom_is_refused_and_gap_flagged(engine: StrictEngine) -> None:
    step = RouteStep("model", engine, guards=(MaskGuard(),), evidence=engine.evidence)
    outcome = Route("r", (step,), "refuse").run_batch({"x": X})
    _, bottom, gap = strict_inference(X[:, :2], X[:, 2], config=CONFIG)
    assert bottom.any()
    assert gap.any()
    for index in range(300):
        result = outcome.row(index).steps[0].result
        assert (result is StepResult.REFUSED) == bottom[index]
        assert (result is StepResult.FLAGGED) == gap[index]
    (evidence,) = outcome.steps[0].evidence
    assert evidence.kind is EvidenceKind.ATTESTED
    assert evidence.detail["bundle"] == engine.runtime.bundle.digest


def test_it_describes_itself_by_digest_and_thresholds(engine: StrictEngine) -> None:
    described = engine.describe()
    assert described["bundle"] == engine.runtime.bundle.digest
    assert (described["tau_infer"], described["tau_train"]) == (1e-4, 1e-2)


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 2, 3)])
def test_the_mask_guard_judges_rows_by_any_of_their_elements(shape: tuple[int, ...]) -> None:
    bottom, gap = np.zeros((2, *shape), np.bool_)
    bottom[1, ...] = True
    gap.reshape(4, -1)[2, -1] = True
    answer = BatchAnswer(np.zeros((4, 2)), {"bottom_mask": bottom, "gap_mask": gap})
    verdict = MaskGuard().check_batch({}, answer)
    assert [mask.tolist() for mask in verdict.refuse.values()] == [[False, True, False, False]]
    assert [mask.tolist() for mask in verdict.flag.values()] == [[False, False, True, False]]


@pytest.mark.parametrize("fields", [{}, {"bottom_mask": np.zeros(4), "gap_mask": np.zeros(4)}])
def test_the_mask_guard_refuses_answers_without_masks(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no mask 'bottom_mask'"):
        MaskGuard().check_batch({}, BatchAnswer(np.zeros((4, 2)), fields))


def test_a_route_file_may_name_a_bundle_by_a_path_relative_to_it(directory: Path) -> None:
    digest = load_onnx_runtime_bundle(directory).bundle.digest
    made = factories.strict_bundle(
        {"bundle": directory.name, "expected_digest": digest, "threads": 2}, base=directory.parent
    )
    assert made.runtime.bundle.digest == digest
    assert made.runtime.session.config.intra_op_threads == 2
    with pytest.raises(BundleIntegrityError):
        factories.strict_bundle(
            {"bundle": str(directory), "expected_digest": "sha256:" + "0" * 64}, base=Path()
        )


@pytest.mark.parametrize("options", [{}, {"bundle": 3}, {"bundle": "b", "expected_digst": "x"}])
def test_wrong_options_of_a_bundle_are_named(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bundle|expected_digst"):
        factories.strict_bundle(options, base=tmp_path)


def test_the_other_factories_make_what_they_say(tmp_path: Path) -> None:
    guard = factories.strict_masks({"bottom": "b", "gap": "g"}, base=tmp_path)
    assert guard == MaskGuard(bottom="b", gap="g")
    requests = sample_requests(50, 3)
    route = factories.arm({}, base=tmp_path)
    steps = (
        RouteStep(
            "analytic",
            factories.arm_analytic({}, base=tmp_path),
            guards=(factories.arm_jacobian({}, base=tmp_path),),
        ),
    )
    for one in (route, Route("solver", steps, "refuse")):
        assert one.run_batch({"x": requests.x}).answered.mean() > 0.8
    for factory in (factories.arm, factories.arm_analytic, factories.arm_jacobian):
        with pytest.raises(ConfigError):
            factory({"colour": "red"}, base=tmp_path)
