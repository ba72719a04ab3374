"""A server on 127.0.0.1 that gives the same response to every POST, byte for byte as told."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def canned(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The server's URL; it knows no list of models."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # the name that http.server looks for
            self._send(404, b"{}", {})

        def do_POST(self) -> None:  # as above
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self._send(status, body, headers or {})

        def _send(self, code: int, data: bytes, more: Mapping[str, str]) -> None:
            self.send_response(code)
            for name, value in ({"content-type": "application/json"} | dict(more)).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
