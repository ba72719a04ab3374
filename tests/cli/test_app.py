"""Exit codes and messages of the command line: a user's mistake is one message, never a trace."""

import json

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
