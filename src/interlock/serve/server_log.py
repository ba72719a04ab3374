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

from interlock.kernel.events import JsonlLogger

Log = Callable[..., None]
"""`log(event, **fields)`."""


def open_log(place: str) -> Log:
    """A log to "stderr", to nowhere with "none", or to a file; raises StorageError."""
    if place == "none":
        return lambda event, **fields: None
    if place != "stderr":
        write = JsonlLogger(place)
        return lambda event, **fields: write({"event": event, **fields})
    lock = threading.Lock()

    def to_stderr(event: str, **fields: object) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = msgspec.json.encode({"time": now, "event": event, **fields}) + b"\n"
        with lock:
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()

    return to_stderr


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
            form=record.msg if isinstance(record.msg, str) and not error else "",
            error=None if error is None else error.__name__,
        )
