"""Exit codes and messages of the command line: a user's mistake is one message, never a trace."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import click
import pytest

from interlock.cli import app
from interlock.errors import (
    BundleIntegrityError,
    ConfigError,
    InterruptedRunError,
    MissingExtraError,
    StorageError,
)
from interlock.kernel.journal import Item, Journal


def behave(monkeypatch: pytest.MonkeyPatch, act: BaseException | int | None) -> None:
    @click.command("try")
    @click.option("--json", "as_json", is_flag=True)
    def command(as_json: bool) -> int | None:
        if isinstance(act, BaseException):
            raise act
        return act

    monkeypatch.setattr(app.interlock, "get_command", lambda ctx, name: command)


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (None, 0),
        (0, 0),
        (1, 1),
        (ConfigError("tau is -1"), 2),
        (MissingExtraError("sign", "signing"), 2),
        (BundleIntegrityError("model.onnx differs"), 1),
        (StorageError("disk full"), 1),
        (InterruptedRunError("stopped"), 130),
        (KeyboardInterrupt(), 130),
        (PermissionError(13, "Permission denied", "model.onnx"), 1),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    act: BaseException | int | None,
    code: int,
) -> None:
    behave(monkeypatch, act)
    assert app.run(["try"]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_an_error_prints_its_message_and_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    behave(monkeypatch, MissingExtraError("sign", "signing"))
    app.run(["try"])
    assert capsys.readouterr().err == (
        "interlock: signing needs the extra 'sign'\n  hint: pip install 'interlock[sign]'\n"
    )


def test_a_message_that_quotes_a_file_steers_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    behave(monkeypatch, ConfigError("the field a\x1b[2J\rb\nand another", hint="see \x9b1m"))
    assert app.run(["try"]) == 2
    assert capsys.readouterr().err == (
        "interlock: the field a\\x1b[2J\\rb\nand another\n  hint: see \\x9b1m\n"
    )


def test_with_json_an_error_is_one_document_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    behave(monkeypatch, BundleIntegrityError("model.onnx differs"))
    assert app.run(["try", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["code"] == "bundle_integrity"
    assert document["error"]["message"] == "model.onnx differs"


def test_an_unknown_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["nonsense"]) == 2
    assert "No such command 'nonsense'" in capsys.readouterr().err


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(verb in listed for verb in app.VERBS)


@pytest.mark.parametrize("arguments", [[], ["runs"], ["bundle"]])
def test_without_a_verb_the_help_is_printed_as_it_is(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert app.run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(" ".join(["Usage: interlock", *arguments]))
    assert "hint" not in printed.err


def test_the_hint_names_the_command_that_was_misused(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["runs", "list", "--jornal", "x"]) == 2
    assert "see `interlock runs list --help`" in capsys.readouterr().err


def test_the_systems_own_error_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    behave(monkeypatch, PermissionError(13, "Permission denied", "model.onnx"))
    assert app.run(["try"]) == 1
    assert capsys.readouterr().err == "interlock: model.onnx: Permission denied\n"
    assert app.run(["try", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["error"] == {
        "code": "storage",
        "message": "model.onnx: Permission denied",
        "hint": "",
        "retryable": False,
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "memory_limit"),
        (RuntimeError("can't start new thread"), "engine_unavailable"),
    ],
)
def test_a_machine_without_memory_or_threads_is_one_message(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: str,
) -> None:
    behave(monkeypatch, error)
    assert app.run(["try", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_a_file_that_ends_early_is_no_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, EOFError("no data left"))
    with pytest.raises(EOFError, match="no data left"):
        app.run(["try"])


def test_a_defect_of_ours_keeps_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        app.run(["try"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--help"], "No space left"), (["runs", "list", "--json"], "there is no journal")],
)
def test_a_full_disk_behind_standard_output_is_one_message(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "interlock", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("interlock: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_goes_away_is_no_error_message() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "interlock", "--help"], stdout=closed, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (1, b"")


def interlock(*arguments: str, stdout: int | IO[bytes], **environment: str) -> tuple[int, str]:
    """Exit code and standard error of the command as a process."""
    done = subprocess.run(
        [sys.executable, "-m", "interlock", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        check=False,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_the_locale_changes_no_document_and_breaks_no_table(tmp_path: Path, encoding: str) -> None:
    path, out = tmp_path / "journal.sqlite", tmp_path / "out"
    with Journal.open(path) as journal:
        journal.create_run("é → ü", config={}, items=[Item("é", "→")], run_id="r").close()
    texts = []
    for arguments in (["list", "--json"], ["export", "r"], ["show", "r"], ["show", "→"]):
        with out.open("wb") as file:
            code, error = interlock(
                "runs", *arguments, "--journal", str(path), stdout=file, PYTHONIOENCODING=encoding
            )
        assert code == (arguments[-1] == "→")
        assert "Traceback" not in error
        texts.append(out.read_bytes())
    assert json.loads(texts[0])["runs"][0]["name"] == "é → ü"
    assert json.loads(texts[1])["payload"] == "→"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["export", "r"]])
def test_output_that_cannot_be_written_is_one_message(tmp_path: Path, arguments: list[str]) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal.open(path) as journal:
        journal.create_run("test", config={}, items=[Item("a")], run_id="r").close()
    with Path("/dev/full").open("wb") as full:
        code, error = interlock("runs", *arguments, "--journal", str(path), stdout=full)
    assert (code, error) == (1, f"interlock: {os.strerror(errno.ENOSPC)}\n")


_OPENS_A_FILE = """
import sys
from interlock.cli import app

path, told = sys.argv[1:]
run = app.run

def opening(arguments):
    with open(told, "w") as file:
        file.write(str(file.fileno()))
    return run(arguments)

app.run = opening
app.main(["runs", "export", "r", "--journal", path])
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_were_closed_before_the_start(tmp_path: Path, closed: str) -> None:
    """No trace, and no file that is opened gets the number of a standard stream."""
    path, told = tmp_path / "journal.sqlite", tmp_path / "told"
    files = (str(path), str(told))
    with Journal.open(path) as journal:
        journal.create_run("test", config={}, items=[Item("a")], run_id="r").close()
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", _OPENS_A_FILE, *files],
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert bool(done.stdout) == (">&-" not in closed.split())
    assert int(told.read_text()) > 2
