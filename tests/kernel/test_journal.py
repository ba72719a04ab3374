"""A run from its creation to its end, as the executor and the command line see it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interlock.errors import (
    ConfigError,
    InputError,
    JournalError,
    RunLockedError,
    RunNotFoundError,
)
from interlock.kernel.clock import ManualClock
from interlock.kernel.journal import Item, Journal, JournalRun
from interlock.kernel.outcome import Outcome, Status

ACCEPTED: Outcome[Any] = Outcome(Status.ACCEPTED, value=1.5, route="arm")
REFUSED: Outcome[Any] = Outcome(Status.REFUSED, action="refuse", route="arm")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC))


@pytest.fixture
def journal(tmp_path: Path, clock: ManualClock) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.sqlite", clock=clock) as journal:
        yield journal


def start(journal: Journal, count: int = 3, **options: Any) -> JournalRun:
    items = [Item(f"k{index}", {"x": index}) for index in range(count)]
    return journal.create_run("test", config={"model": "arm"}, items=items, **options)


def test_a_run_from_start_to_done(journal: Journal, clock: ManualClock) -> None:
    run = start(journal)
    assert run.run_id.startswith("20260501T120000-")
    assert list(run.pending()) == ["k0", "k1", "k2"]
    assert journal.info(run.run_id).state == "running"

    run.begin(["k0", "k1"])
    assert run.open_attempts() == ["k0", "k1"]
    run.record([("k1", ACCEPTED), ("k0", REFUSED)])
    assert run.open_attempts() == []
    assert list(run.pending()) == ["k2"]

    run.begin(["k2"])
    run.record([("k2", ACCEPTED)])
    clock.advance(90)
    run.finish("done")
    run.close()

    info = journal.info(run.run_id)
    assert (info.state, info.items, info.pending, info.open_attempts) == ("done", 3, 0, 0)
    assert info.counts == {
        Status.ACCEPTED: 2,
        Status.FLAGGED: 0,
        Status.REFUSED: 1,
        Status.FAILED: 0,
    }
    assert info.finished == info.created + timedelta(seconds=90)
    assert info.versions.keys() == {"interlock", "python", "sqlite", "platform"}
    assert list(journal.outcomes(run.run_id)) == [
        ("k0", REFUSED),
        ("k1", ACCEPTED),
        ("k2", ACCEPTED),
    ]


def test_more_items_than_a_page_keep_their_order_while_they_are_recorded(journal: Journal) -> None:
    run = start(journal, 2345)
    seen = []
    for key in run.pending():
        seen.append(key)
        run.record([(key, ACCEPTED)])
    assert seen == [f"k{index}" for index in range(2345)]
    assert [key for key, _ in journal.outcomes(run.run_id)] == seen
    assert list(run.pending()) == []


def test_what_was_recorded_is_there_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    items = [Item(f"k{index}", index) for index in range(4)]
    with Journal.open(path) as journal:
        run = journal.create_run("test", config={"n": 1}, items=items)
        run.begin(["k0", "k1", "k2"])
        run.record([("k1", ACCEPTED)])
        # Closed without `finish`, as after a crash.
    with Journal.open(path) as journal:
        assert journal.info(run.run_id).state == "interrupted"
        run = journal.resume_run(run.run_id, config={"n": 1}, items=items)
        assert run.open_attempts() == ["k0", "k2"]
        assert list(run.pending()) == ["k0", "k2", "k3"]
        assert run.counts()[Status.ACCEPTED] == 1
        assert journal.info(run.run_id).state == "running"


def test_an_outcome_is_never_overwritten(journal: Journal) -> None:
    run = start(journal)
    run.record([("k0", ACCEPTED)])
    with pytest.raises(JournalError, match=r"'k0' .* has an outcome already"):
        run.record([("k1", ACCEPTED), ("k0", REFUSED)])
    with pytest.raises(JournalError, match=r"'k2' .* has an outcome already"):
        run.record([("k2", ACCEPTED), ("k2", ACCEPTED)])
    assert list(journal.outcomes(run.run_id)) == [("k0", ACCEPTED)]
    assert sum(run.counts().values()) == 1
    with pytest.raises(JournalError, match=r"'k0' .* has an outcome"):
        run.begin(["k1", "k0"])
    assert run.open_attempts() == []


def test_an_unknown_key_is_refused_and_nothing_of_the_call_is_kept(journal: Journal) -> None:
    run = start(journal)
    for call in (
        lambda: run.record([("k0", ACCEPTED), ("absent", ACCEPTED)]),
        lambda: run.begin(["k0", "absent"]),
        lambda: run.payload("absent"),
    ):
        with pytest.raises(JournalError, match="has no item 'absent'"):
            call()
    assert list(run.pending()) == ["k0", "k1", "k2"]
    assert run.open_attempts() == []


def test_an_outcome_that_cannot_be_written_is_refused_before_anything_is(journal: Journal) -> None:
    run = start(journal)
    with pytest.raises(InputError):
        run.record([("k0", ACCEPTED), ("k1", Outcome(Status.ACCEPTED, value=object()))])
    assert list(run.pending()) == ["k0", "k1", "k2"]


def test_payloads_come_back_as_given(journal: Journal) -> None:
    payloads: dict[str, Any] = {
        "text": "two\nlines and \N{SNOWMAN}",
        "order": {"z": 1, "a": [True, None, 2.5]},
        "float": float("-inf"),
        "none": None,
        "large": 2**70,
    }
    run = journal.create_run(
        "test", config={}, items=[Item(key, value) for key, value in payloads.items()]
    )
    assert {key: run.payload(key) for key in payloads} == payloads
    assert list(run.payload("order")) == ["z", "a"]


def test_an_array_payload_keeps_dtype_and_bits(journal: Journal) -> None:
    array = np.array([[1.0, -0.0], [np.nan, np.inf]], dtype=np.float32)
    run = journal.create_run("test", config={}, items=[Item("a", {"x": array})])
    read = run.payload("a")["x"]
    assert read.dtype == array.dtype
    assert read.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([Item("a"), Item("b"), Item("a")], "two items have the same key"),
        ([Item("")], "a key must be a string"),
        ([Item("a\0b")], "a key must be a string"),
        ([Item(5)], "a key must be a string"),  # type: ignore[arg-type]
        ([Item("\ud800")], "not Unicode"),
        ([Item("a", "\ud800")], "item 'a': a text with a lone surrogate"),
        ([Item("a", 10**5000)], "item 'a': an integer is too long"),
        ([Item("a", object())], "item 'a': a value of type object"),
        ([Item("a", None, "ABC")], "item 'a': digest must be 64"),
    ],
)
def test_bad_items_are_refused_and_leave_no_run(
    journal: Journal, items: list[Item], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        journal.create_run("test", config={}, items=items, run_id="bad")
    assert journal.runs() == []
    journal.create_run("test", config={}, items=[Item("a")], run_id="bad")


def test_items_are_read_once_and_a_failing_source_leaves_no_run(journal: Journal) -> None:
    def source() -> Iterator[Item]:
        yield Item("a")
        raise OSError("the input file went away")

    with pytest.raises(OSError, match="went away"):
        journal.create_run("test", config={}, items=source())
    assert journal.runs() == []


@pytest.mark.parametrize("run_id", ["../up", "a/b", ".hidden", "a b", "x" * 101, "a\n"])
def test_a_run_id_that_could_not_name_a_file_is_refused(journal: Journal, run_id: str) -> None:
    with pytest.raises(InputError, match="run_id is"):
        start(journal, run_id=run_id)
    with pytest.raises(RunNotFoundError):
        journal.resume_run(run_id, config={}, items=None)


def test_a_run_id_exists_once(journal: Journal) -> None:
    start(journal, run_id="one").close()
    with pytest.raises(JournalError, match="run one exists already"):
        start(journal, run_id="one")


def test_a_done_run_has_nothing_pending(journal: Journal) -> None:
    run = start(journal)
    with pytest.raises(JournalError, match="3 items are pending"):
        run.finish("done")
    with pytest.raises(ConfigError, match="state is 'over'"):
        run.finish("over")  # type: ignore[arg-type]
    run.finish("failed")
    run.close()
    assert journal.info(run.run_id).state == "failed"


def test_resuming_a_complete_run_leaves_it_done(journal: Journal) -> None:
    run = start(journal, 1)
    run.record([("k0", ACCEPTED)])
    run.finish("done")
    finished = journal.info(run.run_id).finished
    run.close()
    with journal.resume_run(run.run_id, config={"model": "arm"}, items=None) as run:
        assert list(run.pending()) == []
    assert journal.info(run.run_id).state == "done"
    assert journal.info(run.run_id).finished == finished


def test_a_closed_run_takes_nothing_more(journal: Journal) -> None:
    run = start(journal)
    run.close()
    run.close()
    with pytest.raises(JournalError, match="is closed"):
        run.begin(["k0"])
    with pytest.raises(JournalError, match="is closed"):
        run.record([("k0", ACCEPTED)])
    assert list(run.pending()) == ["k0", "k1", "k2"]
    journal.close()
    with pytest.raises(JournalError, match="is closed"):
        list(run.pending())
    with pytest.raises(JournalError, match="is closed"):
        journal.runs()


def test_closing_the_journal_releases_its_runs(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal.open(path) as journal:
        run = start(journal)
    with Journal.open(path) as journal:
        journal.resume_run(run.run_id, config={"model": "arm"}, items=None)


def test_runs_are_independent(journal: Journal) -> None:
    first, second = start(journal), start(journal)
    first.record([("k0", ACCEPTED)])
    second.record([("k0", REFUSED), ("k1", ACCEPTED)])
    assert list(first.pending()) == ["k1", "k2"]
    assert list(second.pending()) == ["k2"]
    assert [info.pending for info in journal.runs()] == [2, 1]


def test_a_missing_run_is_named(journal: Journal) -> None:
    for call in (
        lambda: journal.info("absent"),
        lambda: journal.outcomes("absent"),
        lambda: journal.delete_run("absent"),
        lambda: journal.resume_run("absent", config={}, items=None),
    ):
        with pytest.raises(RunNotFoundError, match="no run 'absent'"):
            call()


def content(directory: Path) -> bytes:
    """All files' bytes; the shared-memory index holds none of the user's."""
    names = sorted(path for path in directory.iterdir() if path.is_file())
    return b"".join(path.read_bytes() for path in names if path.suffix != ".sqlite-shm")


def test_deleting_a_run_takes_its_bytes_out_of_the_file(journal: Journal) -> None:
    secret = "a prompt that must be gone "
    items = [Item(f"k{index}", secret * 50) for index in range(200)]
    run = journal.create_run("test", config={}, items=items)
    run.begin(["k0"])
    run.record([("k0", Outcome(Status.ACCEPTED, value=secret * 50))])
    kept = start(journal)
    kept.record([("k0", ACCEPTED)])
    with pytest.raises(RunLockedError):
        journal.delete_run(run.run_id)
    run.close()
    before = content(journal.path.parent)
    assert secret.encode() in before

    journal.delete_run(run.run_id)

    assert [info.run_id for info in journal.runs()] == [kept.run_id]
    assert list(journal.outcomes(kept.run_id)) == [("k0", ACCEPTED)]
    after = content(journal.path.parent)
    assert secret.encode() not in after
    assert len(after) < len(before) / 2
    assert not (journal.path.parent / "journal.sqlite.locks" / f"{run.run_id}.lock").exists()


class TestPrune:
    @pytest.fixture(autouse=True)
    def _runs(self, journal: Journal, clock: ManualClock) -> None:
        """Five runs a day apart: done, failed, interrupted, done, and one that is held."""
        for name, state in enumerate(["done", "failed", "interrupted", "done"]):
            with start(journal, 0, run_id=f"run-{name}") as run:
                run.finish(state)  # type: ignore[arg-type]
            clock.advance(86400)
        self.held = start(journal, run_id="run-4")

    @pytest.mark.parametrize(
        ("options", "gone"),
        [
            ({"keep": 1}, ["run-0", "run-1"]),
            ({"keep": 0}, ["run-0", "run-1", "run-3"]),
            ({"keep": 5}, []),
            ({"keep": 0, "unfinished": True}, ["run-0", "run-1", "run-2", "run-3"]),
            ({"older_than": timedelta(days=2.5)}, ["run-0", "run-1"]),
            ({"older_than": timedelta(days=2.5), "keep": 2}, ["run-0"]),
            ({"older_than": timedelta(days=9)}, []),
        ],
    )
    def test_it_deletes_ended_runs_by_age_and_number(
        self, journal: Journal, options: dict[str, Any], gone: list[str]
    ) -> None:
        assert journal.prune(**options, dry_run=True) == gone
        assert len(journal.runs()) == 5
        assert journal.prune(**options) == gone
        assert [run.run_id for run in journal.runs()] == [
            f"run-{name}" for name in range(5) if f"run-{name}" not in gone
        ]

    def test_a_held_run_stays_even_when_it_ended(self, journal: Journal) -> None:
        self.held.finish("failed")
        assert "run-4" not in journal.prune(keep=0)
        assert journal.info("run-4").state == "failed"

    @pytest.mark.parametrize(
        "options", [{}, {"keep": -1}, {"older_than": timedelta(days=-1)}], ids=str
    )
    def test_options_that_say_nothing_are_refused(
        self, journal: Journal, options: dict[str, Any]
    ) -> None:
        with pytest.raises(ConfigError):
            journal.prune(**options)


def test_an_unknown_durability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="durability is 'some'"):
        Journal.open(tmp_path / "journal.sqlite", durability="some")  # type: ignore[arg-type]
    assert not (tmp_path / "journal.sqlite").exists()


def test_what_is_not_unicode_text_names_no_run_and_no_item(journal: Journal) -> None:
    with pytest.raises(RunNotFoundError):
        journal.info("\udcff")
    with pytest.raises(InputError, match="name is not Unicode text"):
        journal.create_run("a \ud800", config={}, items=[])
    with journal.create_run("test", config={}, items=[Item("a")]) as run:
        with pytest.raises(JournalError, match="no item"):
            run.payload("\ud800")
        with pytest.raises(JournalError, match="no item"):
            run.record([("\ud800", Outcome(Status.FAILED))])


def test_no_run_is_older_than_time_itself(journal: Journal) -> None:
    with journal.create_run("test", config={}, items=[]) as run:
        run.finish("done")
    assert journal.prune(timedelta.max) == []
    assert len(journal.runs()) == 1


def test_items_that_write_to_the_journal_are_refused_and_spoil_nothing(journal: Journal) -> None:
    with journal.create_run("test", config={}, items=[Item("a")], run_id="one") as one:

        def source() -> Iterator[Item]:
            yield Item("a")
            with pytest.raises(JournalError, match="under way"):
                one.record([("a", Outcome(Status.FAILED))])
            yield Item("b")

        journal.create_run("test", config={}, items=source(), run_id="two").close()
    assert [(run.run_id, run.items, run.pending) for run in journal.runs()] == [
        ("one", 1, 1),
        ("two", 2, 2),
    ]


def test_others_write_while_the_items_of_a_new_run_are_still_coming(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interlock.kernel.journal_store.BUSY_SECONDS", 0.1)
    with Journal.open(journal.path) as other:
        run = other.create_run("other", config={}, items=[Item("a")], run_id="other")

        def source() -> Iterator[Item]:
            yield Item("a")
            run.record([("a", Outcome(Status.FAILED))])
            yield Item("b")

        journal.create_run("slow", config={}, items=source(), run_id="slow").close()
    assert {info.run_id: info.pending for info in journal.runs()} == {"other": 0, "slow": 2}


def test_threads_may_create_and_change_runs_of_one_journal_together(journal: Journal) -> None:
    def items(name: str, start: int) -> list[Item]:
        return [Item(f"{name}-{n}") for n in range(start, start + 20)]

    def create(thread: int) -> None:
        for number in range(15):
            name = f"{thread}-{number}"
            journal.create_run("t", config={}, items=items(name, 0), run_id=name).close()
            journal.resume_run(name, config={}, items=items(name, 10), accept_changes=True).close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(create, range(4)))
    for info in journal.runs():
        with journal.resume_run(info.run_id, config={}, items=None) as run:
            assert set(run.pending()) == {item.key for item in items(info.run_id, 10)}


def test_pending_keys_may_be_asked_for_by_their_beginning(journal: Journal) -> None:
    keys = ["a|1", "b|1", "a|2", "ab|1", "a%|1"]
    with journal.create_run("r", config={}, items=[Item(key, None) for key in keys]) as run:
        run.record([("a|1", Outcome(Status.ACCEPTED, value=1))])
        assert list(run.pending("a|")) == ["a|2"]
        assert list(run.pending("a")) == ["a|2", "ab|1", "a%|1"]
        assert list(run.pending("a%")) == ["a%|1"]
        assert list(run.pending()) == ["b|1", "a|2", "ab|1", "a%|1"]


def test_outcomes_may_be_read_by_the_beginning_of_their_keys(journal: Journal) -> None:
    keys = ["a|1", "b|1", "a|2"]
    with journal.create_run("r", config={}, items=[Item(key) for key in keys], run_id="r") as run:
        run.record([(key, Outcome(Status.ACCEPTED, value=key)) for key in keys])
    assert [key for key, _ in journal.outcomes("r", "a|")] == ["a|1", "a|2"]
    assert dict(journal.stored("r", "b"))["b|1"] == Outcome(Status.ACCEPTED, value="b|1").to_json()


def test_attempts_that_gave_no_outcome_are_counted(journal: Journal) -> None:
    with journal.create_run("r", config={}, items=[Item(key) for key in "abcd"]) as run:
        run.begin(["a", "b", "c"])
        run.begin(["b", "c"])
        run.record([("a", Outcome(Status.FAILED)), ("b", Outcome(Status.FAILED))])
        assert run.unanswered_attempts() == {"b": 1, "c": 2}


def test_recorded_items_can_be_asked_again(journal: Journal) -> None:
    with journal.create_run(
        "r", config={}, items=[Item("a", 1), Item("b", 2), Item("c", 3)], run_id="r"
    ) as run:
        run.begin(["b"])
        run.record([(key, Outcome(Status.FAILED)) for key in "abc"])
        run.finish("done")
        with pytest.raises(JournalError, match="no item 'x'"):
            run.ask_again(["b", "x"], "never")
        assert list(run.pending()) == []
        run.ask_again(["b"], "1 failed item asked again")
        assert list(run.pending()) == ["b"]
        assert run.payload("b") == 2
        assert run.open_attempts() == []
        run.begin(["b"])
        run.record([("b", Outcome(Status.ACCEPTED, value=0))])
        run.finish("done")
        assert list(run.withdrawn()) == [("b", 0, Outcome(Status.FAILED).to_json())]
    info = journal.info("r")
    assert (info.items, info.withdrawn, info.counts[Status.ACCEPTED]) == (3, 1, 1)
    assert "asked again" in info.changes[0]
    assert [key for key, _ in journal.outcomes("r")] == ["a", "b", "c"]


def test_outcomes_are_found_by_the_digest_of_what_was_asked(tmp_path: Path) -> None:
    asked = [Item("a", "x", "a" * 64), Item("b", "y", "b" * 64)]
    with Journal.open(tmp_path / "j.sqlite") as journal:
        with journal.create_run("one", config={}, items=asked) as run:
            run.record([("a", Outcome(Status.ACCEPTED, value=1))])
        changed = [Item("a", "x2", "c" * 64)]
        with journal.create_run("two", config={}, items=changed) as run:
            run.record([("a", Outcome(Status.REFUSED))])
        found = journal.recorded(["a" * 64, "b" * 64, "c" * 64, "d" * 64])
    assert found == {
        "a" * 64: Outcome(Status.ACCEPTED, value=1),
        "c" * 64: Outcome(Status.REFUSED),
    }


def test_the_outcome_recorded_last_is_found_and_withdrawn_ones_are_too(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j.sqlite") as journal:
        for value in (1, 2):
            with journal.create_run("same", config={}, items=[Item("a", "x", "a" * 64)]) as run:
                run.record([("a", Outcome(Status.ACCEPTED, value=value))])
        assert journal.recorded(["a" * 64])["a" * 64].value == 2
        journal.resume_run(
            run.run_id, config={}, items=[Item("a", "y", "b" * 64)], accept_changes=True
        ).close()
        assert journal.recorded(["a" * 64])["a" * 64].value == 2


def test_an_attempt_that_was_never_sent_is_taken_back(journal: Journal) -> None:
    with journal.create_run("r", config={}, items=[Item(key) for key in "abc"]) as run:
        run.begin(["a", "b"])
        run.begin(["b"])
        run.take_back(["a", "b"])
        assert run.unanswered_attempts() == {"b": 1}
        run.record([("c", Outcome(Status.FAILED))])
        with pytest.raises(JournalError, match="has an outcome"):
            run.take_back(["b", "c"])
        assert run.unanswered_attempts() == {"b": 1}
