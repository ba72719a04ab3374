"""Loading and running strict bundles; no torch here."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.bundles import plain_metadata, plain_model
from support.parity import assert_same
from support.projective import columns_model, pairs, two_input_model

from interlock.bundle import pack
from interlock.engines.onnx import SessionConfig
from interlock.errors import (
    BundleContractError,
    BundleError,
    BundleIntegrityError,
    ConfigError,
    DeadlineError,
    EngineUnavailableError,
    InputError,
)
from interlock.kernel.batch import Array
from interlock.kernel.clock import Deadline
from interlock.strict import (
    InferenceConfig,
    StrictRuntime,
    export_bundle,
    load_onnx_runtime_bundle,
    strict_inference,
    validate_bundle,
)

CONFIG = InferenceConfig(tau_infer=1e-4, tau_train=1e-2)
X = pairs(100, 1)


def split(x: Array) -> tuple[Array, Array]:
    """P and Q of the model of columns."""
    return x[:, :2], x[:, 2:]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runtime") / "columns"
    export_bundle(columns_model(), path, example_inputs=(X,), config=CONFIG)
    return path


@pytest.fixture(scope="module")
def runtime(directory: Path) -> StrictRuntime:
    return load_onnx_runtime_bundle(directory, providers=["CPUExecutionProvider"])


def test_a_result_unpacks_as_decoded_bottom_and_gap(runtime: StrictRuntime) -> None:
    decoded, bottom_mask, gap_mask = runtime.run(X)
    assert_same((decoded, bottom_mask, gap_mask), strict_inference(*split(X), config=CONFIG))
    assert (decoded.dtype, bottom_mask.dtype, gap_mask.dtype) == ("float32", "bool", "bool")


def test_thresholds_and_identity_come_from_the_bundle(
    runtime: StrictRuntime, directory: Path
) -> None:
    assert runtime.config == CONFIG
    assert runtime.bundle.digest == validate_bundle(directory).digest


@pytest.mark.parametrize("n", [0, 1, 2, 999])
def test_any_number_of_rows_can_be_run(runtime: StrictRuntime, n: int) -> None:
    x = pairs(n, 3)
    assert_same(runtime.run(x), strict_inference(*split(x), config=CONFIG))


def test_inputs_may_be_given_by_name_and_laid_out_in_any_way(runtime: StrictRuntime) -> None:
    wanted = runtime.run(X)
    assert_same(runtime.run({"x": X}), wanted)
    assert_same(runtime.run(np.asfortranarray(X)), wanted)
    assert_same(runtime.run(np.repeat(X, 2, axis=0)[::2]), wanted)


def test_inputs_are_not_modified(runtime: StrictRuntime) -> None:
    x = X.copy()
    x.flags.writeable = False
    runtime.run(x)
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "0 inputs are given; the model takes x"),
        ((X, X), "2 inputs are given"),
        (({"y": X},), "'y' is unknown"),
        (({},), "'x' is missing"),
        ((X.astype(np.float64),), "float64"),
        ((X[:, :2],), "shape"),
        ((X[0],), "shape"),
        ((X.tolist(),), "is a list"),
        ((None,), "is a NoneType"),
    ],
)
def test_wrong_inputs_are_named(
    runtime: StrictRuntime, inputs: tuple[object, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        runtime.run(*inputs)


def test_a_single_row_is_never_spread_over_another_inputs_rows(tmp_path: Path) -> None:
    a, b = X[:, :2].copy(), X[:, 2:].copy()
    export_bundle(two_input_model(), tmp_path / "b", example_inputs=(a, b), config=CONFIG)
    runtime = load_onnx_runtime_bundle(tmp_path / "b")
    assert_same(runtime.run({"b": b, "a": a}), strict_inference(a + b, b, config=CONFIG))
    with pytest.raises(InputError, match="differ in their number of rows"):
        runtime.run(a, b[:1])


def test_threads_may_share_a_runtime(runtime: StrictRuntime) -> None:
    batches = [pairs(200, seed) for seed in range(16)]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(runtime.run, batches))
    for x, found in zip(batches, answers, strict=True):
        assert_same(found, strict_inference(*split(x), config=CONFIG))


def test_a_deadline_that_has_passed_stops_the_run(runtime: StrictRuntime) -> None:
    with pytest.raises(DeadlineError):
        runtime.run(X, deadline=Deadline.after(-1.0))


def test_what_runs_is_what_was_checked_even_if_the_files_change(tmp_path: Path) -> None:
    export_bundle(columns_model(), tmp_path / "b", example_inputs=(X,), config=CONFIG)
    runtime = load_onnx_runtime_bundle(tmp_path / "b")
    (tmp_path / "b" / "model.onnx").write_bytes(b"other")
    assert_same(runtime.run(X), strict_inference(*split(X), config=CONFIG))
    with pytest.raises(BundleIntegrityError):
        load_onnx_runtime_bundle(tmp_path / "b")


def test_the_expected_digest_is_the_root_of_trust(directory: Path) -> None:
    digest = validate_bundle(directory).digest
    assert load_onnx_runtime_bundle(directory, expected_digest=digest).bundle.digest == digest
    wrong = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    for load in (validate_bundle, load_onnx_runtime_bundle):
        with pytest.raises(BundleIntegrityError):
            load(directory, expected_digest=wrong)


def test_a_signature_can_be_required(directory: Path, tmp_path: Path) -> None:
    for load in (validate_bundle, load_onnx_runtime_bundle):
        with pytest.raises(BundleError):
            load(directory, require_signature=tmp_path / "key.pem")


def test_a_bundle_without_strict_decode_is_refused(tmp_path: Path) -> None:
    model = plain_model()
    pack(tmp_path / "plain", model, plain_metadata(model))
    for load in (validate_bundle, load_onnx_runtime_bundle):
        with pytest.raises(BundleContractError, match="without strict decode"):
            load(tmp_path / "plain")


def test_providers_and_threads_are_the_callers_choice(directory: Path) -> None:
    chosen = SessionConfig(intra_op_threads=2)
    runtime = load_onnx_runtime_bundle(directory, session=chosen)
    assert runtime.session.config == chosen
    with pytest.raises(EngineUnavailableError, match="NoSuchProvider"):
        load_onnx_runtime_bundle(directory, providers=["NoSuchProvider"])
    with pytest.raises(ConfigError, match="list of names"):
        load_onnx_runtime_bundle(directory, providers="CPUExecutionProvider")


def test_importing_strict_loads_neither_onnx_nor_torch() -> None:
    script = (
        "import sys, interlock.strict\n"
        "assert 'InferenceConfig' in dir(interlock.strict)\n"
        "from interlock.strict import InferenceConfig, strict_inference\n"
        "heavy = {'onnx', 'onnxruntime', 'torch', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_name_that_strict_lacks_is_an_attribute_error() -> None:
    import interlock.strict

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = interlock.strict.nonsense  # type: ignore[attr-defined]


def test_without_torch_the_wrapper_names_its_extra() -> None:
    script = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from interlock.strict import *\n"
        "from interlock.errors import MissingExtraError\n"
        "try:\n"
        "    from interlock.strict import SCMInferenceWrapper\n"
        "except MissingExtraError as error:\n"
        "    assert error.extra == 'torch', error.extra\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
