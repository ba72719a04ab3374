"""The probe: a model that decodes otherwise than its contract says is not handed out."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.bundles import (
    as_model,
    plain_metadata,
    plain_model,
    strict_bundle,
    strict_metadata,
    strict_model,
)
from support.hostile import write_files
from support.processes import gone

from interlock.bundle import load, pack
from interlock.bundle import probe as probe_module
from interlock.bundle.decode_cases import Cases, expected, p_cases, q_cases
from interlock.bundle.manifest import METADATA, MODEL
from interlock.errors import BundleContractError


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", ["batch", 1, 7])
def test_a_sound_decode_passes(dtype: str, batch: int | str, tmp_path: Path) -> None:
    model = strict_model(dtype, batch=batch)
    pack(tmp_path / "b", model, strict_metadata(model))


def test_a_strict_model_without_smoke_vectors_is_probed_all_the_same(tmp_path: Path) -> None:
    model = strict_model()
    _node(model, "Less").op_type = "LessOrEqual"
    with pytest.raises(BundleContractError, match="bottom_mask"):
        pack(tmp_path / "b", model, strict_metadata(model, smoke=()))
    assert not (tmp_path / "b").exists()


def _node(model: onnx.ModelProto, kind: str, turn: int = 0) -> onnx.NodeProto:
    found: onnx.NodeProto = [node for node in model.graph.node if node.op_type == kind][turn]
    return found


def _refuses_the_limit(model: onnx.ModelProto) -> None:
    _node(model, "Less").op_type = "LessOrEqual"


def _gap_takes_the_limit(model: onnx.ModelProto) -> None:
    _node(model, "Less", 1).op_type = "LessOrEqual"


def _forgets_the_sign(model: onnx.ModelProto) -> None:
    _node(model, "Abs").op_type = "Identity"


def _forgets_infinite_q(model: onnx.ModelProto) -> None:
    _node(model, "Add").input[1] = "zero_or_nan"


def _masks_overlap(model: onnx.ModelProto) -> None:
    _node(model, "Not").op_type = "Identity"


def _decodes_bottoms(model: onnx.ModelProto) -> None:
    where = _node(model, "Where")
    where.input[1] = "quotient"


def _zero_where_bottom(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "nan")
    tensor.CopyFrom(numpy_helper.from_array(np.array(0, np.float32), "nan"))


def _inverted(model: onnx.ModelProto) -> None:
    div = _node(model, "Div")
    div.input[0], div.input[1] = "Q", "P"


def _never_bottom(model: onnx.ModelProto) -> None:
    _node(model, "Or").op_type = "And"


def row_model(reduction: str, width: int = 2) -> onnx.ModelProto:
    """P (n, width), Q (n,) as inputs; a row is bottom where `reduction` over its elements says."""
    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Unsqueeze", ["Q", "last"], ["column"]),
        node("Div", ["P", "column"], ["quotient"]),
        node("Sub", ["quotient", "quotient"], ["zero_or_nan"]),
        node("Sub", ["column", "column"], ["q_minus_q"]),
        node("Add", ["zero_or_nan", "q_minus_q"], ["sum"]),
        node("IsNaN", ["sum"], ["fault"]),
        node("Cast", ["fault"], ["fault_as_int"], to=onnx.TensorProto.INT32),
        node(reduction, ["fault_as_int", "last"], ["row_as_int"], keepdims=0),
        node("Cast", ["row_as_int"], ["row_fault"], to=onnx.TensorProto.BOOL),
        node("Abs", ["Q"], ["size"]),
        node("Less", ["size", "tau_infer"], ["small"]),
        node("Or", ["row_fault", "small"], ["bottom_mask"]),
        node("Less", ["size", "tau_train"], ["near"]),
        node("Not", ["bottom_mask"], ["usable"]),
        node("And", ["near", "usable"], ["gap_mask"]),
        node("Unsqueeze", ["bottom_mask", "last"], ["where"]),
        node("Where", ["where", "nan", "quotient"], ["decoded"]),
    ]
    numbers = {"tau_infer": 1e-3, "tau_train": 1e-1, "nan": np.nan}
    constants = [numpy_helper.from_array(np.array(x, np.float32), n) for n, x in numbers.items()]
    kind, truth = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL
    graph = helper.make_graph(
        nodes,
        "rows",
        [value("P", kind, ["n", width]), value("Q", kind, ["n"])],
        [
            value("decoded", kind, ["n", width]),
            value("bottom_mask", truth, ["n"]),
            value("gap_mask", truth, ["n"]),
        ],
        [*constants, numpy_helper.from_array(np.array([1]), "last")],
    )
    return as_model(graph)


@pytest.mark.parametrize("width", [1, 2, 16])
def test_masks_of_whole_rows_are_judged_by_row(width: int, tmp_path: Path) -> None:
    model = row_model("ReduceMax", width)
    pack(tmp_path / "b", model, strict_metadata(model, smoke=()))
    if width > 1:
        model = row_model("ReduceMin", width)
        with pytest.raises(BundleContractError, match="bottom_mask is False for P = "):
            pack(tmp_path / "b", model, strict_metadata(model, smoke=()))


@pytest.mark.parametrize("width", [1, 2, 16])
@pytest.mark.parametrize("turn", [0, 1])
def test_thresholds_are_probed_however_wide_a_row_is(turn: int, width: int, tmp_path: Path) -> None:
    model = row_model("ReduceMax", width)
    _node(model, "Less", turn).op_type = "LessOrEqual"
    with pytest.raises(BundleContractError, match=("bottom_mask", "gap_mask")[turn]):
        pack(tmp_path / "b", model, strict_metadata(model, smoke=()))


def batch_model() -> onnx.ModelProto:
    """P (n, 2) and Q (n, 1) as inputs; one bottom mask for the whole batch, from NaN in P alone."""
    node, value = helper.make_node, helper.make_tensor_value_info
    kind, truth = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL
    nodes = [
        node("Less", ["Q", "tau_infer"], ["small"]),
        node("And", ["small", "never"], ["nowhere"]),
        node("IsNaN", ["P"], ["nan_in_p"]),
        node("Or", ["nan_in_p", "nowhere"], ["fault"]),
        node("Cast", ["fault"], ["fault_as_int"], to=onnx.TensorProto.INT32),
        node("ReduceMax", ["fault_as_int", "axes"], ["any"], keepdims=1),
        node("Cast", ["any"], ["bottom_mask"], to=truth),
        node("And", ["bottom_mask", "never"], ["gap_mask"]),
        node("Div", ["P", "Q"], ["quotient"]),
        node("Where", ["bottom_mask", "nan", "quotient"], ["decoded"]),
    ]
    constants = {
        "tau_infer": np.array(1e-3, np.float32),
        "nan": np.array(np.nan, np.float32),
        "never": np.array(False),
        "axes": np.array([0, 1]),
    }
    graph = helper.make_graph(
        nodes,
        "batch",
        [value("P", kind, ["n", 2]), value("Q", kind, ["n", 1])],
        [
            value("decoded", kind, ["n", 2]),
            value("bottom_mask", truth, [1, 1]),
            value("gap_mask", truth, [1, 1]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return as_model(graph)


def test_one_mask_for_a_whole_batch_is_refused(tmp_path: Path) -> None:
    model = batch_model()
    with pytest.raises(BundleContractError, match="the decode gives the shapes"):
        pack(tmp_path / "b", model, strict_metadata(model, smoke=()))


@pytest.mark.parametrize(
    "change",
    [
        _refuses_the_limit,
        _gap_takes_the_limit,
        _forgets_the_sign,
        _forgets_infinite_q,
        _masks_overlap,
        _decodes_bottoms,
        _zero_where_bottom,
        _inverted,
        _never_bottom,
    ],
)
def test_a_decode_that_breaks_a_rule_is_refused(
    change: Callable[[onnx.ModelProto], None], tmp_path: Path
) -> None:
    model = strict_model()
    change(model)
    metadata = strict_metadata(strict_model())
    # Without its smoke vector too: the decode's own cases must find it.
    with pytest.raises(BundleContractError, match="the decode's"):
        pack(tmp_path / "b", model, msgspec.structs.replace(metadata, smoke=()))
    assert not (tmp_path / "b").exists()


def test_a_decode_in_float16_that_only_overflows_in_float32_is_refused(tmp_path: Path) -> None:
    # ONNX Runtime computes float16 in float32 on the CPU, where 65504 / 0.001 is finite.
    model = strict_model("float16")
    with pytest.raises(BundleContractError, match="bottom_mask is False for P = 65504"):
        pack(tmp_path / "b", model, strict_metadata(model))


def test_smoke_vectors_must_be_reproduced(tmp_path: Path) -> None:
    model = plain_model()
    metadata = plain_metadata(model)
    vector = metadata.smoke[0]
    wrong = {"y": vector.outputs["y"] + np.float32(1e-3)}
    off = msgspec.structs.replace(vector, outputs=wrong)
    with pytest.raises(BundleContractError, match=r"smoke\[1\]: 'y' is not reproduced"):
        pack(tmp_path / "b", model, msgspec.structs.replace(metadata, smoke=(vector, off)))
    close = msgspec.structs.replace(off, atol=1e-2)
    pack(tmp_path / "b", model, msgspec.structs.replace(metadata, smoke=(vector, close)))


def test_a_passed_bundle_is_not_probed_again_and_a_changed_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = strict_model()
    pack(tmp_path / "b", model, strict_metadata(model))
    monkeypatch.setattr(probe_module._Probe, "worker_for", None)
    load(tmp_path / "b")
    strict_bundle(tmp_path / "b", name="other")
    with pytest.raises(TypeError):
        load(tmp_path / "b")


def test_a_failed_probe_is_not_remembered(tmp_path: Path) -> None:
    zeros = plain_model(np.zeros((4, 3), np.float32)).SerializeToString()
    parts = {METADATA: plain_metadata(plain_model()).encode(), MODEL: zeros}
    write_files(tmp_path / "b", parts)
    for _ in range(2):
        with pytest.raises(BundleContractError, match="not reproduced"):
            load(tmp_path / "b")


def test_the_kept_process_ends_with_its_parent(tmp_path: Path) -> None:
    model = plain_model()
    pack(tmp_path / "b", model, plain_metadata(model), probe=False)
    script = (
        "import sys\nfrom interlock.bundle import load, probe\nload(sys.argv[1])\n"
        "print(probe._probe.worker.pid)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "b")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert said.stderr == ""
    assert gone(int(said.stdout))


def test_a_fork_starts_its_own_process(tmp_path: Path) -> None:
    model = plain_model()
    pack(tmp_path / "b", model, plain_metadata(model))
    worker = probe_module._probe.worker
    assert worker is not None
    pid = worker.pid
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads, from 3.12
        child = os.fork()
    if child == 0:
        os._exit(0 if probe_module._probe.worker is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert worker.pid == pid


def test_cases_hold_every_pair_in_every_layout() -> None:
    p, q = p_cases("float32"), q_cases("float32", [np.float32(1e-3)])
    pairs = {(a.tobytes(), b.tobytes()) for a in p for b in q}
    for p_shape, q_shape in [((5,), (5,)), ((5, 2), (5, 1)), ((5, 2), (5, 2)), ((5, 3), (5,))]:
        for rows in (1, 5, len(p) * len(q)):
            found = set()
            for some_p, some_q in Cases(p, q, p_shape, q_shape, rows):
                assert some_p.shape == (rows, *p_shape[1:])
                assert some_q.shape == (rows, *q_shape[1:])
                for a, b in zip(some_p.reshape(rows, -1), some_q.reshape(rows, -1), strict=True):
                    found.add((a[0].tobytes(), b[0].tobytes()))
            assert found == pairs


def test_the_rules_as_the_probe_knows_them() -> None:
    nan, inf = np.float32(np.nan), np.float32(np.inf)
    tau, train = np.float32(0.5), np.float32(2)
    q = np.array([0.5, 0.25, -0.5, 2, -0.0, inf, nan, 1, 1], np.float32)
    p = np.array([1, 1, 1, 1, 1, 1, 1, nan, inf], np.float32)
    found = expected(p, q, tau, train)
    assert found is not None
    assert found.bottom.tolist() == [False, True, False, False] + [True] * 5
    assert found.gap.tolist() == [True, False, True] + [False] * 6
    assert np.array_equal(np.isnan(found.decoded), found.bottom)
    rows = expected(
        np.array([[1, nan], [1, 2]], np.float32),
        np.array([1, 1], np.float32),
        tau,
        train,
    )
    assert rows is not None
    assert rows.bottom.tolist() == [True, False]
    assert rows.gap.tolist() == [False, True]
    for other in (q[:3], q[:1], q.reshape(9, 1), q.reshape(1, 9), q[0]):
        assert expected(p, np.asarray(other), tau, train) is None
