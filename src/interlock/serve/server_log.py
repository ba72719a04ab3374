"""The server's log: one JSON object a line, of fixed fields that hold nothing a client sent.

A message of an error may quote a client's input, so the log has its code; a path may be anything,
so the log has the name of the endpoint.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from interlock.kernel.errors import StorageError
from interlock.kernel.events import JsonlLogger

Log = Callable[..., None]
"""`log(event, **fields)`."""


def open_log(place: str) -> Log:
    """A log to "stderr", to nowhere with "none", or to a file; raises StorageError.

    The log itself raises nothing: a full disk must not end a request, nor stand between a decision
    that is recorded and its being taken. How many lines were lost is the first line that follows.
    """
    if place == "none":
        return lambda event, **fields: None
    if place == "stderr":
        return _lossy(_to_stderr)
    return _lossy(JsonlLogger(place))


def _lossy(write: Callable[[dict[str, object]], None]) -> Log:
    lock = threading.Lock()
    lost = 0

    def log(event: str, **fields: object) -> None:
        nonlocal lost
        with lock:
            try:
                if lost:
                    write({"event": "log_lost", "lines": lost})
                    lost = 0
                write({"event": event, **fields})
            except (StorageError, OSError, ValueError):  # ValueError: a stream that is closed
                lost += 1

    return log


def _to_stderr(fields: dict[str, object]) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    sys.stderr.buffer.write(msgspec.json.encode({"time": now, **fields}) + b"\n")
    sys.stderr.buffer.flush()


class LibraryHandler(logging.Handler):
    """Takes what uvicorn and asyncio log; of an exception only its type, of a message its form.

    Their arguments may hold a client's bytes, such as a request line that cannot be parsed.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        error = record.exc_info[0] if record.exc_info else None
        self._log(
            "library",
            level=record.levelname.lower(),
            logger=record.name,
            # Its first line: uvicorn makes a message of a whole traceback.
            form=record.msg.partition("\n")[0] if isinstance(record.msg, str) and not error else "",
            error=None if error is None else error.__name__,
        )
