"""Answers of late, so that a label that comes for one of them finds what it was."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from interlock.kernel.errors import InputError, RequestRejectedError


class UnknownRequestError(RequestRejectedError):
    """No answer with this request id is remembered."""

    code = "unknown_request"
    default_hint = "only the latest answers of this server are remembered, and none over a restart"


class ConflictError(RequestRejectedError):
    """What is asked for contradicts what is so already."""

    code = "conflict"


@dataclass(slots=True)
class Remembered:
    """An answer: which version gave it, and a verdict a row (1 positive, 0 negative, 2 none).

    shadow  the verdicts of a shadow that was asked the same; None where it was not, or not yet
    labels  a byte a row: 0 where no label was posted, 1 negative, 2 positive; None where none was
    """

    model: str
    digest: str
    rollout: str
    candidate: bool
    verdicts: bytes
    shadow: bytes | None = None
    labels: bytearray | None = None


@dataclass(frozen=True)
class Labelled:
    """What a label came to: the row's verdict, and whether it is counted or had been before."""

    answer: Remembered
    verdict: bool
    shadow: bool | None
    counted: bool


class Recent:
    """The latest `size` answers by request id. Safe across threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._answers: OrderedDict[str, Remembered] = OrderedDict()
        self._turn = threading.Lock()

    def put(self, request_id: str, answer: Remembered) -> None:
        """Remember an answer, and forget the oldest where there are too many."""
        with self._turn:
            self._answers[request_id] = answer
            if len(self._answers) > self._size:
                self._answers.popitem(last=False)

    def label(self, request_id: str, row: int, truth: bool) -> Labelled:
        """Take a label; the same one again changes nothing.

        Raises UnknownRequestError, InputError for a row that there is none of or that has no
        verdict, and ConflictError for another label than the first.
        """
        with self._turn:
            answer = self._answers.get(request_id)
            if answer is None:
                raise UnknownRequestError("no answer with this request_id is remembered")
            rows = len(answer.verdicts)
            if not 0 <= row < rows:
                raise InputError(f"row is {row}; the answer has {rows} rows that can be labelled")
            if answer.verdicts[row] == 2:
                raise InputError(f"row {row} has no verdict that a label could judge")
            shadow = answer.shadow
            other = None if shadow is None or shadow[row] == 2 else shadow[row] == 1
            verdict = answer.verdicts[row] == 1
            if answer.labels is None:
                answer.labels = bytearray(rows)
            before, now = answer.labels[row], 2 if truth else 1
            if before not in (0, now):
                raise ConflictError(f"row {row} has the other label already")
            answer.labels[row] = now
            return Labelled(answer, verdict, other, counted=not before)
