"""`interlock serve`: what it explains, what it refuses, and how it ends."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from support import models
from support.keys import self_signed
from support.serving import serving

from interlock.cli.app import run
from interlock.serve.rollout.store import Placement, RolloutStore, Running, Source


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENVIRONMENT", "INTERLOCK_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    path = tmp_path / "serve.toml"
    path.write_text('[production]\nport = 0\n[production.models.a]\npath = "affine.onnx"\n')
    return path


def test_check_explains_every_value_and_where_it_came_from(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOCK_SERVE_RATE", "5")
    assert run(["serve", str(config), "--check", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = {entry["key"]: (entry["value"], entry["source"]) for entry in told["settings"]}
    assert found["port"] == (0, "serve.toml [production]")
    assert found["rate"] == (5.0, "INTERLOCK_SERVE_RATE")
    assert found["host"] == ("127.0.0.1", "default")
    assert told["models"] == {"a": "onnx"}
    assert told["environment"] == "production"
    assert run(["serve", str(config), "--check", "--port", "1"]) == 0
    assert "command line" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve", "nowhere", "--check"], "there is no nowhere"),
        (["serve", "nowhere"], "there is no nowhere"),
        (["serve", "nowhere.toml"], "there is no nowhere.toml"),
        (["serve", "detector:nowhere"], "detector:nowhere is no detector"),
        (["serve", "a.onnx", "b/a.onnx"], "would both be called 'a'"),
        (["serve", "a.onnx", "--environment", "staging"], "no configuration file"),
        (["serve", "a.onnx", "--port", "70000"], "70000"),
        (["serve", "a.onnx", "--host", "0.0.0.0"], "no token is set"),
        (["serve", "a.onnx", "--host", "203.0.113.7", "--port", "0"], "no token is set"),
    ],
)
def test_a_mistake_is_one_message_and_code_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert shown.out == ""


def test_a_candidate_needs_a_place_for_its_state_and_must_be_there(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOCK_SERVE_MODELS_A_CANDIDATE", "affine.onnx")
    assert run(["serve", str(config), "--check"]) == 2
    assert "state is not set" in capsys.readouterr().err
    monkeypatch.setenv("INTERLOCK_SERVE_STATE", "state")
    monkeypatch.setenv("INTERLOCK_SERVE_ADMIN_TOKEN", "token-of-the-admin-0003")
    assert run(["serve", str(config), "--check"]) == 0
    shown = capsys.readouterr().out
    assert "models.a.rollback_p99_ms" in shown
    assert "token-of-the-admin" not in shown
    monkeypatch.setenv("INTERLOCK_SERVE_MODELS_A_CANDIDATE", "gone.onnx")
    assert run(["serve", str(config), "--check"]) == 2
    assert "there is no gone.onnx" in capsys.readouterr().err


def test_what_is_not_there_is_named_with_its_model(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOCK_SERVE_STATE", "state")
    monkeypatch.setenv("INTERLOCK_SERVE_MODELS_A_CANDIDATE", "gone.onnx")
    assert run(["serve", str(config), "--check"]) == 2
    assert "models.a.candidate: there is no gone.onnx" in capsys.readouterr().err
    monkeypatch.delenv("INTERLOCK_SERVE_MODELS_A_CANDIDATE")
    monkeypatch.setenv("INTERLOCK_SERVE_MODELS_A_PATH", "lost.onnx")
    assert run(["serve", str(config), "--check"]) == 2
    assert "models.a.path: there is no lost.onnx" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["file", "variable"])
def test_a_word_that_is_none_of_a_setting_is_told_with_those_that_are(
    where: str, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "file":
        config.write_text(config.read_text().replace("[production]", '[production]\nfeedback="no"'))
    else:
        monkeypatch.setenv("INTERLOCK_SERVE_FEEDBACK", "no")
    assert run(["serve", str(config), "--check"]) == 2
    shown = capsys.readouterr().err
    assert "feedback" in shown.lower()
    assert "one of 'clients', 'admin', 'off'" in shown
    assert "typing" not in shown


@pytest.mark.parametrize("content", ["", "short\n", "# only a comment\n"])
def test_a_tokens_file_must_hold_good_tokens_and_be_private(
    config: Path, content: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = config.parent / "tokens"
    tokens.write_text(content)
    tokens.chmod(0o600)
    monkeypatch.setenv("INTERLOCK_SERVE_TOKENS_FILE", "tokens")
    assert run(["serve", str(config)]) == 2
    tokens.write_text("a-token-that-is-long-enough\n")
    tokens.chmod(0o644)
    assert run(["serve", str(config)]) == 2
    assert "open to every user" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"HOST": "0.0.0.0"}, "no token is set"),
        ({"TOKENS_FILE": "gone"}, "gone cannot be read: No such file"),
        ({"ADMIN_TOKENS_FILE": "gone"}, "admin_tokens_file"),
        ({"FEEDBACK": "admin"}, "no admin token is set"),
        ({"LOG": "."}, "which is a directory"),
        ({"TLS_CERT": "gone.pem", "TLS_KEY": "key.pem"}, "gone.pem and tls_key "),
        ({"OTLP_ENDPOINT": "localhost:4318"}, "must be an http or https URL"),
    ],
)
def test_check_refuses_what_would_not_start(
    config: Path,
    changes: dict[str, str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(f"INTERLOCK_SERVE_{name}", value)
    assert run(["serve", str(config), "--check"]) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert shown.out == ""


def test_an_encrypted_key_is_refused_and_no_passphrase_asked_for(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL would ask on the terminal, and a server has nobody to answer."""
    self_signed(config.parent / "cert.pem", config.parent / "key.pem", passphrase=b"open")
    monkeypatch.setenv("INTERLOCK_SERVE_TLS_CERT", "cert.pem")
    monkeypatch.setenv("INTERLOCK_SERVE_TLS_KEY", "key.pem")
    assert run(["serve", str(config), "--check"]) == 2
    assert "tls_key is encrypted" in capsys.readouterr().err


