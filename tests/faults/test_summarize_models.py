"""Models that are truncated, changed, incomplete, hang, or do not fit: each a clear outcome."""

import json
import shutil
from pathlib import Path

import pytest
from support.source_trees import MODULE, write_tree
from support.text_models import save_directory, spoiled, tiny_model

from interlock.cli.app import run
from interlock.engines.generate import Generator
from interlock.engines.generate.convert.publish import convert
from interlock.kernel.errors import BundleIntegrityError, MemoryLimitError
from interlock.summarize import Options, summarize
from interlock.summarize.model import EngineModel
from interlock.summarize.workers import Names, open_executor, open_model

OPTIONS = Options(view="full", chunk_lines=12, max_input_tokens=200, instances=2)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    source = save_directory(root / "source")
    convert(source, root / "bundle", name="tiny", weights="int8", accept_fidelity=True)
    return root / "bundle"


@pytest.fixture
def bundle(sound: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(sound, tmp_path / "bundle"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(
        tmp_path / "tree", {"a/a.py": MODULE, "b/b.py": "class Acceptor:\n    limit = 3\n"}
    )


def refused(tree: Path, bundle: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The code that the command ends with, having written nothing."""
    arguments = ["summarize", str(tree), "--model", str(bundle), "-o", str(output), "--json"]
    assert run(arguments) == 1
    assert not output.exists()
    return str(json.loads(capsys.readouterr().out)["error"]["code"])


def test_a_truncated_model_is_refused_before_anything_is_written(
    tree: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = bundle / "model.onnx"
    model.write_bytes(model.read_bytes()[:-100])
    assert refused(tree, bundle, tmp_path / "out", capsys) == "bundle_integrity"


def test_a_model_with_one_other_byte_is_refused(
    tree: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(content)
    assert refused(tree, bundle, tmp_path / "out", capsys) == "bundle_integrity"


def test_a_model_without_its_tokenizer_is_refused(
    tree: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "tokenizer.json").unlink()
    assert refused(tree, bundle, tmp_path / "out", capsys).startswith("bundle_")


def test_a_model_that_is_not_there_is_named_with_how_to_add_it(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOCK_MODELS", str(tmp_path / "store"))
    assert run(["summarize", str(tree), "-o", str(tmp_path / "out")]) == 2
    assert "interlock models add smollm2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "code"), [("fail", "engine"), ("hang", "deadline")])
def test_an_instance_that_fails_or_hangs_costs_its_own_chunks_only(
    tree: Path, tmp_path: Path, kind: str, code: str
) -> None:
    # Only the prompts of one chunk hold this letter: it is the token that spoils the model.
    (tree / "b" / "b.py").write_text('class Acceptor:\n    name = "Z"\n')
    [token] = tiny_model().tokenizer.encode("Z")
    model = spoiled(kind, token)
    with Generator(model, slots=2, workers=2, step_seconds=1.0) as generator:
        done = summarize(
            tree, tmp_path / "out", OPTIONS, model=EngineModel("spoiled", model, generator)
        )
    outcomes = done.finished.outcomes
    hurt = outcomes["chunk b/b.py:1-2"]
    assert hurt.steps[0].reason.startswith(code)
    assert hurt.steps[-1].name == "extractive"
    whole = done.finished.summary("chunk a/a.py:1-12")
    assert whole is not None
    assert whole.spent.attempts > 0
    assert all(outcome.status.usable for outcome in outcomes.values())


def test_a_cache_that_does_not_fit_is_said_and_the_source_speaks_for_itself(
    tree: Path, tmp_path: Path
) -> None:
    with Generator(tiny_model(), slots=2, memory_limit=1000) as generator:
        model = EngineModel("tiny", tiny_model(), generator)
        done = summarize(tree, tmp_path / "out", OPTIONS, model=model)
    reasons = {outcome.reasons[0] for outcome in done.finished.outcomes.values() if outcome.reasons}
    assert any(MemoryLimitError.code in reason for reason in reasons)
    assert all(outcome.status.usable for outcome in done.finished.outcomes.values())


def test_a_process_with_too_little_memory_for_the_model_stops_the_run_with_that_reason(
    sound: Path,
) -> None:
    with pytest.raises(MemoryLimitError, match="no model can be opened with 75 MB"):
        open_executor(
            None, instances=1, seconds=60.0, isolate=Names(str(sound)), memory_limit=72 * 2**20
        ).close()


def test_a_process_runs_the_model_that_the_run_was_planned_with_or_none(
    tree: Path, bundle: Path, tmp_path: Path
) -> None:
    names = Names(str(bundle), {"rust": str(bundle)})
    models = names.open()
    shutil.rmtree(bundle)
    source = save_directory(tmp_path / "source", seed=1)
    convert(source, bundle, name="tiny", weights="int8", accept_fidelity=True)
    assert open_model(str(bundle)).digest != models.of("Rust").digest  # type: ignore[union-attr]
    with (
        pytest.raises(BundleIntegrityError, match="expected"),
        open_executor(models, instances=1, seconds=60.0, isolate=names) as executor,
    ):
        summarize(tree, tmp_path / "out", OPTIONS, model=models, executor=executor)
