"""ONNX sessions: exact bytes, checked inputs, our own errors, soft deadlines."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from support import models

from interlock.engines.onnx import OnnxEngine, OnnxSession, SessionConfig, create_session
from interlock.engines.probe import probe_threads
from interlock.engines.sessions import SessionPool
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import (
    ConfigError,
    DeadlineError,
    EngineError,
    EngineUnavailableError,
    InputError,
    MemoryLimitError,
)
from interlock.kernel.route import Route, RouteStep

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(scope="module")
def affine() -> OnnxSession:
    return OnnxSession(models.affine())


def test_a_run_gives_the_outputs_by_name(affine: OnnxSession) -> None:
    found = affine.run({"x": X})
    assert list(found) == ["y", "total"]
    assert np.array_equal(found["y"], 2 * X + 1)
    assert np.array_equal(found["total"], (2 * X + 1).sum(axis=1))
    assert list(affine.run({"x": X}, outputs=["total"])) == ["total"]


def test_the_answer_is_the_bare_sessions_bit_for_bit(affine: OnnxSession) -> None:
    x = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    bare = ort.InferenceSession(models.affine(), providers=["CPUExecutionProvider"])
    assert np.array_equal(affine.run({"x": x})["y"], bare.run(["y"], {"x": x})[0])


def test_the_declared_tensors_are_known(affine: OnnxSession) -> None:
    (x,) = affine.inputs
    assert (x.name, x.dtype, x.shape) == ("x", "float32", ("N", 3))
    assert [spec.name for spec in affine.outputs] == ["y", "total"]


@pytest.mark.parametrize(
    "x",
    [np.zeros((0, 3), np.float32), np.asfortranarray(X), np.ones((4, 6), np.float32)[::2, ::2]],
    ids=["empty", "fortran", "strided"],
)
def test_any_layout_and_an_empty_batch_run(affine: OnnxSession, x: Any) -> None:
    assert np.array_equal(affine.run({"x": x})["y"], 2 * x + 1)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "input 'x' is missing"),
        ({"x": X, "z": X}, "input 'z' is unknown"),
        ({"x": X.astype(np.float64)}, "input 'x' has dtype float64; the model takes float32"),
        ({"x": X.astype(">f4")}, "input 'x' has dtype >f4"),
        ({"x": X[0]}, r"input 'x' has shape \(3,\); the model takes \(N, 3\)"),
        ({"x": X[:, :2]}, r"input 'x' has shape \(2, 2\)"),
        ({"x": X.tolist()}, "input 'x' is a list"),
    ],
)
def test_a_wrong_input_is_named(affine: OnnxSession, inputs: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        affine.run(inputs)


def test_a_wrong_output_is_named(affine: OnnxSession) -> None:
    with pytest.raises(InputError, match="output 'z' is unknown") as caught:
        affine.run({"x": X}, outputs=["z"])
    assert "y, total" in caught.value.hint


def test_no_outputs_asked_for_is_no_outputs(affine: OnnxSession) -> None:
    assert affine.run({"x": X}, outputs=()) == {}


def test_a_mask_is_refused_since_the_model_would_not_see_it(affine: OnnxSession) -> None:
    with pytest.raises(InputError, match="'x' is a MaskedArray"):
        affine.run({"x": np.ma.masked_array(X, mask=X > 2)})


def test_text_runs_from_either_kind_of_array() -> None:
    session = OnnxSession(models.is_yes())
    for dtype in (object, np.str_):
        found = session.run({"text": np.array(["yes", "no"], dtype=dtype)})
        assert found["same"].tolist() == [True, False]
    with pytest.raises(InputError, match="'text' has dtype float32"):
        session.run({"text": X[0]})


def test_an_error_while_running_names_the_node_and_quotes_no_value() -> None:
    with pytest.raises(EngineError) as caught:
        OnnxSession(models.gather()).run({"i": np.array([123456789])})
    assert type(caught.value) is EngineError
    assert "node 'look up' (Gather)" in caught.value.message
    assert "123456789" not in str(caught.value.to_dict())
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "model",
    [
        b"not a model",
        models.affine()[:-20],
        models.build([], [models.tensor("x", 1, [1])], [models.tensor("y", 1, [1])]),
    ],
    ids=["noise", "truncated", "unconnected"],
)
def test_a_malformed_model_is_unavailable(model: bytes) -> None:
    with pytest.raises(EngineUnavailableError, match="cannot be loaded"):
        create_session(model)


@pytest.mark.parametrize("model", [b"", "model.onnx", Path("model.onnx")])
def test_a_model_is_bytes_and_never_a_path(model: Any) -> None:
    with pytest.raises(InputError):
        create_session(model)


@pytest.mark.parametrize("kind", ["dense", "sparse", "constant"])
@pytest.mark.parametrize("absolute", [False, True])
def test_no_file_beside_the_bytes_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, absolute: bool
) -> None:
    file = tmp_path / "weights.bin"
    np.arange(4, dtype=np.float32).tofile(file)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineUnavailableError):
        create_session(models.with_external_data(str(file) if absolute else file.name, kind))


def test_an_absent_provider_is_an_error_that_lists_what_there_is() -> None:
    absent = "NoSuchExecutionProvider"
    for providers in ((absent,), (absent, "CPUExecutionProvider")):
        with pytest.raises(EngineUnavailableError, match=absent) as caught:
            create_session(models.affine(), SessionConfig(providers=providers))
        assert "CPUExecutionProvider" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("CUDAExecutionProvider", "onnxruntime-gpu"),
        ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
        ("CpuExecutionProvider", "did you mean CPUExecutionProvider"),
    ],
)
def test_an_absent_provider_says_what_is_missing(name: str, told: str) -> None:
    if name in ort.get_available_providers():
        pytest.skip("it is here")
    with pytest.raises(EngineUnavailableError) as caught:
        create_session(models.affine(), SessionConfig(providers=(name,)))
    assert told in caught.value.hint


def test_nodes_do_not_fall_back_to_the_cpu_unasked() -> None:
    other = next((p for p in ort.get_available_providers() if p != "CPUExecutionProvider"), None)
    if other is None:
        pytest.skip("no second execution provider")
    with pytest.raises(EngineUnavailableError):
        create_session(models.affine(), SessionConfig(providers=(other,)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"providers": ()},
        {"provider_options": {"CUDAExecutionProvider": {}}},
        {"intra_op_threads": 0},
        {"inter_op_threads": -1},
        {"intra_op_threads": 1_000_000},
        {"optimization": "most"},
        {"log_severity": 5},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_configuration_names_its_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SessionConfig(**wrong)


def test_every_setting_is_taken() -> None:
    config = SessionConfig(
        intra_op_threads=2,
        inter_op_threads=2,
        allow_spinning=True,
        optimization="none",
        deterministic=False,
        memory_arena=False,
        log_severity=3,
    )
    options = create_session(models.affine(), config).get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == 2
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert not options.use_deterministic_compute
    assert not options.enable_cpu_mem_arena
    assert options.log_severity_level == 3


def test_the_soft_deadline_stops_between_nodes_and_the_session_stays_usable() -> None:
    session = OnnxSession(models.layers(width=400, depth=600))
    x = np.ones((400, 400), np.float32)
    began = time.monotonic()
    with pytest.raises(DeadlineError, match="stopped"):
        session.run({"x": x}, deadline=Deadline.after(0.05))
    stopped_after = time.monotonic() - began
    began = time.monotonic()
    found = session.run({"x": x}, deadline=Deadline.after(600))
    assert stopped_after < time.monotonic() - began
    assert np.array_equal(found["h600"], x)


def test_soft_deadlines_of_concurrent_runs_do_not_touch_each_other() -> None:
    session = OnnxSession(models.layers(width=200, depth=400))
    x = np.ones((200, 200), np.float32)
    ended: dict[int, str] = {}

    def run(number: int) -> None:
        limit = Deadline.after(0.001) if number % 2 else Deadline.after(600)
        try:
            session.run({"x": x}, deadline=limit)
            ended[number] = "answered"
        except DeadlineError:
            ended[number] = "late"

    threads = [threading.Thread(target=run, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == {k: "late" if k % 2 else "answered" for k in range(6)}


def test_an_expired_deadline_runs_nothing(affine: OnnxSession) -> None:
    with pytest.raises(DeadlineError):
        affine.run({"x": X}, deadline=Deadline.after(0))


def test_memory_that_cannot_be_had_is_an_error_of_its_own() -> None:
    session = OnnxSession(models.memory_bomb(elements=1 << 50))
    with pytest.raises(MemoryLimitError):
        session.run({"x": np.ones(1, np.float32)})


def test_warming_up_runs_with_zeros_or_with_what_is_given(affine: OnnxSession) -> None:
    affine.warm_up()
    OnnxSession(models.is_yes()).warm_up()
    with pytest.raises(InputError):
        affine.warm_up({"x": X[0]})


def test_a_pool_bounds_what_runs_at_the_same_time(affine: OnnxSession) -> None:
    pool = SessionPool(affine, 2)
    with pool.lend() as first, pool.lend() as second:
        assert first is second is affine
        with pytest.raises(DeadlineError, match="all 2 sessions"):
            pool.run({"x": X}, deadline=Deadline.after(0.05))
    assert np.array_equal(pool.run({"x": X}, deadline=Deadline.after(60))["y"], 2 * X + 1)
    with pytest.raises(InputError):
        pool.run({})
    with pool.lend(Deadline.after(1)), pool.lend(Deadline.after(1)):
        pass
    with pytest.raises(ConfigError, match="size"):
        SessionPool(affine, 0)


def test_many_threads_on_a_pool_get_their_own_answers(affine: OnnxSession) -> None:
    pool = SessionPool(affine, 3)
    wrong: list[int] = []

    def ask(number: int) -> None:
        for turn in range(100):
            x = np.full((number + 1, 3), 1000 * number + turn, np.float32)
            if not np.array_equal(pool.run({"x": x})["y"], 2 * x + 1):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_engine_answers_in_a_route(affine: OnnxSession) -> None:
    engine = OnnxEngine(affine, value="y", fields=("total",))
    route: Route[Any, Any] = Route("r", (RouteStep("model", engine),), "refuse")
    # `hint` is there for another step, and is none of the model's inputs.
    outcome = route.run_batch({"x": X, "hint": np.zeros(2)})
    assert outcome.answered.all()
    assert np.array_equal(outcome.value, 2 * X + 1)
    assert np.array_equal(outcome.fields["model.total"], (2 * X + 1).sum(axis=1))
    wrong = route.run_batch({"z": X})
    assert not wrong.answered.any()
    assert wrong.reason_texts[int(wrong.reasons[0, 0])] == "input: input 'x' is missing"


def test_the_engine_refuses_outputs_that_the_model_lacks(affine: OnnxSession) -> None:
    with pytest.raises(ConfigError, match="'z'"):
        OnnxEngine(affine, value="z")
    with pytest.raises(ConfigError, match="'z'"):
        OnnxEngine(affine, value="y", fields=("z",))
    with pytest.raises(ConfigError, match="twice"):
        OnnxEngine(affine, value="y", fields=("y",))
    answer = OnnxEngine(SessionPool(affine, 1), value="y").answer_batch(
        {"x": X}, deadline=NO_DEADLINE
    )
    assert np.array_equal(answer.value, 2 * X + 1)


def test_the_probe_measures_each_number_of_threads() -> None:
    found = probe_threads(models.affine(), {"x": X}, threads=[2, 1], seconds=0.01)
    assert list(found.seconds) == [1, 2]
    assert found.runs >= 5
    assert found.speedup[1] == 1.0
    assert found.speedup[2] == found.seconds[1] / found.seconds[2]
    assert found.fastest in (1, 2)
    with pytest.raises(ConfigError, match="threads"):
        probe_threads(models.affine(), {"x": X}, threads=[])


def test_the_modules_are_light_until_used() -> None:
    import subprocess
    import sys

    code = (
        "import sys, interlock.engines.onnx, interlock.engines.worker, interlock.engines.sessions;"
        "assert not {'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
