"""A real server in a process of its own, on a free port of the loopback."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

START_SECONDS = 120.0
_SCRIPT = Path(__file__).parent / "serve_process.py"


class Running:
    """A server that listens: its address, its log and a client."""

    def __init__(self, process: subprocess.Popen[bytes], stdout: Path) -> None:
        self.process = process
        self.stdout = stdout
        self.log: list[dict[str, Any]] = []
        self.raw_log = bytearray()  # of a long run it is large
        self._listening: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        told = self._listening.get(timeout=START_SECONDS)
        assert told is not None, f"it ended while starting: {self.raw_log.decode()}"
        self.port = int(told["port"])
        scheme = "https" if told["tls"] else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.client = httpx2.Client(base_url=self.url, timeout=60.0, verify=False)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.raw_log += line
            try:
                event = json.loads(line)
            except ValueError:
                continue
            self.log.append(event)
            if event["event"] == "listening":
                self._listening.put(event)
        self._listening.put(None)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self.client.get(path, **options)

    def infer(self, model: str, x: Any, **options: Any) -> httpx2.Response:
        """Ask `model` about its one input `x`, a float32 array."""
        array = np.asarray(x, dtype=np.float32)
        tensor = {
            "name": "x",
            "shape": list(array.shape),
            "datatype": "FP32",
            "data": array.ravel().tolist(),
        }
        return self.client.post(
            f"/v2/models/{model}/infer",
            json={"inputs": [tensor], **options.pop("body", {})},
            **options,
        )

    def metrics(self) -> str:
        text: str = self.get("/metrics").text
        return text

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait; its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.read_to_the_end()
        return code

    def read_to_the_end(self) -> None:
        """Wait for the last lines of its log; it has ended."""
        self._reader.join(60)


@contextmanager
def serving(
    directory: Path,
    models: Mapping[str, Mapping[str, Any]],
    *,
    environ: Mapping[str, str] = {},
    under: Sequence[str] = (),
    **settings: Any,
) -> Iterator[Running]:
    """`interlock serve` over `models`, name -> its settings; ended with the block, and bounded.

    under  a command that becomes the server, after it has changed its process
    """
    config = directory / "serve.json"
    document = {"production": {"port": 0, "models": models, **settings}}
    config.write_text(json.dumps(document))
    paths = [str(_SCRIPT.parents[1]), str(_SCRIPT.parents[2] / "src")]
    stdout = directory / "stdout"
    with stdout.open("wb") as out:
        process = subprocess.Popen(
            [*under, sys.executable, str(_SCRIPT), str(config)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environ},
        )
    try:
        running = Running(process, stdout)
        try:
            yield running
        finally:
            running.client.close()
            process.kill()
            process.wait(30)
            running.read_to_the_end()
    finally:
        process.kill()
        process.wait(30)
        for stream in (process.stdin, process.stderr):
            assert stream is not None
            stream.close()
