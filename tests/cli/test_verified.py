"""`interlock verified`: what its verbs print, write and return."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.networks import MODELS, dense
from support.provers import FixedPointProver

from interlock.cli.app import run
from interlock.verified import NoProver

Call = Any


class Said:
    """One call of the command line: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def verified(capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: object) -> Said:
        code = run(["verified", *map(str, arguments)])
        printed = capsys.readouterr()
        return Said(code, printed.out, printed.err)

    return call


@pytest.fixture(autouse=True)
def _no_prover(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed: proofs have their own tests."""
    use(monkeypatch, NoProver("no circuit: none here"))


def use(monkeypatch: pytest.MonkeyPatch, prover: Any) -> None:
    for name in ("default_prover", "require_prover"):
        monkeypatch.setattr(
            f"interlock.verified.default_prover.{name}", lambda *args, **options: prover
        )


@pytest.fixture
def net(tmp_path: Path) -> Path:
    directory = tmp_path / "models" / "net"
    shutil.copytree(
        MODELS / "net", directory, ignore=shutil.ignore_patterns("*_Runner_Metadata.json")
    )
    return directory


class TestSlice:
    def test_it_writes_slices_and_metadata(self, verified: Call, net: Path) -> None:
        shutil.rmtree(net / "slices")
        said = verified("slice", net, "--json")
        assert said.code == 0
        assert [part["name"] for part in said.document["slices"]] == [
            f"slice_{k}" for k in range(5)
        ]
        assert said.document["optimization"] == "all"
        assert said.document["compared"] == 216
        assert (net / "slices" / "slice_4.onnx").is_file()
        assert (net / "net_Runner_Metadata.json").is_file()
        shipped = (MODELS / "net" / "slices" / "slices.json").read_bytes()
        assert (net / "slices" / "slices.json").read_bytes() == shipped

    def test_cuts_may_be_named(self, verified: Call, net: Path) -> None:
        said = verified("slice", net, "--at", "conv2_pool", "--at", "fc1_relu", "--json")
        inputs = [list(part["inputs"]) for part in said.document["slices"]]
        assert inputs == [["input"], ["conv2_pool"], ["fc1_relu"]]

    def test_it_says_how_the_bits_were_compared(self, verified: Call, net: Path) -> None:
        said = verified("slice", net, "--level", "none")
        assert "optimization none: the whole model's bits, by construction" in said.out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--at", "nowhere"], "cannot cut at 'nowhere'"),
            (["--crossing", "0"], "--crossing is '0'"),
            (["--crossing", "few"], "--crossing is 'few'"),
            (["--shape", "input"], "--shape is 'input'"),
            (["--shape", "input=1,x"], "--shape is 'input=1,x'"),
            (["--shape", "other=1"], "'other', which is no input"),
        ],
    )
    def test_a_wrong_option_is_named(
        self, verified: Call, net: Path, arguments: list[str], message: str
    ) -> None:
        said = verified("slice", net, *arguments)
        assert said.code == 2
        assert message in said.err
        assert "Traceback" not in said.err


class TestRun:
    def test_it_shows_the_chain(self, verified: Call, net: Path) -> None:
        said = verified("run", net)
        assert said.code == 0
        assert said.out.count("no circuit: none here") == 5
        assert "overall security 0%: 0 proved, 0 replayed, 5 unverified" in said.out

    def test_its_document_is_the_result(
        self, verified: Call, net: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use(monkeypatch, FixedPointProver(sizes={"slice_2": 9000}))
        said = verified("run", net, "--size-limit", "8000", "--json")
        found = said.document
        assert found["overall_security"] == 80
        assert [entry["method"] for entry in found["execution_results"]] == [
            "circuit",
            "circuit",
            "onnx",
            "circuit",
            "circuit",
        ]
        assert found["execution_results"][2]["reason"] == "size: size 9000 is above 8000"
        assert found["warnings"] == []

    def test_it_writes_a_page(self, verified: Call, net: Path, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        assert verified("run", net, "--report", page, "--replay").code == 0
        assert "0 of 5 slices proved, 5 replayed" in page.read_text("utf-8")

    def test_what_cannot_be_proved_is_refused(self, verified: Call, net: Path) -> None:
        said = verified("run", net, "--mode", "ezkl_only")
        assert said.code == 1
        assert said.err.startswith("interlock: 5 of 5 slices cannot be proved: slice_0: no circuit")

    def test_a_warning_is_one_line(self, verified: Call, net: Path) -> None:
        shutil.rmtree(net / "slices")
        said = verified("run", net, "--json")
        assert said.err.startswith("warning: net is not sliced")
        assert len(said.err.splitlines()) == 1
        assert len(said.document["warnings"]) == 1

    def test_a_directorys_name_steers_no_terminal(self, verified: Call, net: Path) -> None:
        shutil.rmtree(net / "slices")
        named = net.rename(net.with_name("net\x1b]0;\a"))
        said = verified("run", named)
        assert said.code == 0
        assert said.err.startswith(r"warning: net\x1b]0;\x07 is not sliced")
        assert "\x1b" not in said.err

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"input_data": [[1, 2]]}', "input 'input' has shape (2,)"),
            ('{"input_data": [[NaN]]}', "input 'input' has shape (1,)"),
            ("nonsense", "is not JSON"),
        ],
    )
    def test_a_bad_input_is_named(
        self, verified: Call, net: Path, tmp_path: Path, text: str, message: str
    ) -> None:
        path = tmp_path / "bad.json"
        path.write_text(text)
        said = verified("run", net, "--input", path)
        assert said.code == 2
        assert message in said.err

    def test_a_model_that_is_none_is_named(self, verified: Call, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").write_bytes(dense([4, 3])[:40])
        assert verified("run", tmp_path).code == 1
        said = verified("run", tmp_path / "nothing", "--json")
        assert said.code == 2
        assert said.document["error"]["code"] == "input"


class TestCircuits:
    def test_without_the_extra_it_is_named(
        self, verified: Call, net: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        for verb in ("plan", "setup"):
            said = verified(verb, net)
            assert said.code == 2
            assert "needs the extra 'zk'" in said.err
            assert "pip install 'interlock[zk]'" in said.err
            assert len(said.err.splitlines()) == 2
        assert verified("run", net).code == 0
        assert verified("compare", net).code == 0
        assert verified("deploy", net, "--inputs", 2).code == 0

    def test_a_plan_says_what_is_predicted(
        self, verified: Call, net: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use(monkeypatch, FixedPointProver(sizes={"slice_1": 9000}))
        assert verified("plan", net).code == 0
        said = verified("plan", net, "--circuit-bytes", "8000", "--json")
        assert said.code == 1
        assert [part["decision"] for part in said.document["slices"]] == [
            "prove",
            "fallback",
            "prove",
            "prove",
            "prove",
        ]

    def test_setup_makes_what_is_missing_and_says_so_in_the_metadata(
        self, verified: Call, net: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use(monkeypatch, FixedPointProver(keys=set()))
        said = verified("setup", net, "--slice", "slice_4", "--slice", "slice_3", "--json")
        assert said.code == 0
        metadata = json.loads((net / "net_Runner_Metadata.json").read_text())
        assert metadata["overall_security"] == 40
        assert verified("run", net, "--json").document["proved"] == 2
        said = verified("setup", net, "--slice", "slice_7")
        assert said.code == 2
        assert "--slice is 'slice_7'" in said.err


class TestCompare:
    def test_it_prints_the_tables(
        self, verified: Call, net: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = {f"slice_{k}" for k in range(4)}
        use(monkeypatch, FixedPointProver(keys=keys, warning="development SRS"))
        said = verified("compare", net, "--inputs", 3)
        assert said.code == 0
        lines = said.out.splitlines()
        assert lines[0].split("  ")[0] == "Model"
        assert [line.split()[1] for line in lines[1:5]] == ["Whole"] + ["Sliced"] * 3
        assert "[1000, 1000, 1000, 1000, 1000]" in said.out
        assert "Execution: 5 circuits, 0 ONNX slices" in said.out
        assert "Classification: ONNX=5, Circuit=5 MATCH" in said.out
        assert said.out.count("Diff=0.") == 3
        assert lines[5] == "development SRS"
        figures = [line.split(": ")[1] for line in lines if "Absolute Error" in line]
        assert [len(figure.partition(".")[2]) for figure in figures] == [12, 12, 12]
        assert "Over 3 inputs" in said.out

    def test_without_circuits_it_says_so(self, verified: Call, net: Path) -> None:
        said = verified("compare", net, "--json")
        (found,) = said.document["models"]
        assert found["differences"] is None
        assert "nothing to compare" in verified("compare", net).out


class TestDeploy:
    def test_a_sound_model_is_ready(self, verified: Call, net: Path) -> None:
        said = verified("deploy", net, "--inputs", 3)
        assert said.code == 0
        assert said.out.endswith("ready\n")

    def test_a_failed_check_is_an_exit_code(
        self, verified: Call, net: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use(monkeypatch, FixedPointProver(scale=2))
        said = verified("deploy", net, "--inputs", 3, "--json")
        assert said.code == 1
        assert said.document["failed"] >= 1
