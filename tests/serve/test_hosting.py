"""What is counted of a model over all of its versions never falls."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from serve.rollout.test_traffic import version
from serve.test_lane import Doubling
from support import models

from interlock.errors import ConfigError
from interlock.serve import hosting
from interlock.serve.hosting import Hosting
from interlock.serve.metrics import Metrics
from interlock.serve.opening import check_read
from interlock.serve.rollout.traffic import Traffic
from interlock.serve.served import Workers
from interlock.serve.settings import ModelSettings, Settings


class Counted(Doubling):
    """A version whose processes spent so much, and were replaced so often."""

    def __init__(self, cpu: float, replaced: int) -> None:
        super().__init__()
        self._workers = Workers(pids=(1,), cpu=cpu, replaced=replaced)

    def workers(self) -> Workers:
        return self._workers


def test_counters_do_not_fall_when_a_version_is_replaced(tmp_path: Path) -> None:
    metrics = Metrics()
    named = {"m": ModelSettings(path="x")}
    found = Hosting(Settings(models=named), tmp_path, metrics, lambda *_, **__: None)
    hosted = found.models["m"]
    old, new = version(Counted(100.0, 7)), version(Counted(1.0, 1))

    def counted() -> tuple[str, ...]:
        names = ("interlock_worker_cpu_seconds_total", "interlock_worker_replaced_total")
        lines = metrics.text().decode().splitlines()
        return tuple(line.split()[-1] for line in lines if line.startswith(names))

    hosted.traffic = Traffic(old)
    assert counted() == ("100.0", "7.0")
    assert old.enter()
    hosted.traffic = Traffic(new)
    hosted.retire(old, 30)
    assert counted() == ("101.0", "8.0")  # the old one still answers
    old.leave()
    until = time.monotonic() + 30
    while hosted.retiring:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert counted() == ("101.0", "8.0")
    new.retire(0)


def test_what_the_models_processes_read_from_disks_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A detector's, a route's and a verified model's files are read by these alone."""
    for process, read in (("self", 10), ("1", 500)):
        (tmp_path / process).mkdir()
        (tmp_path / process / "io").write_text(f"rchar: 99\nread_bytes: {read}\n")
    monkeypatch.setattr(hosting, "_PROC", tmp_path)
    metrics = Metrics()
    named = {"m": ModelSettings(path="x")}
    found = Hosting(Settings(models=named), tmp_path, metrics, lambda *_, **__: None)
    loaded = version(Counted(1.0, 0))
    found.start(lambda hosted: Traffic(loaded))
    assert 'interlock_model_load_read_bytes{model="m"} 500.0' in metrics.text().decode()
    loaded.retire(0)


def test_a_model_with_a_setting_of_another_kind_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(models.affine())
    named = {"a": ModelSettings(path="a.onnx", slots=4)}
    found = Hosting(Settings(models=named), tmp_path, Metrics(), lambda *_, **__: None)
    found.start()
    error = found.models["a"].error
    assert isinstance(error, ConfigError)
    assert error.message.startswith("models.a.slots is 4, and a.onnx is served as onnx")


def test_a_setting_that_the_candidate_reads_is_no_mistake(tmp_path: Path) -> None:
    """A model that is proved takes the place of one that is not."""
    (tmp_path / "a.onnx").write_bytes(models.affine())
    (tmp_path / "proved").mkdir()
    (tmp_path / "proved" / "model.onnx").write_bytes(models.affine())
    own = ModelSettings(path="a.onnx", mode="onnx_only", candidate="proved")
    check_read("a", own, tmp_path)
    for gone in ({"candidate": "gone"}, {"path": "gone"}):
        check_read("a", msgspec.structs.replace(own, **gone), tmp_path)
    with pytest.raises(ConfigError, match=r"models\.a\.mode is 'onnx_only'"):
        check_read("a", msgspec.structs.replace(own, candidate=None), tmp_path)
