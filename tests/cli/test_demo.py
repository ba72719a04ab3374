"""The demonstration, as `make demo` runs it, with fewer requests."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import gone

from interlock.cli.app import run
from interlock.demo import journalled
from interlock.errors import JournalError
from interlock.kernel.journal import Journal
from interlock.kernel.route import BatchVerdict
from interlock.strict.arm.route import JacobianGuard


@pytest.fixture(autouse=True)
def no_text_model(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty store: with a model there, the whole source is summarised, which takes minutes."""
    monkeypatch.setenv("INTERLOCK_MODELS", str(tmp_path_factory.mktemp("models")))


def test_the_demo_keeps_its_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice in one directory: the second finds the first one's journal there."""
    for _ in range(2):
        assert run(["demo", "--requests", "1000", "--output", str(tmp_path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["requests"] == sum(found["counts"].values()) == 1000
        assert found["unsafe"] == 0
        assert found["answered"] >= 0.95
        assert found["masks"]["accepted"] >= 600
        assert found["tampered"]["code"] == "bundle_integrity"
        assert found["journal"]["lost"] == found["journal"]["repeated"] == 0
        assert found["journal"]["acknowledged"] >= 500
        assert found["broken"] == []
    html = Path(found["report"]).read_text(encoding="utf-8")
    assert found["bundle"] in html


def test_a_fault_ends_it_with_1_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JacobianGuard, "check_batch", lambda self, inputs, answer: BatchVerdict())
    assert run(["demo", "--requests", "1000", "--output", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "broken promise: " in said
    assert "answers are unsafe by the independent judge" in said


@pytest.mark.parametrize("number", [999, 1_000_001])
def test_too_few_and_too_many_requests_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    output = tmp_path / "new"
    assert run(["demo", "--requests", str(number), "--output", str(output)]) == 2
    assert f"--requests is {number}" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("name", ["net", "proofs", "summary"])
def test_what_no_demo_wrote_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").touch()
    assert run(["demo", "--requests", "1000", "--output", str(tmp_path)]) == 2
    assert f"{name!r} is of no earlier demonstration" in capsys.readouterr().err
    assert (tmp_path / name / "mine").exists()


@pytest.mark.parametrize("place", ["file/below", "/proc/demo"])
def test_an_output_that_cannot_be_made_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").touch()
    assert run(["demo", "--output", str(tmp_path / place), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "storage"


def test_a_seed_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    assert run(["demo", "--seed", "-1", "--output", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()


def test_a_second_demo_in_the_same_directory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would delete the first one's run, between the kill and the resumption of it."""
    with journalled.alone(tmp_path / "journal.sqlite"):
        assert run(["demo", "--requests", "1000", "--output", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "run_locked"
    assert run(["demo", "--requests", "1000", "--output", str(tmp_path)]) == 0


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_and_no_trace(
    tmp_path: Path, kind: signal.Signals
) -> None:
    """The signal goes to the whole process group, as a terminal sends Ctrl-C."""
    command = [sys.executable, "-u", "-m", "interlock", "demo", "--requests", "4000"]
    with subprocess.Popen(
        [*command, "--output", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        children: set[int] = set()
        # Between the one that it kills and the one that goes on there is none for a moment.
        while not (children and _recorded(tmp_path / "journal.sqlite")):
            assert demo.poll() is None
            time.sleep(0.01)
            children = _working_in(tmp_path) - {demo.pid}
        os.killpg(demo.pid, kind)
        _, errors = demo.communicate(timeout=60)
    assert demo.returncode == (130 if kind is signal.SIGINT else -kind)
    assert "Traceback" not in errors
    assert all(gone(pid) for pid in children)
    assert run(["demo", "--requests", "1000", "--output", str(tmp_path)]) == 0


def _recorded(journal: Path) -> int:
    """How many items of the demonstration's run have an outcome."""
    try:
        with Journal.open(journal, create=False) as opened:
            return sum(opened.info(journalled.RUN_ID).counts.values())
    except JournalError:  # no file yet, or no tables, or no run
        return 0


def _working_in(directory: Path) -> set[int]:
    """The processes that name `directory` on their command line."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.startswith(os.fsencode(directory)) for word in words):
            found.add(int(entry.name))
    return found
