"""Resuming with other inputs or another configuration: refused with a list, or accepted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.counts import count

from interlock.errors import InputError, RunChangedError
from interlock.kernel.journal import Item, Journal
from interlock.kernel.outcome import Outcome, Status

CONFIG: dict[str, Any] = {
    "model": "claude-sonnet-4-20250514",
    "temperature": 0.5,
    "strict": True,
    "system": "You are a careful assistant.",
    "api_key": "abc",
    "models": [{"name": "a"}, {"name": "b"}],
}


def answer(value: Any) -> Outcome[Any]:
    return Outcome(Status.ACCEPTED, value=value)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.sqlite") as journal:
        yield journal


def changes(journal: Journal, **given: Any) -> tuple[str, ...]:
    with pytest.raises(RunChangedError) as caught:
        journal.resume_run("one", **given)
    for change in caught.value.changes:
        assert change in caught.value.message
    return caught.value.changes


def create(journal: Journal, items: list[Item]) -> None:
    journal.create_run("test", config=CONFIG, items=items, run_id="one").close()


ITEMS = [Item(f"k{index}", index) for index in range(30)]


def test_the_same_configuration_and_items_are_accepted_in_any_order(journal: Journal) -> None:
    create(journal, ITEMS)
    other_order = dict(reversed(CONFIG.items()))
    with journal.resume_run("one", config=other_order, items=iter(ITEMS)) as run:
        assert list(run.pending()) == [item.key for item in ITEMS]
    with journal.resume_run("one", config=CONFIG, items=ITEMS[::-1]) as run:
        assert list(run.pending()) == [item.key for item in ITEMS]
    assert journal.info("one").changes == ()


def test_configuration_changes_name_path_and_plain_values(journal: Journal) -> None:
    create(journal, ITEMS)
    other = CONFIG | {
        "model": "claude-opus-4",
        "temperature": 1,
        "strict": 1,
        "system": "You are a careless assistant.",
        "api_key": "xyz",
        "models": [{"name": "a"}, {"name": "c"}, {"name": "d"}],
        "top_p": 0.9,
    }
    assert changes(journal, config=other, items=ITEMS) == (
        "config api_key: changed",
        'config model: "claude-sonnet-4-20250514" → "claude-opus-4"',
        'config models[1].name: "b" → "c"',
        'config models[2].name: added "d"',
        "config strict: true → 1",
        "config system: changed",
        "config temperature: 0.5 → 1",
        "config top_p: added 0.9",
    )
    del other["top_p"], other["model"]
    assert 'config model: removed, was "claude-sonnet-4-20250514"' in changes(
        journal, config=other, items=None
    )


def test_item_changes_name_the_first_twenty_and_count_the_rest(journal: Journal) -> None:
    create(journal, ITEMS)
    given = [Item(f"k{index}", -index) for index in range(25)] + [Item("n", 1)]
    found = changes(journal, config=CONFIG, items=given)
    assert found[:6] == (
        "item 'n' added",
        "item 'k25' removed",
        "item 'k26' removed",
        "item 'k27' removed",
        "item 'k28' removed",
        "item 'k29' removed",
    )
    # -0 is 0, so k0 is what it was.
    assert found[6:26] == tuple(f"item 'k{index}' changed" for index in range(1, 21))
    assert found[26:] == ("and 4 more items changed (24 in all)",)


def test_a_refused_resume_changes_nothing_and_frees_the_run(journal: Journal) -> None:
    create(journal, ITEMS)
    before = journal.info("one")
    changes(journal, config=CONFIG, items=ITEMS[:5])
    assert journal.info("one") == before
    with journal.resume_run("one", config=CONFIG, items=ITEMS) as run:
        assert list(run.pending()) == [item.key for item in ITEMS]


def test_items_without_payload_are_compared_by_their_digest(journal: Journal) -> None:
    create(journal, [Item("a", digest="1" * 64), Item("b", digest="2" * 64)])
    given = [Item("a", digest="1" * 64), Item("b", digest="3" * 64)]
    assert changes(journal, config=CONFIG, items=given) == ("item 'b' changed",)


@pytest.mark.parametrize("twice", [0, 3, 29])
def test_a_key_given_twice_is_refused(journal: Journal, twice: int) -> None:
    create(journal, ITEMS)
    for items in ([*ITEMS, ITEMS[twice]], [ITEMS[twice], *ITEMS], [*ITEMS[::-1], ITEMS[twice]]):
        with pytest.raises(InputError, match="two items have the same key"):
            journal.resume_run("one", config=CONFIG, items=items, accept_changes=True)
    journal.resume_run("one", config=CONFIG, items=ITEMS)


def test_an_accepted_change_withdraws_what_was_answered_for_another_input(
    journal: Journal,
) -> None:
    items = [Item(key, f"prompt {key}") for key in "abcd"]
    with journal.create_run("test", config=CONFIG, items=items, run_id="one") as run:
        run.begin(["a", "b", "c"])
        run.record([("a", answer(1)), ("b", answer(2))])
    given = [Item("new", 0), items[0], Item("b", "another prompt"), items[3]]
    other = CONFIG | {"temperature": 0.75}

    with journal.resume_run("one", config=other, items=given, accept_changes=True) as run:
        assert list(run.pending()) == ["b", "d", "new"]
        assert run.open_attempts() == []
        assert run.payload("b") == "another prompt"
        run.record([("b", answer(3))])

    assert dict(journal.outcomes("one")) == {"a": answer(1), "b": answer(3)}
    info = journal.info("one")
    assert (info.items, info.pending, info.withdrawn) == (4, 2, 2)
    assert [change.split(" ", 2)[2] for change in info.changes] == [
        "config temperature: 0.5 → 0.75",
        "item 'new' added",
        "item 'c' removed",
        "item 'b' changed",
    ]
    with journal.resume_run("one", config=other, items=given) as run:
        assert list(run.pending()) == ["d", "new"]


def test_an_item_that_comes_back_has_its_answer_and_attempts_again(journal: Journal) -> None:
    """What was answered, and perhaps paid for, is not asked again."""
    items = [Item(key, f"prompt {key}") for key in "abcd"]
    with journal.create_run("test", config={}, items=items, run_id="one") as run:
        run.begin(["a", "b", "c"])
        run.record([("a", answer(1)), ("b", answer(2))])
        run.ask_again(["b"], "again")
        run.record([("b", answer(3))])
    given = [Item("a", "another prompt"), items[3]]
    with journal.resume_run("one", config={}, items=given, accept_changes=True) as run:
        assert list(run.pending()) == ["a", "d"]
        run.record([("a", answer(4))])

    with journal.resume_run("one", config={}, items=items, accept_changes=True) as run:
        assert run.open_attempts() == ["c"]
        assert sorted(run.pending()) == ["c", "d"]
    assert dict(journal.outcomes("one")) == {"a": answer(1), "b": answer(3)}
    with journal.resume_run("one", config={}, items=given, accept_changes=True):
        assert dict(journal.outcomes("one")) == {"a": answer(4)}
    # The earlier answers to b and to both prompts of a stay in the file.
    assert journal.info("one").withdrawn == 4


@settings(max_examples=count(25, 1000), deadline=None)
@given(
    recorded=st.dictionaries(st.integers(0, 9), st.tuples(st.integers(0, 2), st.booleans())),
    given_items=st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 2)), unique_by=lambda item: item[0]
    ),
)
def test_accepting_keeps_exactly_the_answers_whose_input_is_the_same(
    recorded: dict[int, tuple[int, bool]], given_items: list[tuple[int, int]]
) -> None:
    wanted = dict(given_items)
    with tempfile.TemporaryDirectory() as directory, Journal.open(f"{directory}/j") as journal:
        items = [Item(str(key), payload) for key, (payload, _) in recorded.items()]
        with journal.create_run("test", config={}, items=items, run_id="one") as run:
            run.record([(str(key), answer(key)) for key, (_, done) in recorded.items() if done])
        same = {key for key, (payload, _) in recorded.items() if wanted.get(key) == payload}
        given = [Item(str(key), payload) for key, payload in given_items]
        differs = wanted != {key: payload for key, (payload, _) in recorded.items()}
        if differs:
            with pytest.raises(RunChangedError):
                journal.resume_run("one", config={}, items=given)
        with journal.resume_run("one", config={}, items=given, accept_changes=True) as run:
            kept = [key for key in recorded if key in same and recorded[key][1]]
            order = [key for key in recorded if key in wanted]
            order += [key for key, _ in given_items if key not in recorded]
            assert [key for key, _ in journal.outcomes("one")] == [str(key) for key in kept]
            assert list(run.pending()) == [str(key) for key in order if key not in kept]
            assert {key: run.payload(str(key)) for key in wanted} == wanted
            assert sum(run.counts().values()) == len(kept)
        digest = journal.info("one").inputs_digest
        journal.resume_run("one", config={}, items=given[::-1]).close()
        # The digest depends on keys and contents alone, whichever way the run came to them.
        journal.create_run("test", config={}, items=given, run_id="two").close()
        assert journal.info("two").inputs_digest == digest
        with journal.resume_run("one", config={}, items=items, accept_changes=True) as run:
            back = dict(journal.outcomes("one"))
            assert back == {str(key): answer(key) for key, (_, done) in recorded.items() if done}
            assert {key: run.payload(str(key)) for key in recorded} == {
                key: payload for key, (payload, _) in recorded.items()
            }
