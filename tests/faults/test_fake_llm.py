"""The fake server does what its plan says, counts what it sees, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_llm import FakeLLM, Fault, Plan
from support.processes import gone

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeLLM]:
    with FakeLLM() as running:
        yield running


def send(server: FakeLLM, prompt: str, wire: str = "openai") -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of one request's response."""
    turns = [{"role": "user", "content": prompt}]
    url = f"{server.openai}/chat/completions"
    body: dict[str, Any] = {"model": "m", "messages": turns, "max_tokens": 9}
    if wire == "anthropic":
        url = f"{server.anthropic}/v1/messages"
    elif wire == "gemini":
        url = f"{server.gemini}/v1beta/models/m:generateContent"
        body = {"contents": [{"parts": [{"text": prompt}]}]}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, json.dumps(body).encode())
    try:
        with opener.open(request, timeout=60) as response:
            return response.status, dict(response.headers), json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), json.load(error)


def test_a_script_is_dealt_in_the_order_of_arrival(server: FakeLLM) -> None:
    server.plan(Plan(script=("ok", "server_error", Fault("rate_limit", retry_after=3))))
    found = [send(server, str(number)) for number in range(4)]
    assert [status for status, _, _ in found] == [200, 500, 429, 200]
    assert found[2][1]["retry-after"] == "3"
    assert [entry["kind"] for entry in server.log()] == ["ok", "server_error", "rate_limit", "ok"]


def test_a_fault_may_wait_for_a_text(server: FakeLLM) -> None:
    server.plan(Plan(matching={"needle": ("unavailable", "overloaded")}))
    prompts = ("hay", "needle", "hay", "a needle", "needle")
    assert [send(server, prompt)[0] for prompt in prompts] == [200, 503, 200, 529, 200]


def test_drawn_faults_do_not_depend_on_the_order(server: FakeLLM) -> None:
    prompts = [f"prompt {number}" for number in range(40)]
    found = []
    for order in (prompts, prompts[::-1]):
        server.plan(Plan(rates={"server_error": 0.3}, seed=5))
        found.append({prompt: send(server, prompt)[0] for prompt in order})
    assert found[0] == found[1]
    assert set(found[0].values()) == {200, 500}


def test_contents_that_come_again_are_counted(server: FakeLLM) -> None:
    server.plan(Plan(script=("server_error",)))
    for prompt in ("a", "a", "b", "a"):
        send(server, prompt)
    counts = server.counts()
    assert (counts.requests, counts.distinct, counts.repeated) == (4, 2, 2)
    assert (counts.answered, counts.answered_twice, counts.billed) == (3, 1, 3)


@pytest.mark.parametrize("wire", ["openai", "anthropic", "gemini"])
def test_a_bucket_refuses_what_is_above_its_rate(server: FakeLLM, wire: str) -> None:
    """Two requests at once and one each 100 s after."""
    server.plan(Plan(rpm=0.6, burst=200))
    found = [send(server, str(number), wire) for number in range(4)]
    assert [status for status, _, _ in found] == [200, 200, 429, 429]
    assert 0 < float(found[2][1]["retry-after"]) <= 100
    assert server.counts().kinds == {"ok": 2, "limited": 2}


def test_a_bucket_of_tokens_counts_prompt_and_answer(server: FakeLLM) -> None:
    server.plan(Plan(tpm=60 * 0.05, burst=1000, tokens=20))
    found = [send(server, "four tokens here")[0] for _ in range(4)]
    assert found == [200, 200, 429, 429]


def test_limits_are_told_where_the_vendor_tells_them(server: FakeLLM) -> None:
    server.plan(Plan(rpm=600, tpm=6000))
    assert send(server, "a")[1]["x-ratelimit-limit-requests"] == "600"
    assert send(server, "a", "anthropic")[1]["anthropic-ratelimit-tokens-limit"] == "6000"
    server.plan(Plan(rpm=600, declared=False))
    assert not [name for name in send(server, "a")[1] if "ratelimit" in name]


def test_the_server_ends_with_a_killed_parent() -> None:
    code = (
        "import sys, time; from support.fake_llm import FakeLLM; "
        "print(FakeLLM()._process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert gone(child)
