"""Turns of a conversation: each judged by itself, and together with the ones before it.

An attack can be split over turns that are harmless one by one. What is judged together are the
latest turns that were let through, with a mark or without; one that was held would taint every turn
after it.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import TYPE_CHECKING

from interlock.detect.policy import Action
from interlock.detect.results import Detection
from interlock.kernel.errors import InputError

if TYPE_CHECKING:
    from interlock.detect.detector import Detector

PLACES = {"user": "user", "tool": "document", "document": "document"}
"""Role of a turn -> place of its text. What the system or the assistant says is not judged."""


class Conversation:
    """The turns of one conversation. Of one thread.

    turns       earlier turns that are looked at together with a new one
    characters  most characters of those
    """

    def __init__(self, detector: Detector, *, turns: int = 4, characters: int = 4000) -> None:
        """Raise InputError for a negative number."""
        if turns < 0 or characters < 0:
            raise InputError(f"turns is {turns}, characters {characters}; they must be 0 or more")
        self._detector = detector
        self._earlier: deque[tuple[str, Action]] = deque(maxlen=turns)
        self._characters = characters

    def add(self, text: str, role: str = "user") -> Detection:
        """The answer for a turn; the severer of its own and that with the turns before it.

        Where the turns together are worse than any of them, the first reason says so, and spans
        lie within this turn. Raises InputError for another role than `user`, `tool` or `document`.
        """
        place = PLACES.get(role)
        if place is None:
            raise InputError(f"role is {role!r}; it must be one of {', '.join(PLACES)}")
        found = self._judged(text, place)
        if found.action.rank <= Action.FLAG.rank:
            self._earlier.append((text, found.action))
        return found

    def _judged(self, text: str, place: str) -> Detection:
        alone = self._detector.scan(text, place)
        earlier = self._before()
        if not earlier or alone.action is Action.BLOCK:
            return alone
        before = "\n".join(turn for turn, _ in earlier) + "\n"
        together = self._detector.scan(before + text, place)
        # What an earlier turn was marked for, it is not marked for again.
        known = max(alone.action.rank, *(action.rank for _, action in earlier))
        if together.action.rank <= known:
            return alone
        return _of_last(together, alone, len(before), len(earlier))

    def _before(self) -> list[tuple[str, Action]]:
        room = self._characters
        found: list[tuple[str, Action]] = []
        for turn, action in reversed(self._earlier):
            if room <= 0:
                break
            # Of a turn that is too long its end counts: the next one goes on from there.
            found.append((turn[-room:], action))
            room -= len(turn)
        return found[::-1]


def _of_last(together: Detection, alone: Detection, offset: int, turns: int) -> Detection:
    size = alone.characters
    noun = "turn" if turns == 1 else "turns"
    return dataclasses.replace(
        together,
        reasons=(f"only together with the {turns} {noun} before", *together.reasons),
        spans=tuple(
            dataclasses.replace(
                span, start=max(0, span.start - offset), end=min(size, span.end - offset)
            )
            for span in together.spans
            if span.end > offset
        ),
        windows=tuple(
            dataclasses.replace(
                window, start=max(0, window.start - offset), end=min(size, window.end - offset)
            )
            for window in together.windows
            if window.end > offset
        ),
        digest=alone.digest,
        characters=size,
    )
