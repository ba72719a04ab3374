"""Starting the server, telling it what to do, and asking it what happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.fake_llm.plan import Plan


@dataclass(frozen=True)
class Counts:
    """What the server saw since its plan was set.

    requests        for answers, whatever became of them
    other           for lists of models
    kinds           what became of them -> how many; `limited` are the 429 of its own buckets,
                    `rejected` the 400 of parameters, `malformed` those that it could not read
    distinct        different contents among them
    repeated        requests whose content it had seen before
    answered        answers sent whole
    answered_twice  those among them to contents that had one
    billed          requests that a vendor would bill, answered or not
    most_open       requests open at once
    tokens          of the billed answers
    seconds         from the first request to the last
    """

    requests: int
    other: int
    kinds: Mapping[str, int]
    distinct: int
    repeated: int
    answered: int
    answered_twice: int
    billed: int
    most_open: int
    tokens: int
    seconds: float


class FakeLLM:
    """The running server, as a context manager."""

    def __init__(self, plan: Plan | None = None, *, lifetime: float = 900.0) -> None:
        """Start it; it ends by itself after `lifetime` seconds, and with this process."""
        tests = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.fake_llm.server", str(lifetime)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(tests)},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with {self._process.wait()}")
        self.url = f"http://127.0.0.1:{int(line)}"
        if plan is not None:
            self.plan(plan)

    @property
    def openai(self) -> str:
        """The base URL of the OpenAI wire."""
        return f"{self.url}/openai/v1"

    @property
    def anthropic(self) -> str:
        """The base URL of the Anthropic wire."""
        return f"{self.url}/anthropic"

    @property
    def gemini(self) -> str:
        """The base URL of the Gemini wire."""
        return f"{self.url}/gemini"

    def plan(self, plan: Plan) -> None:
        """Forget what happened and follow `plan`."""
        self._control("plan", plan.to_json())

    def counts(self) -> Counts:
        """What happened since the last plan."""
        return Counts(**self._control("counts"))

    def log(self) -> list[dict[str, Any]]:
        """The last `Plan.keep` requests: at (seconds), path, kind, headers and body."""
        found: list[dict[str, Any]] = self._control("log")
        return found

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def __enter__(self) -> FakeLLM:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _control(self, what: str, value: Any = None) -> Any:
        request = urllib.request.Request(f"{self.url}/control/{what}", json.dumps(value).encode())
        # Proxies of the environment have no business on loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as response:
            return json.load(response)
