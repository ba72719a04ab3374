"""One experiment in a process of its own, measured: what `bench/experiment.py` starts.

Arguments: a JSON object. It prints one line of JSON with seconds, CPU seconds and peak memory.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interlock.engines.chat import Capabilities, ChatAnswer, ChatRequest, StopReason, Usage
from interlock.engines.chat_registry import register_chat_provider
from interlock.errors import InterruptedRunError
from interlock.experiment.run import RunOptions, run_experiment
from interlock.kernel.clock import Deadline


class Instant:
    """A provider that answers at once and keeps nothing; tells when it was asked first."""

    def __init__(self) -> None:
        self.first: float | None = None

    async def capabilities(self, model: str) -> Capabilities:
        return Capabilities(sampling=frozenset(["max_tokens", "temperature", "seed"]), paid=False)

    async def answer(self, request: ChatRequest, *, deadline: Deadline) -> ChatAnswer:
        if self.first is None:
            self.first = time.perf_counter()
        sampling = request.sampling
        return ChatAnswer(
            text=f"An answer of about so many words to {request.key}, as models give them. " * 2,
            stop=StopReason.END,
            model_version=request.model,
            usage=Usage(input=60, output=40),
            applied={"max_tokens": sampling.max_tokens, "seed": sampling.seed},
        )

    async def close(self) -> None:
        """Nothing to close."""


def peak_megabytes() -> float:
    """The most memory that this process had, in MB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmHWM in /proc/self/status")


def main(given: Mapping[str, Any]) -> None:
    """Run `given["config"]`, stopping after `stop_after` samples where that is given."""
    instant = Instant()

    def make(options: Mapping[str, Any], *, base: Path) -> Instant:
        return instant

    register_chat_provider("instant", make)
    if any(model["type"] == "openai" for model in given["config"]["models"]):
        # The peer has imported its SDK at this point too.
        importlib.import_module("openai")
    stop = threading.Event()
    seen = 0

    def count(key: str, outcome: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == given.get("stop_after"):
            stop.set()

    start, cpu = time.perf_counter(), time.process_time()
    try:
        run_experiment(
            given["config"],
            options=RunOptions(resume=given.get("resume", False)),
            display=None,
            stop=stop,
            on_result=count,
        )
    except InterruptedRunError:
        if not stop.is_set():
            raise
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "cpu": time.process_time() - cpu,
                "samples": seen,
                "peak_mb": peak_megabytes(),
                "first": None if instant.first is None else instant.first - start,
            }
        )
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
