"""The sweep over thresholds: as documented, as the decode decides, and what is written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interlock.errors import ConfigError, InputError, StorageError
from interlock.kernel.batch import Array
from interlock.strict import InferenceConfig, strict_inference
from interlock.strict.metrics import (
    tau_infer_sweep_from_q_abs,
    tau_infer_sweep_report,
    write_tau_infer_sweep,
)

Q = np.array([0.0, 0.1, 1.0, 0.05])
IN_RANGE = np.array([True, True, False, False])


def test_the_snippet_of_the_documents(tmp_path: Path) -> None:
    q_abs_held_out = np.abs(np.random.default_rng(0).normal(size=1_000)).astype(np.float32) * 1e-4
    is_in_range = q_abs_held_out > 2e-5
    curves = tau_infer_sweep_from_q_abs(
        q_abs=q_abs_held_out,
        is_in_range=is_in_range,
        taus=[1e-6, 3e-6, 1e-5, 3e-5, 1e-4],
    )
    write_tau_infer_sweep(
        tmp_path / "results" / "tau_calibration",
        curves,
        provenance={"split": "held_out"},
    )
    written = {path.name for path in (tmp_path / "results" / "tau_calibration").iterdir()}
    assert written == {f"tau_infer_sweep.{kind}" for kind in ("json", "md", "svg")}


def test_shares_counted_by_hand() -> None:
    assert tau_infer_sweep_from_q_abs(Q, is_in_range=IN_RANGE, taus=[0.05, 0.2, 2.0]) == {
        "taus": [0.05, 0.2, 2.0],
        "coverage": [0.75, 0.25, 0.0],
        "bottom_rate": [0.25, 0.75, 1.0],
        "fn_in": [0.5, 1.0, 1.0],
        "fp_cens": [1.0, 0.5, 0.0],
        "unsafe_accept_rate": [2 / 3, 1.0, pytest.approx(math.nan, nan_ok=True)],
    }


def test_a_share_of_nothing_is_nan() -> None:
    found = tau_infer_sweep_from_q_abs(Q, is_in_range=np.ones(4, np.bool_), taus=[0.2])
    assert math.isnan(found["fp_cens"][0])
    empty = tau_infer_sweep_from_q_abs(np.zeros(0), is_in_range=np.zeros(0, np.bool_), taus=[0.2])
    assert math.isnan(empty["coverage"][0])


SPECIAL = st.sampled_from([0.0, 0.1, 0.25, 1e-3, float("nan"), float("inf")])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@given(
    q=hnp.arrays(np.float64, st.integers(1, 50), elements=st.one_of(SPECIAL, st.floats(0, 1))),
    tau=st.sampled_from([0.1, 0.25, 1e-3]),
)
def test_the_decode_refuses_the_same_rows(dtype: str, q: Array, tau: float) -> None:
    rows = q.astype(dtype)
    found = tau_infer_sweep_from_q_abs(rows, is_in_range=np.ones(len(q), np.bool_), taus=[tau])
    bottom = strict_inference(
        np.zeros_like(rows), rows, config=InferenceConfig(tau_infer=tau)
    ).bottom_mask
    assert found["bottom_rate"] == [bottom.mean()] == found["fn_in"]


def test_a_higher_threshold_accepts_no_more() -> None:
    rng = np.random.default_rng(1)
    found = tau_infer_sweep_from_q_abs(
        rng.random((500, 1)), is_in_range=rng.random((500, 1)) < 0.5, taus=[0.1, 0.2, 0.4, 0.8]
    )
    for name, direction in (("coverage", -1), ("bottom_rate", 1), ("fn_in", 1), ("fp_cens", -1)):
        assert (np.diff(found[name]) * direction >= 0).all()


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    curves = tau_infer_sweep_from_q_abs(Q, is_in_range=IN_RANGE, taus=[0.05, 2.0])
    payload = write_tau_infer_sweep(tmp_path, curves, provenance={"seed": 1}, basename="s")
    assert json.loads((tmp_path / "s.json").read_text()) == payload
    assert payload["provenance"] == {"seed": 1}
    assert payload["curves"]["unsafe_accept_rate"] == [2 / 3, None]
    assert "| 0.05 | 75.0000% | 25.0000% |" in (tmp_path / "s.md").read_text()
    picture = ElementTree.parse(tmp_path / "s.svg").getroot()
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    words = {text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"tau_infer", "share", "out of range, of those accepted"} <= words
    assert tau_infer_sweep_report(curves, title="T").startswith("# T\n")


def test_one_threshold_can_be_drawn(tmp_path: Path) -> None:
    curves = tau_infer_sweep_from_q_abs(Q, is_in_range=IN_RANGE, taus=[0.05])
    write_tau_infer_sweep(tmp_path, curves)
    ElementTree.parse(tmp_path / "tau_infer_sweep.svg")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"taus": [0.0]}, "taus is 0.0"),
        ({"taus": [1e-60], "q_abs": Q.astype(np.float32)}, "rounds to 0 in float32"),
        ({"is_in_range": np.ones(4)}, "is_in_range has dtype float64"),
        ({"is_in_range": np.ones(3, np.bool_)}, "3"),
        ({"q_abs": [0.1]}, "q_abs is a list"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises((InputError, ConfigError), match=named):
        tau_infer_sweep_from_q_abs(**{"q_abs": Q, "is_in_range": IN_RANGE, "taus": [0.1], **change})


@pytest.mark.parametrize(
    ("curves", "options", "error"),
    [
        ({}, {}, InputError),
        ({"taus": []}, {}, InputError),
        ({"taus": [0.1], "coverage": []}, {}, InputError),
        ({"taus": [0.1]}, {"basename": "a/b"}, ConfigError),
        ({"taus": [0.1]}, {"provenance": {"x": object()}}, InputError),
    ],
)
def test_nothing_is_written_for_what_is_no_sweep(
    tmp_path: Path, curves: Any, options: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        write_tau_infer_sweep(tmp_path, curves, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_tau_infer_sweep(tmp_path / "file", {"taus": [0.1]})


@pytest.mark.torch
def test_tensors_give_the_same() -> None:
    torch = pytest.importorskip("torch")
    found = tau_infer_sweep_from_q_abs(
        torch.tensor(Q), is_in_range=torch.tensor(IN_RANGE), taus=[0.05, 0.2]
    )
    assert found == tau_infer_sweep_from_q_abs(Q, is_in_range=IN_RANGE, taus=[0.05, 0.2])
