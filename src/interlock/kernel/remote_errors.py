"""Errors that cross from a worker process to its parent, as plain values."""

from __future__ import annotations

import errno
import os
from typing import Any

from interlock.kernel.errors import (
    ConnectionLostError,
    EngineError,
    InterlockError,
    MemoryLimitError,
    MissingExtraError,
    RunChangedError,
    TransientError,
)

_CARRIED = ("wait_seconds", "extra", "changes", "sent")
_LONGEST_TEXT = 2000
_LONGEST_WAIT = 3600.0


def describe(error: BaseException) -> tuple[list[str], str, str, dict[str, Any]]:
    """Codes (nearest class first), message, hint and further attributes of an exception.

    A foreign exception's message may quote the input, so only its type is told.
    """
    if _out_of_memory(error):
        error = MemoryLimitError("the worker ran out of memory")
    elif not isinstance(error, InterlockError):
        error = EngineError(f"the worker raised {type(error).__name__}")
    told = {name: getattr(error, name) for name in _CARRIED if hasattr(error, name)}
    codes = [cls.code for cls in type(error).__mro__ if issubclass(cls, InterlockError)]
    return codes, error.message, error.hint, told


def _out_of_memory(error: BaseException) -> bool:
    match error:
        case OSError():
            return error.errno == errno.ENOMEM
        case ImportError():
            # The loader of shared libraries tells it in words only.
            return os.strerror(errno.ENOMEM) in str(error)
    return isinstance(error, MemoryError)


def rebuild(codes: list[Any], message: str, hint: str, told: dict[Any, Any]) -> InterlockError:
    """The error that `describe` described, of the nearest class known here.

    The description is not trusted: text is cut and made printable, odd values are left out.
    """
    kinds = {kind.code: kind for kind in _kinds(InterlockError)}
    kind = next((kinds[code] for code in codes if isinstance(code, str) and code in kinds), None)
    error = (kind or EngineError).__new__(kind or EngineError)
    InterlockError.__init__(error, _printable(message), hint=_printable(hint))
    if isinstance(error, TransientError):
        wait = told.get("wait_seconds")
        allowed = isinstance(wait, int | float) and 0 <= wait <= _LONGEST_WAIT
        error.wait_seconds = wait if allowed else None
        if isinstance(error, ConnectionLostError):
            # Where it is not told, the request may have been sent.
            error.sent = told.get("sent") is not False
    elif isinstance(error, MissingExtraError):
        error.extra = _printable(str(told.get("extra", "")))
    elif isinstance(error, RunChangedError):
        changes = told.get("changes")
        listed = changes if isinstance(changes, list) else []
        error.changes = tuple(_printable(str(change)) for change in listed)
    return error


def _kinds(kind: type[InterlockError]) -> list[type[InterlockError]]:
    """The class and those below it that belong to the tree itself."""
    below = [found for sub in kind.__subclasses__() for found in _kinds(sub)]
    return [kind, *below] if kind.__module__ == InterlockError.__module__ else below


def _printable(text: str) -> str:
    """The child's words without control characters, cut to a sane length."""
    return "".join(c if c.isprintable() else " " for c in text[:_LONGEST_TEXT])
