"""Labels find the answer that they are for."""

from __future__ import annotations

import pytest

from interlock.errors import InputError
from interlock.serve.rollout.recent import ConflictError, Recent, Remembered, UnknownRequestError


def answer(verdicts: bytes = bytes([1, 0, 2])) -> Remembered:
    return Remembered("m", "sha256:0", "r", False, verdicts)


def test_a_label_counts_once_however_often_it_is_posted() -> None:
    recent = Recent(10)
    recent.put("a", answer())
    assert recent.label("a", 0, True).counted
    assert not recent.label("a", 0, True).counted
    assert recent.label("a", 1, True).counted
    with pytest.raises(ConflictError, match="row 0 has the other label"):
        recent.label("a", 0, False)


def test_a_row_without_a_verdict_cannot_be_labelled() -> None:
    recent = Recent(10)
    recent.put("a", answer())
    with pytest.raises(InputError, match="row 2 has no verdict"):
        recent.label("a", 2, True)
    for row in (-1, 3):
        with pytest.raises(InputError, match=f"row is {row}"):
            recent.label("a", row, True)


def test_only_the_latest_answers_are_remembered() -> None:
    recent = Recent(3)
    for k in range(5):
        recent.put(str(k), answer())
    for k in (0, 1):
        with pytest.raises(UnknownRequestError):
            recent.label(str(k), 0, True)
    assert recent.label("4", 0, True).verdict


def test_a_label_judges_a_shadow_as_well() -> None:
    recent = Recent(3)
    kept = answer(bytes([0]))
    recent.put("a", kept)
    kept.shadow = bytes([1])
    found = recent.label("a", 0, False)
    assert (found.verdict, found.shadow) == (False, True)
