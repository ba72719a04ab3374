"""Summaries by the real text engine, on a tiny model with random weights."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.source_trees import small_tree
from support.text_models import save_directory, tiny_model

from interlock.engines.generate import Generator
from interlock.engines.generate.convert.publish import convert
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import DeadlineError
from interlock.summarize import Options, Summarized, summarize
from interlock.summarize.asked import ANSWER_TOKENS, Asked, messages
from interlock.summarize.model import EngineModel
from interlock.summarize.workers import Names, open_executor, open_model

OPTIONS = Options(view="full", chunk_lines=12, max_input_tokens=200, instances=2)


@pytest.fixture(scope="module")
def model() -> Iterator[EngineModel]:
    with Generator(tiny_model(), slots=20, workers=2) as generator:
        yield EngineModel("tiny", tiny_model(), generator)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tiny model as a bundle on disk."""
    root = tmp_path_factory.mktemp("model")
    convert(
        save_directory(root / "source"),
        root / "bundle",
        name="tiny",
        weights="int8",
        accept_fidelity=True,
    )
    return root / "bundle"


def asked(n: int) -> Asked:
    return Asked("chunk", language="Python", shown=f"def compute_{n}(value):\n    return {n}")


def test_tokens_are_counted_and_the_limit_is_kept(model: EngineModel) -> None:
    written = model.write(messages(asked(1)), seed=None, deadline=NO_DEADLINE)
    assert written.input_tokens > model.count(asked(1).shown)
    assert 0 < written.output_tokens <= ANSWER_TOKENS
    assert written.cut == (written.output_tokens == ANSWER_TOKENS)
    assert written.mean_logprob is not None
    assert written.mean_logprob < 0


@pytest.mark.parametrize("seeded", [False, True])
def test_twenty_threads_write_what_one_does(model: EngineModel, seeded: bool) -> None:
    def write(n: int) -> str:
        seed = n if seeded else None
        return model.write(messages(asked(n)), seed=seed, deadline=NO_DEADLINE).text

    alone = [write(n) for n in range(20)]
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(write, range(20))) == alone
    assert len(set(alone)) > 10


def test_a_deadline_that_has_passed_is_a_deadline_error(model: EngineModel) -> None:
    with pytest.raises(DeadlineError):
        model.write(messages(asked(1)), seed=None, deadline=Deadline.after(0.0))


def outcomes(done: Summarized) -> dict[str, Any]:
    """What must not depend on where a summary was made."""
    found = {}
    for key, outcome in done.finished.outcomes.items():
        summary = done.finished.summary(key)
        assert summary is not None
        spent = summary.spent
        found[key] = (
            summary.text,
            summary.origin,
            outcome.reasons,
            (spent.attempts, spent.input_tokens, spent.output_tokens),
        )
    return found


def test_processes_threads_and_a_second_start_give_the_same(
    model: EngineModel, bundle: Path, tmp_path: Path
) -> None:
    tree = small_tree(tmp_path / "tree")
    threads = summarize(tree, tmp_path / "threads", OPTIONS, model=model)
    one = Options(view="full", chunk_lines=12, max_input_tokens=200, instances=1)
    assert outcomes(summarize(tree, tmp_path / "one", one, model=model)) == outcomes(threads)
    assert outcomes(summarize(tree, tmp_path / "threads", OPTIONS, model=model)) == outcomes(
        threads
    )

    loaded = open_model(str(bundle))
    assert loaded.digest == model.digest
    with open_executor(loaded, instances=2, seconds=600.0, isolate=Names(str(bundle))) as executor:
        isolated = summarize(tree, tmp_path / "isolated", OPTIONS, model=loaded, executor=executor)
    assert outcomes(isolated) == outcomes(threads)
    assert max(spent for *_, (spent, _, _) in outcomes(threads).values()) == 2
