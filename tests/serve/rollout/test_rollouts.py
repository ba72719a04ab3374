"""The rollouts of several models in one server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.errors import StorageError
from interlock.serve.hosting import Hosting
from interlock.serve.metrics import Metrics
from interlock.serve.rollout import rollouts
from interlock.serve.rollout.control import ModelRollout
from interlock.serve.rollout.rollouts import Rollouts
from interlock.serve.rollout.store import Placement
from interlock.serve.settings import ModelSettings, Settings


class Hanging:
    """Rollouts of two models, of which the looks at one hang until `released`."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        models = {name: ModelSettings(path=f"{name}.onnx") for name in ("a", "b")}
        settings, metrics = Settings(models=models, state=str(place / "state")), Metrics()
        hosting = Hosting(settings, place, metrics, lambda event, **fields: None)
        self.rollouts = Rollouts(hosting, settings, metrics, lambda event, **fields: None)
        self.hangs, self.released = threading.Event(), threading.Event()
        self.others = threading.Semaphore(0)
        hung = self.rollouts.models["a"]

        def tick(model: ModelRollout) -> None:
            if model is hung:
                self.hangs.set()
                self.released.wait(30)
            else:
                self.others.release()

        monkeypatch.setattr(ModelRollout, "tick", tick)
        self.rollouts.start()


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    found = Hanging(tmp_path, monkeypatch)
    yield found
    found.released.set()
    found.rollouts.close()


def test_a_model_whose_disk_hangs_leaves_the_others_judged(hanging: Hanging) -> None:
    assert all(hanging.others.acquire(timeout=10) for _ in range(2))


def test_a_look_that_hangs_does_not_keep_the_server_from_its_end(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "CLOSE_SECONDS", 0.1)
    assert hanging.hangs.wait(10)
    closing = threading.Thread(target=hanging.rollouts.close)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()
    # What the look would still come to is not recorded.
    store = hanging.rollouts.store
    assert store is not None
    with pytest.raises(StorageError):
        store.save("a", Placement(configured=("a.onnx", None)))
