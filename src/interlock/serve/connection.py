"""HTTP connections with limits that uvicorn leaves open: a head's size and time, slow readers."""

from __future__ import annotations

import asyncio
from collections import deque

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

LEFT = "left"
"""In a request's state where its client left before the whole answer was written."""

MOST_PIPELINED = 100
"""Requests of one connection that wait for the answer to the one before."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\n"
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n"
_REST = b"content-length: 0\r\nconnection: close\r\n\r\n"


def limited_protocol(
    *, head_bytes: int, head_seconds: float, send_seconds: float, connections: int
) -> type[HttpToolsProtocol]:
    """The protocol class with the limits of one server."""

    class LimitedProtocol(HttpToolsProtocol):
        """Ends a connection whose head is too large or too late, or whose reader stops reading.

        A body that nobody reads, since its request has been answered, must end as soon as a head.
        """

        _head_timer: asyncio.TimerHandle | None = None
        _write_timer: asyncio.TimerHandle | None = None
        # Bytes since the last request ended, while its successor's head is not complete.
        _head: int | None = 0
        # Bytes of the headers behind a chunked body, which are kept like those before it.
        _trailers = 0
        # Requests whose answer is not complete, in order; the last of them is uvicorn's `cycle`.
        _unanswered: deque[RequestResponseCycle]

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._unanswered = deque()
            if len(self.connections) > connections:
                self._end(_FULL)
                return
            self._arm_head_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._head_timer, self._write_timer):
                if timer is not None:
                    timer.cancel()
            # uvicorn tells the last request only, and the first one is the one that runs.
            for cycle in self._unanswered:
                if not cycle.response_complete:
                    cycle.scope["state"][LEFT] = True
                    cycle.disconnected = True
                    cycle.message_event.set()
            self._unanswered.clear()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._head is not None:
                if self._head_timer is None:
                    # The first bytes after an idle time: from here on its sender is timed.
                    self._arm_head_timer()
                self._head += len(data)
                before = self._head
                super().data_received(data)
                # Where it is not None still, all that arrived belongs to an unfinished head.
                if self._head == before and before > head_bytes:
                    self._end(_TOO_LARGE)
                return
            super().data_received(data)

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._head is None:
                self._trailers += len(name) + len(value) + 4
                if self._trailers > head_bytes:
                    self._abort()
                return
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            # The parser stops at what is raised; else it would make requests of all that arrived.
            if len(self.pipeline) >= MOST_PIPELINED:
                # They are held before a token or a rate is asked for.
                self._abort()
                raise ConnectionAbortedError
            size = len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers)
            if size > head_bytes:
                self._end(_TOO_LARGE)
                raise ConnectionAbortedError
            self._head = None
            self._trailers = 0
            self._unset_head_timer()
            # Of the request before, where it was answered before its body had come.
            self._unset_keepalive_if_required()
            super().on_headers_complete()
            self._forget_answered()
            self._unanswered.append(self.cycle)

        def on_message_complete(self) -> None:
            self._head = 0
            super().on_message_complete()
            if self.cycle.response_complete and not self.transport.is_closing():
                self._unset_head_timer()
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._head is None and self.cycle.response_complete:
                self._unset_head_timer()
                self._head_timer = self.loop.call_later(head_seconds, self._abort)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._write_timer = self.loop.call_later(send_seconds, self._abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._write_timer is not None:
                self._write_timer.cancel()
                self._write_timer = None

        def _unset_head_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def send_400_response(self, msg: str) -> None:
            if self._owes():
                self._abort()
            elif not self.transport.is_closing():
                super().send_400_response(msg)

        def _arm_head_timer(self) -> None:
            self._head_timer = self.loop.call_later(head_seconds, self._late)

        def _late(self) -> None:
            if self._owes():
                self._arm_head_timer()  # an answer under way is worth more than the time
            else:
                self._end(_TOO_SLOW)

        def _owes(self) -> bool:
            """Whether what is sent now would be taken for the answer to an earlier request."""
            self._forget_answered()
            if self._head is None and len(self._unanswered) == 1:
                return self._unanswered[0].response_started  # its own body is what arrives
            return bool(self._unanswered)

        def _forget_answered(self) -> None:
            while self._unanswered and self._unanswered[0].response_complete:
                self._unanswered.popleft()

        def _end(self, status: bytes) -> None:
            if self._owes():
                self._abort()
            elif not self.transport.is_closing():
                self.transport.write(status + _REST)
                self.transport.close()

        def _abort(self) -> None:
            # What is buffered for a reader that does not read would keep the connection open.
            self.transport.abort()

    return LimitedProtocol
