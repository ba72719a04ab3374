"""The step of the demonstration that judges prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.detectors import write_bundle

from interlock.demo import prompts
from interlock.detect import model


def test_every_prompt_is_judged_and_a_stub_lets_none_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "SHIPPED", write_bundle(tmp_path / "bundle"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = prompts.judge()
    assert len(found.judged) == len(prompts.PROMPTS)
    assert all(prompt.found.score is not None for prompt in found.judged)
    assert found.stub == 0
    assert found.caught[1] + found.disturbed[1] == len(prompts.PROMPTS)


def test_what_the_step_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(prompts, "SHIPPED", tmp_path / "none")
    assert prompts.missing() == "a detector's bundle"
    monkeypatch.setattr(prompts, "SHIPPED", tmp_path)
    assert prompts.missing() is None
