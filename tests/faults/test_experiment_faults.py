"""Every fault of a service, through every vendor's SDK, ends as one typed record of a run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.fake_llm import FAULTS, FakeLLM, Fault, Plan

from interlock.experiment.records import read_results
from interlock.experiment.run import run_experiment

RETRIES = 1
# fault -> status, error type or flag, requests that the policy sends
ONCE, TWICE = 1, 1 + RETRIES
EXPECTED: dict[str, tuple[str, str | None, int]] = {
    "ok": ("accepted", None, ONCE),
    "rate_limit": ("failed", "rate_limit", TWICE),
    "server_error": ("failed", "service", TWICE),
    "unavailable": ("failed", "service", TWICE),
    "overloaded": ("failed", "service", TWICE),
    "hang": ("failed", "deadline", TWICE),
    "reset_after": ("failed", "connection_lost", TWICE),
    "slow_drip": ("failed", "deadline", TWICE),
    "broken_json": ("failed", "malformed_answer", ONCE),
    "html": ("failed", "malformed_answer", ONCE),
    "empty": ("failed", "malformed_answer", ONCE),
    "empty_body": ("failed", "malformed_answer", ONCE),
    "refusal": ("flagged", "refusal", ONCE),
    "max_tokens": ("flagged", "max_tokens", ONCE),
    "content_filter": ("refused", "content_filter", ONCE),
    "bad_request": ("failed", "request_rejected", ONCE),
    "not_found": ("failed", None, ONCE),
    "too_large": ("failed", "request_rejected", ONCE),
}
# A cut body is malformed or a lost connection, as the SDK tells it; what the vendors' wires say of
# these differs too.
ELSEWHERE = {"truncated", "prompt_blocked", "reset_before", "quota", "unauthorized", "forbidden"}
MODELS = {
    "openai": "gpt-4o-mini",
    "claude": "claude-3-5-haiku-latest",
    "gemini": "gemini-2.5-flash",
}
PACKAGES = {"openai": "openai", "claude": "anthropic", "gemini": "google.genai"}


def test_every_fault_is_expected_here_or_elsewhere() -> None:
    assert EXPECTED.keys() | ELSEWHERE == FAULTS.keys()


@pytest.mark.parametrize("kind", MODELS)
def test_every_fault_ends_as_one_typed_record(kind: str, tmp_path: Path) -> None:
    pytest.importorskip(PACKAGES[kind])
    prompts = [{"id": fault, "prompt": f"What of fault-{fault}-here?"} for fault in EXPECTED]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    plan = Plan(
        matching={
            f"fault-{fault}-here": (Fault(fault, drip_seconds=0.2),) * TWICE for fault in EXPECTED
        },
        keep=1000,
    )
    with FakeLLM(plan) as server:
        urls = {"openai": server.openai, "claude": server.anthropic, "gemini": server.gemini}
        config: dict[str, Any] = {
            "prompts_file": str(tmp_path / "prompts.json"),
            "output_dir": str(tmp_path / "out"),
            "max_retries": RETRIES,
            "timeout": 1.5,
            "concurrency": len(EXPECTED),
            "models": [
                {
                    "name": MODELS[kind],
                    "type": kind,
                    "temperature": 0.0,
                    "api_key": "${FAULTS_KEY}",
                    "base_url": urls[kind],
                }
            ],
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FAULTS_KEY", "sk-faults")
            run_experiment(config, display=None)
        requests = Counter(
            fault
            for entry in server.log()
            for fault in EXPECTED
            if f"fault-{fault}-here" in entry["body"]
        )
    found = list(read_results(tmp_path / "out"))
    assert len(found) == len(EXPECTED)
    for result in found:
        status, reason, sent = EXPECTED[result.prompt_id]
        if (kind, result.prompt_id) == ("gemini", "refusal"):
            # Gemini has no word for declining: its classifiers stop an answer as a filter does.
            status, reason = "refused", "content_filter"
        told = f"{kind}, {result.prompt_id}: {result.error_detail}"
        assert result.status == status, told
        if reason is not None:
            assert (result.error_type or result.flag) == reason, told
        assert requests[result.prompt_id] == sent, told
        assert (result.error is None) == (status in ("accepted", "flagged")), told
        assert "sk-faults" not in str(result)
        assert result.prompt_id == "ok" or "fault-" not in (result.error_detail or ""), told
