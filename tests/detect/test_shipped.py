"""The bundle that ships: it loads, belongs to the shipped rules, and does what documents say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from interlock.bundle.manifest import MANIFEST
from interlock.demo.prompts import PROMPTS
from interlock.detect import Detector, create_best_l2_detector, create_onnx_only_detector
from interlock.detect.model import SHIPPED
from interlock.detect.policy import Action
from interlock.detect.rules import load_pack
from interlock.detect.settings import CARD


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return Detector.open(remember=False)


def test_it_was_fitted_to_the_rules_that_ship(shipped: Detector) -> None:
    assert shipped.model is not None
    assert shipped.model.settings.rules.pack == load_pack().digest


def test_it_passes_the_fidelity_gate_here(shipped: Detector) -> None:
    assert shipped.model is not None
    assert shipped.model.fidelity is not None
    mean, least = shipped.model.fidelity
    assert mean >= 0.99
    assert least >= 0.96


def test_it_is_small_and_has_a_card(tmp_path: Path) -> None:
    files = list(SHIPPED.iterdir())
    assert sum(path.stat().st_size for path in files) <= 30_000_000
    card = (SHIPPED / CARD).read_text("utf-8")
    for word in ("licence", "training", "threshold"):
        assert word in card.lower()
    assert (SHIPPED / MANIFEST).is_file()


def test_it_catches_the_demonstrations_attacks_and_lets_the_rest_pass(shipped: Detector) -> None:
    found = [(hostile, shipped.scan(text, place)) for hostile, place, text in PROMPTS]
    caught = [answer.action is not Action.ALLOW for hostile, answer in found if hostile]
    blocked = [answer.action is Action.BLOCK for hostile, answer in found if not hostile]
    assert sum(caught) >= len(caught) - 1
    assert not any(blocked)


def test_the_factories_find_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ONNX_MODEL_PATH", "ENVIRONMENT", "USE_ONNX_ONLY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert create_best_l2_detector().model_info["kind"] == "bundle"
    copy = tmp_path / "copy"
    shutil.copytree(SHIPPED, copy)
    detector = create_onnx_only_detector(copy / "model.onnx")
    assert detector.model_info["kind"] == "bundle"
    msgspec.json.encode(detector.model_info)


def test_reading_texts_starts_no_threads() -> None:
    """A pool of the tokenizer's, one thread a core, would be in every worker process."""
    code = """
import os
from interlock.detect.model import load_model
load_model().embed(["one", "two", "three"])
print(len(os.listdir("/proc/self/task")))
"""
    threads = {"RAYON_NUM_THREADS": "30", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | threads,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 30
