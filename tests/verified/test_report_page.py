"""The page of an inference says what the result says."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.provers import FixedPointProver

from interlock.report.page import render
from interlock.verified import NoProver, Runner
from interlock.verified.compare import compare
from interlock.verified.report_page import build
from interlock.verified.result import weaknesses
from interlock.verified.srs import DEVELOPMENT_WARNING


def test_it_shows_the_chain_slice_by_slice(net: Path) -> None:
    runner = Runner(net, prover=FixedPointProver(keys={f"slice_{k}" for k in range(4)}))
    result = runner.infer(replay=True)
    plans = [runner.prover.plan(part) for part in runner.sliced.slices] if runner.sliced else []
    text = render(
        build(
            result,
            runner.metadata,
            plans=plans,
            comparison=compare(runner),
            trusted=["That the picture is of a digit."],
        )
    )
    assert "4 of 5 slices proved, 1 replayed, 0 unverified: 80% of the slices" in text
    for k in range(5):
        assert f"<td>slice_{k}</td>" in text
    assert text.count("<td>proved</td>") == 4
    assert text.count("<td>replayed</td>") == 1
    assert "<td>no circuit</td>" in text
    assert "That the picture is of a digit." in text
    assert "development SRS" not in text
    assert "max absolute error" in text
    assert "4.1 kB" in text
    assert runner.metadata.model_sha256 in text


def test_what_weakens_the_proofs_is_said_without_being_asked(net: Path) -> None:
    runner = Runner(net, prover=FixedPointProver(warning=DEVELOPMENT_WARNING))
    result = runner.infer()
    assert weaknesses(result) == (DEVELOPMENT_WARNING,)
    assert render(build(result, runner.metadata)).count(DEVELOPMENT_WARNING) == 1
    assert weaknesses(runner.infer("onnx_only")) == ()


def test_nothing_proved_is_said_and_proofs_are_not_trusted(net: Path) -> None:
    runner = Runner(net, prover=NoProver("no circuit: <none>"))
    text = render(build(runner.infer(), runner.metadata))
    assert "0 of 5 slices proved" in text
    assert "Not every slice of this inference was proved." in text
    assert "reference string" not in text
    assert "&lt;none&gt;" in text
    assert "<none>" not in text


def test_a_whole_model_has_a_page_too(unsliced: Path) -> None:
    with pytest.warns(UserWarning, match="not sliced"):
        runner = Runner(unsliced, prover=NoProver("none"))
    text = render(build(runner.infer(), runner.metadata))
    assert "<td>whole_model</td>" in text
    assert "not sliced: the model ran whole" in text
