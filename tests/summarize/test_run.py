"""A run is a journal: it goes on where it was cut, and repeats nothing that is known."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.source_trees import MODULE, small_tree, write_tree
from support.summary_models import NamingModel, names_in

from interlock.errors import EngineCrashError, InterruptedRunError, RunLockedError
from interlock.kernel.journal import Item, Journal
from interlock.kernel.outcome import Status, StepResult
from interlock.summarize.asked import SummaryModel, Written
from interlock.summarize.options import Options
from interlock.summarize.plan import Plan, make_plan
from interlock.summarize.run import RUN_NAME, Finished, _config, pending_nodes, run
from interlock.summarize.tree import read_tree
from interlock.summarize.workers import open_executor

OPTIONS = Options(chunk_lines=40, view="full", instances=2)


def plan_of(tree: Path, model: SummaryModel | None, options: Options = OPTIONS) -> Plan:
    return make_plan(read_tree(tree), options, model)


def run_once(
    tree: Path,
    journal: Path,
    model: SummaryModel | None,
    options: Options = OPTIONS,
    **named: Any,
) -> Finished:
    plan = plan_of(tree, model, options)
    executor = open_executor(model, instances=options.instances, seconds=60.0)
    with Journal.open(journal) as opened, executor:
        return run(plan, opened, executor, **named)


def texts(finished: Finished) -> dict[str, tuple[str, str]]:
    """What must not depend on how a run went: status and summary by key."""
    found = {}
    for key, outcome in finished.outcomes.items():
        summary = finished.summary(key)
        found[key] = (outcome.status.value, "" if summary is None else summary.text)
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return small_tree(tmp_path / "tree")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def test_every_level_is_summarised_from_the_one_below(tree: Path, journal: Path) -> None:
    model = NamingModel()
    finished = run_once(tree, journal, model)
    assert {outcome.status for outcome in finished.outcomes.values()} <= {
        Status.ACCEPTED,
        Status.FLAGGED,
    }
    levels = [node.level for node in finished.plan.nodes.values()]
    assert levels.count("repository") == 1
    assert levels.count("folder") == 2
    chunks = [key for key in finished.outcomes if key.startswith("chunk words/handlers.py")]
    assert len(chunks) > 1
    [asked] = [prompt for prompt in model.asked if "the file handlers.py" in prompt]
    for key in chunks:
        summary = finished.summary(key)
        assert summary is not None
        assert summary.text in asked


def test_a_file_with_one_chunk_costs_nothing_twice(tree: Path, journal: Path) -> None:
    model = NamingModel()
    finished = run_once(tree, journal, model)
    file, chunk = "file net/acceptor.rs", "chunk net/acceptor.rs:1-15"
    assert finished.outcomes[file].steps[0].name == "only-part"
    assert finished.summary(file).text == finished.summary(chunk).text  # type: ignore[union-attr]


def test_a_summary_that_was_flagged_stays_so_where_it_stands_for_the_whole(
    tmp_path: Path, journal: Path
) -> None:
    tree = write_tree(tmp_path / "tree", {"words/counting.py": MODULE})
    model = NamingModel(lambda prompt, seed: "Counts words of a text on shaded triangles")
    finished = run_once(tree, journal, model)
    assert len(model.asked) == 1
    for outcome in finished.outcomes.values():
        assert outcome.status is Status.FLAGGED
        assert outcome.steps[-1].reason == "only 3 of 5 names and words are in the source"
    assert len(finished.outcomes) == 4


def test_an_answer_that_lost_its_parts_flag_is_not_taken_over(
    tmp_path: Path, journal: Path
) -> None:
    tree = write_tree(tmp_path / "tree", {"words/counting.py": MODULE})
    model = NamingModel(lambda prompt, seed: "Counts words of a text on shaded triangles")
    plan = plan_of(tree, model)
    finished = run_once(tree, tmp_path / "other.sqlite", model)
    items = [Item(node.key, digest=node.address) for node in plan.nodes.values()]
    with (
        Journal.open(journal) as opened,
        opened.create_run(RUN_NAME, config=_config(plan), items=items) as record,
    ):
        for key, outcome in finished.outcomes.items():
            lost = outcome
            if plan.nodes[key].parts:
                [step] = outcome.steps
                taken = msgspec.structs.replace(step, result=StepResult.ACCEPTED, reason="")
                lost = msgspec.structs.replace(outcome, status=Status.ACCEPTED, steps=(taken,))
            record.record([(key, lost)])
        record.finish("done")
    again = run_once(tree, journal, model)
    assert {outcome.status for outcome in again.outcomes.values()} == {Status.FLAGGED}
    assert len(model.asked) == 1


def test_a_second_run_asks_nothing(tree: Path, journal: Path) -> None:
    first = run_once(tree, journal, NamingModel())
    model = NamingModel()
    second = run_once(tree, journal, model)
    assert model.asked == []
    assert texts(second) == texts(first)
    assert second.run_id == first.run_id
    assert second.reused == set(second.plan.nodes)


def test_an_edit_makes_anew_its_own_chunk_and_what_is_above_it(tree: Path, journal: Path) -> None:
    before = run_once(tree, journal, NamingModel())
    edited = tree / "words" / "handlers.py"
    lines = edited.read_text().split("\n")
    lines[2] = "def handle_rewritten(request):"
    edited.write_text("\n".join(lines))
    after = run_once(tree, journal, NamingModel())
    anew = set(after.plan.nodes) - after.reused
    assert anew == {
        "chunk words/handlers.py:1-40",
        "file words/handlers.py",
        "folder words",
        "repository",
    }
    kept = set(after.plan.nodes) - anew
    assert {key: texts(before)[key] for key in kept} == {key: texts(after)[key] for key in kept}


def test_a_change_taken_back_finds_its_old_summaries(tree: Path, journal: Path) -> None:
    first = run_once(tree, journal, NamingModel())
    file = tree / "words" / "counting.py"
    original = file.read_text()
    file.write_text(original.replace("words", "terms"))
    run_once(tree, journal, NamingModel())
    file.write_text(original)
    model = NamingModel()
    third = run_once(tree, journal, model)
    assert model.asked == []
    assert texts(third) == texts(first)


def test_a_moved_file_keeps_its_chunks(tree: Path, journal: Path) -> None:
    run_once(tree, journal, NamingModel())
    (tree / "moved").mkdir()
    (tree / "words" / "handlers.py").rename(tree / "moved" / "handlers.py")
    after = run_once(tree, journal, NamingModel())
    anew = set(after.plan.nodes) - after.reused
    assert anew == {"folder moved", "folder words", "repository"}


def test_another_model_or_view_makes_everything_anew(tree: Path, journal: Path) -> None:
    run_once(tree, journal, NamingModel())
    other = run_once(tree, journal, NamingModel(digest="sha256:" + "2" * 64))
    assert other.reused == frozenset()
    seeded = run_once(tree, journal, NamingModel(), Options(chunk_lines=40, view="full", seed=1))
    assert seeded.reused == frozenset()


@pytest.mark.parametrize("instances", [1, 2, 20])
def test_the_same_from_one_thread_and_from_many(tree: Path, tmp_path: Path, instances: int) -> None:
    alone = run_once(tree, tmp_path / "alone.sqlite", NamingModel(), Options(chunk_lines=20))
    many = Options(chunk_lines=20, instances=instances)
    assert texts(run_once(tree, tmp_path / "many.sqlite", NamingModel(), many)) == texts(alone)


def test_what_an_engine_failed_at_is_asked_again_with_all_above_it(
    tree: Path, journal: Path
) -> None:
    class Failing(NamingModel):
        def write(self, messages: Any, **named: Any) -> Written:
            if "Acceptor" in messages[-1].content:
                raise EngineCrashError("an instance was killed")
            return super().write(messages, **named)

    first = run_once(tree, journal, Failing())
    chunk = "chunk net/acceptor.rs:1-15"
    assert first.summary(chunk).origin == "extractive"  # type: ignore[union-attr]
    second = run_once(tree, journal, NamingModel())
    assert set(second.plan.nodes) - second.reused == {
        chunk,
        "file net/acceptor.rs",
        "folder net",
        "repository",
    }
    assert second.summary(chunk).origin == "model"  # type: ignore[union-attr]
    assert texts(second) == texts(run_once(tree, journal.with_name("fresh"), NamingModel()))


def test_what_an_engine_failed_at_before_a_stop_is_asked_again_too(
    tree: Path, journal: Path
) -> None:
    chunk = "chunk net/acceptor.rs:1-15"
    stop = threading.Event()

    class Failing(NamingModel):
        def write(self, messages: Any, **named: Any) -> Written:
            if "Acceptor" in messages[-1].content:
                raise EngineCrashError("an instance was killed")
            return super().write(messages, **named)

    def at_the_failure(key: str, outcome: Any) -> None:
        if key == chunk:
            stop.set()

    with pytest.raises(InterruptedRunError):
        run_once(tree, journal, Failing(), stop=stop, on_result=at_the_failure)
    sound = NamingModel()
    with Journal.open(journal) as opened:
        told = {node.key for node in pending_nodes(plan_of(tree, sound), opened)}
    resumed = run_once(tree, journal, sound)
    assert chunk in told
    assert set(resumed.plan.nodes) - resumed.reused == told
    assert resumed.summary(chunk).origin == "model"  # type: ignore[union-attr]
    assert texts(resumed) == texts(run_once(tree, journal.with_name("fresh"), NamingModel()))


def test_no_run_begins_beside_one_that_is_held_and_an_engine_failed_in(
    tree: Path, journal: Path
) -> None:
    class Failing(NamingModel):
        def write(self, messages: Any, **named: Any) -> Written:
            raise EngineCrashError("an instance was killed")

    def beside(key: str, outcome: Any) -> None:
        with pytest.raises(RunLockedError):
            run_once(tree, journal, NamingModel())

    run_once(tree, journal, Failing(), on_result=beside)
    with Journal.open(journal) as opened:
        assert len(opened.runs()) == 1


def test_a_stopped_run_goes_on_and_ends_as_an_undisturbed_one(
    tree: Path, journal: Path, tmp_path: Path
) -> None:
    stop = threading.Event()
    seen: list[str] = []

    def after_three(key: str, outcome: Any) -> None:
        seen.append(key)
        if len(seen) == 3:
            stop.set()

    with pytest.raises(InterruptedRunError):
        run_once(tree, journal, NamingModel(), stop=stop, on_result=after_three)
    resumed = run_once(tree, journal, NamingModel(), on_result=lambda key, _: seen.append(key))
    assert sorted(seen) == sorted(resumed.plan.nodes)
    assert texts(resumed) == texts(run_once(tree, tmp_path / "whole.sqlite", NamingModel()))


def test_a_baseline_measures_efficiency_and_changes_no_summary(
    tree: Path, journal: Path, tmp_path: Path
) -> None:
    model = NamingModel(seconds=0.01)
    finished = run_once(tree, journal, model, baseline=2, cores=2)
    assert finished.efficiency is not None
    assert finished.efficiency > 0
    assert texts(finished) == texts(run_once(tree, tmp_path / "other", NamingModel()))


def test_the_concatenated_mode_has_chunks_and_the_whole(tree: Path, journal: Path) -> None:
    options = Options(chunks="concatenated", chunk_lines=30, view="full")
    finished = run_once(tree, journal, NamingModel(), options)
    assert {node.level for node in finished.plan.nodes.values()} == {"chunk", "repository"}
    for key in finished.outcomes:
        summary = finished.summary(key)
        assert summary is not None
        assert max(map(len, summary.text.split("\n"))) <= 120


def test_a_chunk_above_the_budget_is_split_and_says_so(tree: Path, journal: Path) -> None:
    options = Options(chunk_lines=300, view="full", max_input_tokens=120)
    finished = run_once(tree, journal, NamingModel(), options)
    parts = [n for n in finished.plan.level("chunk") if n.path == "words/handlers.py"]
    assert len(parts) > 2
    assert all("above the budget of 120 tokens" in node.notes[0] for node in parts)
    assert all(node.tokens is not None and node.tokens <= 120 for node in parts)
    lines = [n for node in parts for n in range(node.sources[0].first, node.sources[0].last + 1)]
    assert lines == [*range(1, 66)]


def test_every_emitted_summary_is_grounded_or_marked_extractive(tree: Path, journal: Path) -> None:
    answers: list[Callable[[str, int | None], str]] = [
        names_in,
        lambda prompt, seed: "Draws a PixelBuffer",
        lambda prompt, seed: "x " * 200,
        lambda prompt, seed: "<cut>",
    ]

    def mixed(prompt: str, seed: int | None) -> str:
        return answers[len(prompt) % len(answers)](prompt, seed)

    finished = run_once(tree, journal, NamingModel(mixed), Options(chunk_lines=8, view="full"))
    origins = set()
    for key, outcome in finished.outcomes.items():
        summary = finished.summary(key)
        assert summary is not None
        assert len(summary.text) <= finished.plan.nodes[key].asked.most
        origins.add(summary.origin)
        evidence = {piece.by for piece in outcome.steps[-1].evidence}
        if outcome.steps[-1].name != "only-part":
            assert evidence & {"grounding", "extractive"}
    assert origins == {"model", "extractive"}


@pytest.mark.parametrize("forge", ["without steps", "of no words", "without a summary"])
def test_an_answer_that_no_run_records_is_made_anew(tree: Path, journal: Path, forge: str) -> None:
    honest = run_once(tree, journal, None)
    chunk = "chunk net/acceptor.rs:1-15"
    outcome = honest.outcomes[chunk]
    forged = {
        "without steps": msgspec.structs.replace(outcome, status=Status.FLAGGED, steps=()),
        "of no words": msgspec.structs.replace(outcome, value={"text": "", "origin": "model"}),
        "without a summary": msgspec.structs.replace(outcome, value=None),
    }[forge]
    other = journal.with_name("forged.sqlite")
    items = [Item(node.key, digest=node.address) for node in honest.plan.nodes.values()]
    with (
        Journal.open(other) as opened,
        opened.create_run(RUN_NAME, config=_config(honest.plan), items=items) as record,
    ):
        record.record([(key, forged if key == chunk else o) for key, o in honest.outcomes.items()])
        record.finish("done")
    found = run_once(tree, other, None)
    assert texts(found) == texts(honest)
    assert chunk not in found.reused


@pytest.mark.parametrize("as_new", [False, True])
def test_a_journal_that_was_tampered_with_passes_nothing_off(
    tree: Path, journal: Path, as_new: bool
) -> None:
    """A tree may bring a journal of its own, with addresses that fit."""
    honest = run_once(tree, journal, NamingModel())
    chunk = "chunk net/acceptor.rs:1-15"
    value: Any = honest.outcomes[chunk].value
    lie = value | {"text": "`Acceptor` sends it to EvilCorporation."}
    forged = msgspec.structs.replace(honest.outcomes[chunk], value=lie)
    other = journal.with_name("forged.sqlite")
    config = {"another": 1} if as_new else _config(honest.plan)
    items = [Item(node.key, digest=node.address) for node in honest.plan.nodes.values()]
    with (
        Journal.open(other) as opened,
        opened.create_run(RUN_NAME, config=config, items=items) as r,
    ):
        r.begin(list(honest.outcomes))
        r.record([(key, forged if key == chunk else o) for key, o in honest.outcomes.items()])
        r.finish("done")
    found = run_once(tree, other, NamingModel())
    assert texts(found) == texts(honest)
    assert chunk not in found.reused
    assert found.reused