@pytest.mark.parametrize("rest", [[], ["--check"]])
@pytest.mark.parametrize("content", ["[production]\nport = 0\n", "[production.models]\n"])
def test_a_configuration_without_a_model_is_refused(
    config: Path, content: str, rest: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be a server that is never ready."""
    config.write_text(content + '[staging.models.a]\npath = "affine.onnx"\n')
    assert run(["serve", str(config), *rest]) == 2
    shown = capsys.readouterr()
    assert "serve.toml [production]: models is empty" in shown.err
    assert shown.out == ""
    assert run(["serve", str(config), "--environment", "staging", "--check"]) == 0


@pytest.mark.parametrize("content", ["[prodction]\nport = 1\n", ""])
def test_a_file_without_a_section_is_no_model(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "serve.toml").write_text(content)
    assert run(["serve", str(tmp_path / "serve.toml")]) == 2
    told = capsys.readouterr().err
    assert "did you mean 'production'?" in told or "has no section 'production'" in told


@pytest.mark.parametrize("setting", ["policy", "calibration", "require_signature"])
def test_check_looks_for_the_files_of_a_detector(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(f'[production.models.d]\npath = "detector:shipped"\n{setting} = "gone.toml"\n')
    assert run(["serve", str(path), "--check", "--environment", "production"]) == 2
    told = capsys.readouterr().err
    assert setting in told
    assert "gone.toml" in told


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("threshold = 0.5", "detector"),
        ("anomaly = false", "detector"),
        ("slots = 4", "text"),
        ('mode = "ezkl_only"', "verified"),
        ('require_signature = "key.pem"', "bundle, detector, text"),
    ],
)
def test_a_setting_of_another_kind_of_model_is_refused(
    config: Path, setting: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text() + f"{setting}\n")
    assert run(["serve", str(config), "--check"]) == 2
    told = capsys.readouterr().err
    assert f"models.a.{setting.split()[0]} is " in told
    assert "served as onnx, which has no such setting" in told
    assert f"it is one of {kind}" in told


def test_a_default_and_what_is_so_anyway_are_no_settings_of_another_kind(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = 'slots = 8\nmode = "auto"\nenvironment = "staging"\nmerge = false\n'
    config.write_text(config.read_text() + told)
    assert run(["serve", str(config), "--check"]) == 0


def test_check_tells_what_the_state_and_the_flag_would_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promotion counts over the configuration, for the configuration that it was made under."""
    for name in ("v0", "v1", "v2"):
        (tmp_path / f"{name}.onnx").write_bytes(models.affine())
    config = tmp_path / "serve.json"
    own = {"path": "v0.onnx", "candidate": "v1.onnx"}
    config.write_text(json.dumps({"production": {"state": "state", "models": {"m": own}}}))

    def served() -> tuple[Any, ...]:
        assert run(["serve", str(config), "--check", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["served"]["m"]
        return found["path"], found["because"], found["rollout"]

    assert served() == ("v0.onnx", "configured", "v1.onnx")
    store = RolloutStore(tmp_path / "state")
    running = Running(
        id="1", mode="canary", percent=5, salt="00", candidate=Source("v2.onnx", "sha256:2"),
        started="",
    )  # fmt: skip
    placed = Placement(
        configured=("v0.onnx", None), stable=Source("v1.onnx", "sha256:1"), running=running
    )
    store.save("m", placed)
    assert served() == ("v1.onnx", "recorded in the state", "v2.onnx")  # while it is in use
    store.close()
    monkeypatch.setenv("INTERLOCK_SERVE_MODELS_M_USE_CANDIDATE", "false")
    assert served() == ("v0.onnx", "configured", None)
    monkeypatch.setenv("INTERLOCK_SERVE_MODELS_M_USE_CANDIDATE", "true")
    assert served() == ("v1.onnx", "use_candidate", None)
    monkeypatch.delenv("INTERLOCK_SERVE_MODELS_M_USE_CANDIDATE")
    monkeypatch.setenv("INTERLOCK_SERVE_MODELS_M_PATH", "v2.onnx")
    assert served() == ("v2.onnx", "configured", "v1.onnx")
    assert run(["serve", str(config), "--check"]) == 0
    assert "configured" in capsys.readouterr().out


def test_a_port_in_use_and_bad_certificates_are_told(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert run(["serve", str(config), "--port", port]) == 2
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err
    monkeypatch.setenv("INTERLOCK_SERVE_ANONYMOUS", "true")
    assert run(["serve", str(config), "--host", "a..b"]) == 2
    assert "cannot listen on a..b" in capsys.readouterr().err


def test_it_ends_with_0_on_sigterm_and_sigint_where_all_models_were_ready(tmp_path: Path) -> None:
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    for number in (signal.SIGTERM, signal.SIGINT):
        with serving(tmp_path, {"affine": {"path": "affine.onnx"}}) as running:
            assert running.stop(number) == 0
            assert "affine  ready" in running.stdout.read_text()


def test_it_ends_with_1_where_a_model_was_not(tmp_path: Path) -> None:
    with serving(tmp_path, {"gone": {"path": "gone.onnx"}}) as running:
        assert running.get("/v2/health/ready").status_code == 503
        health = running.get("/health")
        assert health.status_code == 503
        assert health.json()["status"] == "unhealthy"
        assert health.json()["error"] == "config: there is no gone.onnx"
        assert running.stop() == 1


@pytest.mark.parametrize("module", ["starlette", "uvicorn", "prometheus_client"])
def test_without_the_extra_it_says_which_one_is_missing(
    module: str,
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith(("interlock.serve.", module))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert run(["serve", str(config)]) == 2
    assert "needs the extra 'serve'" in capsys.readouterr().err
