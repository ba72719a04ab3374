"""The runner: modes, fallback, limits, metadata that claim too much, and bad input."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from support.models import FLOAT, build, tensor
from support.networks import MODELS, dense, examples, scaled_convolution
from support.provers import FixedPointProver

from interlock.engines.onnx import OnnxSession
from interlock.errors import (
    BundleFormatError,
    BundleIntegrityError,
    ConfigError,
    EngineError,
    EngineUnavailableError,
    InputError,
)
from interlock.verified import (
    ModelDirectory,
    NoProver,
    Runner,
    RunnerMetadata,
    VerifiedWarning,
)
from interlock.verified.directory import Cuts, cut, write_slices

NONE = NoProver("no circuit: none here")
NAMES = [f"slice_{k}" for k in range(5)]
SIZES = {"slice_0": 2827, "slice_1": 19048, "slice_2": 37728, "slice_3": 1607065, "slice_4": 7469}


def edit(directory: Path, **fields: Any) -> None:
    path = directory / f"{directory.name}_Runner_Metadata.json"
    document = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(document | fields, indent=4))


def onnx_slices(result: Any) -> list[str]:
    return [r["slice"] for r in result["execution_results"] if r["method"] == "onnx"]


class TestModes:
    def test_whole_model_onnx_is_never_verified(self, doom: Path) -> None:
        result = Runner(doom, prover=FixedPointProver()).infer(mode="onnx_only")
        assert result["overall_security"] == 0
        assert (result["proved"], result["replayed"], result["unverified"]) == (0, 0, 1)
        assert result["execution_method"] == "whole_onnx"
        (entry,) = result["execution_results"]
        assert (entry["method"], entry["verified"], entry["fallback_used"]) == (
            "onnx",
            False,
            False,
        )
        session = OnnxSession((doom / "model.onnx").read_bytes())
        given = json.loads((doom / "input.json").read_text())["input_data"][0]
        wanted = session.run({"input": np.array(given, np.float32).reshape(1, 4, 28, 28)})
        assert result["logits"].tobytes() == wanted["logits"].tobytes()
        assert result["predicted_class"] == wanted["logits"].argmax()

    def test_auto_proves_what_it_can(self, doom: Path) -> None:
        result = Runner(doom, prover=FixedPointProver(keys=set(NAMES[:4]))).infer(mode="auto")
        assert result["overall_security"] == 80
        assert (result["proved"], result["unverified"]) == (4, 1)
        assert result["execution_method"] == "sliced_mixed"
        assert [r["verified"] for r in result["execution_results"]] == [True] * 4 + [False]
        assert sum(1 for r in result["execution_results"] if r["fallback_used"]) == 1

    def test_auto_without_any_circuit_gives_the_whole_models_bits(self, net: Path) -> None:
        runner = Runner(net, prover=NONE)
        for row in examples("net", 10):
            sliced, whole = runner.infer("auto", row), runner.infer("onnx_only", row)
            assert sliced["logits"].tobytes() == whole["logits"].tobytes()
            assert sliced["overall_security"] == 0
            assert sliced["execution_method"] == "sliced_onnx"
            assert all(r["reason"] == "no circuit: none here" for r in sliced.execution_results)

    def test_ezkl_only_proves_everything_or_refuses(self, net: Path) -> None:
        result = Runner(net, prover=FixedPointProver()).infer("ezkl_only")
        assert result["overall_security"] == 100
        assert result["execution_method"] == "sliced_circuits"
        assert onnx_slices(result) == []
        prover = FixedPointProver(keys=set(NAMES[1:]))
        with pytest.raises(EngineUnavailableError, match="1 of 5 slices cannot be proved: slice_0"):
            Runner(net, prover=prover).infer("ezkl_only")
        assert prover.asked == []

    def test_ezkl_only_heeds_the_limits(self, net: Path) -> None:
        runner = Runner(net, prover=FixedPointProver(sizes=SIZES))
        runner.size_limit = 50_000
        with pytest.raises(EngineUnavailableError, match="slice_3: size"):
            runner.infer("ezkl_only")

    def test_ezkl_only_refuses_a_slice_that_an_edit_keeps_with_onnx(self, net: Path) -> None:
        prover = FixedPointProver()
        runner = Runner(net, prover=prover)
        edit(net, verified_slices={**dict.fromkeys(NAMES, True), "slice_2": False})
        with pytest.raises(EngineUnavailableError, match=r"1 of 5 .* slice_2: excluded"):
            runner.infer("ezkl_only")
        assert prover.asked == []

    def test_a_witness_is_unverified(self, net: Path) -> None:
        result = Runner(net, prover=FixedPointProver()).infer(circuits="witness")
        assert result["overall_security"] == 0
        assert result["execution_method"] == "sliced_witness"
        assert (result["proved"], result["unverified"]) == (0, 5)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"mode": "fast"}, "mode is 'fast'; it must be one of auto, onnx_only, ezkl_only"),
            ({"circuits": "some"}, "circuits is 'some'"),
            ({"mode": "ezkl_only", "circuits": "witness"}, "it must be prove"),
        ],
    )
    def test_a_wrong_mode_is_named(
        self, net: Path, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            Runner(net, prover=NONE).infer(**arguments)


class TestBits:
    def test_a_level_at_which_the_bits_differ_here_is_not_used(self, tmp_path: Path) -> None:
        """As where `slices.json` was written on a machine with other kernels."""
        (tmp_path / "model.onnx").write_bytes(scaled_convolution())
        directory = ModelDirectory.find(tmp_path)
        cuts = Cuts(at=[["c"]])
        write_slices(directory, cut(directory.read_model(), cuts), cuts, "all", 16)
        runner = Runner(tmp_path, prover=NONE)
        assert runner.optimization == "none"
        rng = np.random.default_rng(8)
        for _ in range(5):
            given = rng.normal(size=(1, 3, 6, 6)).astype(np.float32)
            sliced, whole = runner.infer("auto", given), runner.infer("onnx_only", given)
            assert sliced.logits.tobytes() == whole.logits.tobytes()

    def test_the_shipped_models_keep_the_fast_level(self, net: Path) -> None:
        assert Runner(net, prover=NONE).optimization == "all"


class TestResult:
    def test_its_keys(self, net: Path) -> None:
        result = Runner.run_inference(net, prover=FixedPointProver())
        assert set(result) == {
            "logits",
            "probabilities",
            "predicted_class",
            "execution_results",
            "execution_method",
            "overall_security",
            "proved",
            "replayed",
            "unverified",
            "time",
        }
        for entry in result["execution_results"]:
            assert set(entry) == {
                "slice",
                "method",
                "verified",
                "fallback_used",
                "reason",
                "circuit_size",
                "time",
            }
            assert entry["time"] > 0
        assert [entry["slice"] for entry in result["execution_results"]] == NAMES
        with pytest.raises(KeyError):
            result["run"]
        json.dumps(result.to_plain())

    def test_probabilities_are_a_softmax(self, net: Path) -> None:
        result = Runner.run_inference(net, prover=NONE)
        logits = result["logits"].astype(np.float64)
        powers = np.exp(logits - logits.max())
        assert np.allclose(result["probabilities"], powers / powers.sum(), atol=1e-12)
        assert abs(result["probabilities"].sum() - 1) < 1e-12

    def test_circuit_sizes_are_on_record(self, doom: Path) -> None:
        result = Runner(doom, prover=FixedPointProver(sizes=SIZES)).infer()
        sizes = {r["slice"]: r["circuit_size"] for r in result["execution_results"]}
        assert sizes == SIZES


class TestLimits:
    def test_the_metadatas_time_limit_is_heeded_at_once(self, doom: Path) -> None:
        # Long enough that a loaded machine answers for the others in time.
        seconds: dict[str, float | None] = {"slice_3": 60.0}
        runner = Runner(doom, prover=FixedPointProver(seconds=seconds))
        assert runner.infer()["proved"] == 5
        edit(doom, time_limit=50)
        result = runner.infer()
        assert onnx_slices(result) == ["slice_3"]
        assert result["execution_results"][3]["reason"].startswith("time: predicted 60 s")

    def test_the_metadatas_size_limit_is_about_circuits_not_onnx(self, doom: Path) -> None:
        runner = Runner(doom, prover=FixedPointProver(sizes=SIZES))
        edit(doom, size_limit=500_000)
        result = runner.infer()
        assert onnx_slices(result) == ["slice_3"]
        assert result["execution_results"][3]["reason"] == "size: size 1.60706e+06 is above 500000"
        assert result["overall_security"] == 80
        # The ONNX model of 1.7 MB runs whatever the limit.
        assert runner.infer("onnx_only")["predicted_class"] == result["predicted_class"]

    def test_the_runners_own_limits_win(self, doom: Path) -> None:
        runner = Runner(doom, prover=FixedPointProver(sizes=SIZES))
        edit(doom, size_limit=500_000, time_limit=0.0)
        runner.time_limit, runner.size_limit = 10.0, 10_000_000
        assert runner.infer()["proved"] == 5
        runner.size_limit = 50_000
        assert onnx_slices(runner.infer()) == ["slice_3"]
        runner.size_limit = 5_000
        assert onnx_slices(runner.infer()) == NAMES[1:]
        runner.time_limit, runner.size_limit = None, None
        assert runner.infer()["proved"] == 0

    def test_a_strict_limit_leaves_everything_to_onnx(self, net: Path) -> None:
        runner = Runner(net, prover=FixedPointProver(seconds=dict.fromkeys(NAMES, 0.5)))
        runner.time_limit = 0.01
        result = runner.infer(mode="auto")
        assert sum(1 for r in result["execution_results"] if r["fallback_used"]) == 5
        assert result["overall_security"] == 0

    @pytest.mark.parametrize("limit", [-1, float("nan")])
    def test_a_wrong_limit_is_named(self, net: Path, limit: float) -> None:
        runner = Runner(net, prover=NONE)
        runner.time_limit = limit
        with pytest.raises(ConfigError, match="time_limit is"):
            runner.infer()


class TestVerifiedSlices:
    def test_false_keeps_a_slice_with_onnx(self, doom: Path) -> None:
        prover = FixedPointProver()
        RunnerMetadata.generate_for_model(doom, prover=prover)
        custom = {
            "slice_0": True,
            "slice_1": True,
            "slice_2": False,
            "slice_3": False,
            "slice_4": True,
        }
        edit(doom, verified_slices=custom, overall_security=60.0)
        result = Runner(doom, prover=prover).infer()
        assert onnx_slices(result) == ["slice_2", "slice_3"]
        assert result["overall_security"] == 60
        reasons = [r["reason"] for r in result["execution_results"] if r["fallback_used"]]
        assert all(r.startswith("excluded: verified_slices says false") for r in reasons)

    @pytest.mark.parametrize("left", [{"slice_4"}, {"slice_0", "slice_2"}])
    def test_a_slice_whose_key_is_gone_is_not_said_to_be_excluded(
        self, net: Path, left: set[str]
    ) -> None:
        RunnerMetadata.generate_for_model(net, prover=FixedPointProver())
        runner = Runner(net, prover=FixedPointProver(keys=left))
        result = runner.infer()
        assert onnx_slices(result) == [name for name in NAMES if name not in left]
        reasons = [r["reason"] for r in result["execution_results"] if r["fallback_used"]]
        assert all(reason.startswith("no ") for reason in reasons)
        assert runner.metadata.verified_slices == {name: name in left for name in NAMES}

    def test_true_proves_nothing_by_itself(self, net: Path) -> None:
        RunnerMetadata.generate_for_model(net, prover=NONE)
        edit(
            net,
            verified_slices=dict.fromkeys(NAMES, True),
            overall_security=100.0,
            precircuit="circuits compiled and ready",
        )
        with pytest.warns(VerifiedWarning, match="nothing shows that they are authentic"):
            runner = Runner(net, prover=NONE)
        result = runner.infer()
        assert result["overall_security"] == 0
        assert result["proved"] == 0
        assert runner.metadata.precircuit is False
        assert runner.metadata.overall_security == 0
        assert runner.metadata.verified_slices == dict.fromkeys(NAMES, False)

    def test_a_lower_claim_stands(self, net: Path) -> None:
        prover = FixedPointProver()
        RunnerMetadata.generate_for_model(net, prover=prover)
        edit(net, overall_security=20.0)
        runner = Runner(net, prover=prover)
        assert runner.metadata.overall_security == 20
        # What ran is what counts in a result.
        assert runner.infer()["overall_security"] == 100


class TestFlags:
    def test_a_missing_analysis_runs_by_itself(self, net: Path) -> None:
        path = net / "net_Runner_Metadata.json"
        Runner(net, prover=NONE)
        assert json.loads(path.read_text())["Analyzer"] is True
        edit(net, Analyzer=False)
        Runner(net, prover=NONE)
        assert json.loads(path.read_text())["Analyzer"] is True

    def test_a_replaced_model_is_analysed_again(self, net: Path) -> None:
        Runner(net, prover=NONE)
        (net / "model.onnx").write_bytes(dense([4, 3, 2]))
        (net / "input.json").write_text('{"input_data": [[1, 2, 3, 4]]}')
        with pytest.warns(VerifiedWarning, match="not sliced"):
            runner = Runner(net, prover=NONE)
        assert runner.metadata.parameters == 23
        assert runner.infer()["logits"].shape == (1, 2)

    def test_a_model_that_is_not_sliced_warns_and_runs_whole(self, unsliced: Path) -> None:
        prover = FixedPointProver()
        with pytest.warns(VerifiedWarning, match="net is not sliced: it runs whole"):
            runner = Runner(unsliced, prover=prover)
        result = runner.infer("auto")
        (entry,) = result["execution_results"]
        assert entry["slice"] == "whole_model"
        assert entry["fallback_used"]
        assert entry["reason"] == "not sliced: the model ran whole"
        assert result["overall_security"] == 0
        with pytest.raises(EngineUnavailableError, match="net is not sliced"):
            runner.infer("ezkl_only")
        assert prover.asked == []

    def test_reconstruct_edited_to_false_runs_whole(self, net: Path) -> None:
        prover = FixedPointProver()
        Runner(net, prover=prover)
        edit(net, Reconstruct=False)
        with pytest.warns(VerifiedWarning, match="not sliced"):
            runner = Runner(net, prover=prover)
        assert runner.infer()["execution_method"] == "whole_onnx"

    def test_compiled_circuits_without_keys_warn(self, net: Path) -> None:
        prover = FixedPointProver(keys=set(NAMES[:3]), compiled=set(NAMES[3:]))
        with pytest.warns(VerifiedWarning, match=r"nothing shows .* \(slice_3, slice_4\)"):
            runner = Runner(net, prover=prover)
        assert runner.metadata.precircuit == "circuits compiled and ready"
        assert runner.infer()["overall_security"] == 60

    def test_circuits_with_keys_do_not_warn(self, net: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Runner(net, prover=FixedPointProver())


class TestFallback:
    @pytest.mark.parametrize(
        ("prover", "reason"),
        [
            (FixedPointProver(fails={"slice_2"}), "proof failed"),
            (FixedPointProver(lies={"slice_2"}), "proof failed"),
            (FixedPointProver(keys={*NAMES} - {"slice_2"}), "no circuit"),
        ],
    )
    def test_a_broken_circuit_falls_back_on_record(
        self, net: Path, prover: FixedPointProver, reason: str
    ) -> None:
        result = Runner(net, prover=prover).infer()
        assert onnx_slices(result) == ["slice_2"]
        entry = result["execution_results"][2]
        assert entry["reason"].startswith(reason)
        assert not entry["verified"]
        assert result["overall_security"] == 80

    def test_a_replaced_fallback_is_refused(self, net: Path) -> None:
        shutil.copy(MODELS / "doom" / "slices" / "slice_2.onnx", net / "slices" / "slice_2.onnx")
        with pytest.raises(BundleIntegrityError, match=r"slice_2\.onnx"):
            Runner(net, prover=NONE)

    def test_replayed_slices_are_counted_apart(self, net: Path) -> None:
        result = Runner(net, prover=FixedPointProver(keys=set(NAMES[1:]))).infer(replay=True)
        assert (result["proved"], result["replayed"], result["unverified"]) == (4, 1, 0)
        # A replay is no proof.
        assert result["overall_security"] == 80
        assert not result["execution_results"][0]["verified"]


class TestInferenceErrorTolerance:
    """Circuits round; the answer may move by that much and no more."""

    @pytest.mark.parametrize("name", ["net", "doom"])
    def test_rounding_moves_the_logits_a_little(self, name: str, tmp_path: Path) -> None:
        directory = tmp_path / name
        shutil.copytree(MODELS / name, directory)
        runner = Runner(directory, prover=FixedPointProver(scale=12))
        for row in examples(name, 10):
            whole = runner.infer("onnx_only", row)
            proved = runner.infer("ezkl_only", row)
            error = np.abs(proved["logits"].astype(np.float64) - whole["logits"]).max()
            assert 0 < error <= 1e-3 * np.abs(whole["logits"]).max()
            assert proved["predicted_class"] == whole["predicted_class"]


class TestBadInput:
    @pytest.mark.parametrize("mode", ["auto", "onnx_only", "ezkl_only"])
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (np.zeros((1, 3, 28, 28), np.float32), r"shape \(1, 3, 28, 28\)"),
            (np.zeros((1, 3, 32, 32), np.float64), "dtype float64"),
            (np.full((1, 3, 32, 32), np.nan, np.float32), "nan at"),
            ("nothing.json", "cannot be read"),
        ],
    )
    def test_it_is_refused_before_anything_runs(
        self, net: Path, mode: Any, given: Any, message: str
    ) -> None:
        prover = FixedPointProver()
        with pytest.raises(InputError, match=message):
            Runner(net, prover=prover).infer(mode, given)
        assert prover.asked == []

    def test_a_whole_model_whose_answer_is_not_finite_is_refused(self, tmp_path: Path) -> None:
        model = build(
            [helper.make_node("Log", ["x"], ["y"])],
            [tensor("x", FLOAT, [1, 2])],
            [tensor("y", FLOAT, [1, 2])],
        )
        (tmp_path / "model.onnx").write_bytes(model)
        with pytest.warns(VerifiedWarning, match="not sliced"):
            runner = Runner(tmp_path, prover=NONE)
        with pytest.raises(EngineError, match="output 'y' is not finite"):
            runner.infer("onnx_only", np.array([[1, -1]], np.float32))

    def test_a_truncated_model_is_refused(self, net: Path) -> None:
        model = (net / "model.onnx").read_bytes()
        (net / "model.onnx").write_bytes(model[:-100])
        with pytest.raises(BundleFormatError):
            Runner(net, prover=NONE)

    def test_a_directory_without_a_model_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"model.onnx cannot be read"):
            Runner(tmp_path, prover=NONE)


@pytest.mark.parametrize("keys", [set(), None])
def test_a_record_is_not_the_callers_buffer(net: Path, keys: set[str] | None) -> None:
    """A caller that fills one buffer again and again writes a bundle of what was proved."""
    buffer = examples("net", 1)[0].copy()
    before = buffer.copy()
    run = Runner(net, prover=FixedPointProver(keys=keys)).infer(input=buffer, record=True).run
    assert run is not None
    buffer[:] = 0
    ((name, recorded),) = run.inputs.items()
    assert np.array_equal(recorded, before)
    assert np.array_equal(run.slices[0].inputs[name], before)
