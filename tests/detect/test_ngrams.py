"""Hashed n-grams."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from interlock.detect.ngrams import PADDING, ngram_ids
from interlock.detect.settings import NgramSettings


def ids(text: str, **settings: int) -> set[int]:
    return set(ngram_ids([text], NgramSettings(**settings))[0].tolist()) - {PADDING}


def test_padding_fills_shorter_windows() -> None:
    table = ngram_ids(["a longer text", "ab", ""])
    assert table.dtype == np.int64
    assert (table[2] == PADDING).all()
    assert (table[0] != PADDING).all()


def test_white_space_between_words_does_not_matter() -> None:
    assert ids("ignore all  rules") == ids(" ignore\nall rules ")


def test_a_sign_is_a_word_of_its_own() -> None:
    assert ids("stop, now") == ids("stop , now")


def test_word_pairs_see_the_order_and_characters_do_not() -> None:
    assert ids("red fox", words=1) == ids("fox red", words=1)
    assert ids("red fox", words=2) != ids("fox red", words=2)


def test_character_ngrams_stay_within_words() -> None:
    # 3 of 3, 2 of 4 and 1 of 5 characters of " ab " … and no word ids: counted by hand.
    assert len(ids("ab", words=0, shortest=3, longest=5)) == 3
    assert len(ids("ab cd", words=0, shortest=3, longest=5)) == 6


def test_a_window_has_at_most_so_many_ids() -> None:
    text = " ".join(f"word{number}" for number in range(500))
    assert ngram_ids([text], NgramSettings(most=100)).shape == (1, 100)


@given(st.lists(st.text(max_size=60), max_size=4))
def test_any_text_has_ids_in_range_that_depend_on_it_alone(texts: list[str]) -> None:
    settings = NgramSettings(buckets=1024)
    table = ngram_ids(texts, settings)
    assert table.shape[0] == len(texts)
    assert ((table >= 0) & (table < 1024)).all()
    for row, text in zip(table, texts, strict=True):
        alone = ngram_ids([text], settings)[0]
        assert row[row != PADDING].tolist() == alone[alone != PADDING].tolist()


def test_a_lone_surrogate_is_a_character_like_any_other() -> None:
    assert ids("a\ud800b")
