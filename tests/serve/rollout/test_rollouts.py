"""The rollouts of several models in one server."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from interlock.serve.hosting import Hosting
from interlock.serve.metrics import Metrics
from interlock.serve.rollout.control import ModelRollout
from interlock.serve.rollout.rollouts import Rollouts
from interlock.serve.settings import ModelSettings, Settings


def test_a_model_whose_disk_hangs_leaves_the_others_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {name: ModelSettings(path=f"{name}.onnx") for name in ("a", "b")}
    settings, metrics = Settings(models=models), Metrics()
    hosting = Hosting(settings, tmp_path, metrics, lambda event, **fields: None)
    rollouts = Rollouts(hosting, settings, metrics, lambda event, **fields: None)
    hung, released, others = rollouts.models["a"], threading.Event(), threading.Semaphore(0)

    def tick(self: ModelRollout) -> None:
        if self is hung:
            released.wait(30)
        else:
            others.release()

    monkeypatch.setattr(ModelRollout, "tick", tick)
    rollouts.start()
    try:
        assert all(others.acquire(timeout=10) for _ in range(2))
    finally:
        released.set()
        rollouts.close()
