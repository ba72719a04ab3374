"""`interlock doctor`: real deployments, a sound one and broken ones."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from support import models
from support.bundles import strict_bundle
from support.detectors import write_bundle

from interlock.cli.app import run
from interlock.serve import doctor_isolated
from interlock.serve.rollout.store import Placement, RolloutStore, Source
from interlock.serve.rollout.store import Running as RolloutRunning

SOUND = '[production]\nrate = 50.0\n[production.models.strict]\npath = "bundle"\n'


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENVIRONMENT", "INTERLOCK_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    strict_bundle(tmp_path / "bundle")
    (tmp_path / "serve.toml").write_text(SOUND)
    return tmp_path


def examined(place: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Exit code, and item -> finding."""
    code = run(["doctor", "--deployment", str(place), "--calls", "1000", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["for_people"]
    return code, {found["item"]: found for found in told["findings"]}


# Targets of time are about the machine, and so are not asserted here.
TIMED = ("initialisation", "mean inference time", "P95 inference time", "P99 inference time")


def test_a_sound_deployment_passes_all_that_is_not_a_matter_of_speed(
    deployment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, found = examined(deployment, capsys)
    for item, finding in found.items():
        if not item.endswith(TIMED):
            assert finding["result"] in ("pass", "warn", "skip"), finding
    assert found["strict: inferences complete"]["detail"] == "1000 calls, none failed"
    assert found["strict: memory gained over 800 calls"]["result"] == "pass"
    assert found["no text of a request in the log or the metrics"]["result"] == "pass"
    assert found["open files"]["result"] == "pass"
    assert found["strict: integrity"]["result"] == "warn"  # no digest is named
    for item in TIMED:
        assert "the target is below" in found[f"strict: {item}"]["detail"]
    network = found["strict: no network during inference"]
    assert network["result"] == "pass" or "no network of its own" in network["detail"]


def test_a_changed_bundle_and_files_for_everybody_fail(
    deployment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = deployment / "bundle" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    model.chmod(0o666)
    code, found = examined(deployment, capsys)
    assert code == 1
    assert found["strict: loads and passes its self-test"]["result"] == "fail"
    assert "SHA-256" in found["strict: loads and passes its self-test"]["detail"]
    assert "every user may change" in found["strict: permissions"]["detail"]
    assert found["every model is ready"]["result"] == "fail"
    assert "strict: no network during inference" not in found


def quick(deployment: Path) -> None:
    """A smaller model, where the doctor is asked about what stands around it."""
    shutil.rmtree(deployment / "bundle")
    for number in (0, 1):
        (deployment / f"v{number}.onnx").write_bytes(models.shifted(number))


@pytest.mark.parametrize("what", ["serve.toml", ".", "state", "state/rollout.sqlite"])
def test_what_decides_on_the_model_is_not_for_every_user_to_change(
    deployment: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever may write the configuration, the state, or a directory above, names the model."""
    quick(deployment)
    text = '[production]\nstate = "state"\n[production.models.m]\npath = "v0.onnx"\n'
    (deployment / "serve.toml").write_text(text)
    RolloutStore(deployment / "state").close()
    _, found = examined(deployment, capsys)
    items = ("the configuration: permissions", "the state can be kept", "m: permissions")
    assert all(found[item]["result"] == "pass" for item in items)
    place = deployment / what
    place.chmod(0o777)
    try:
        code, found = examined(deployment, capsys)
    finally:
        place.chmod(0o700)
    assert code == 1
    told = [found[item]["detail"] for item in items if found[item]["result"] == "fail"]
    assert told
    assert all(f"every user may change {place}" in one for one in told)


@pytest.mark.parametrize("broken", ["file", "content"])
def test_a_state_in_which_nothing_could_be_recorded_is_a_finding(
    deployment: Path, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quick(deployment)
    text = '[production]\nstate = "state"\n[production.models.m]\npath = "v0.onnx"\n'
    (deployment / "serve.toml").write_text(text)
    if broken == "content":
        (deployment / "state").mkdir()
        (deployment / "state" / "rollout.sqlite").write_text("no database " * 1000)
    else:
        (deployment / "state").write_text("")
    code, found = examined(deployment, capsys)
    assert code == 1
    assert found["the state can be kept"]["result"] == "fail"
    assert found["every model is ready"]["result"] == "pass"  # and the list goes on


@pytest.mark.parametrize(
    ("own", "result", "told"),
    [
        ({}, "pass", "v1.onnx is sha256:"),
        ({"candidate": "gone.onnx"}, "fail", "there is no gone.onnx"),
        ({"candidate_digest": "sha256:" + 64 * "0"}, "fail", "expected sha256:0000"),
        ({"candidate": "affine.onnx"}, "fail", "differ from the old one's"),
        ({"candidate": "same.onnx"}, "warn", "is what is served already"),
    ],
)
def test_a_candidate_that_could_not_be_rolled_out_is_a_finding(
    deployment: Path,
    own: dict[str, Any],
    result: str,
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quick(deployment)
    (deployment / "affine.onnx").write_bytes(models.gather())
    (deployment / "same.onnx").write_bytes(models.shifted(0))
    (deployment / "serve.toml").unlink()
    named = {"path": "v0.onnx", "candidate": "v1.onnx"} | own
    document = {"production": {"state": "state", "models": {"m": named}}}
    (deployment / "serve.json").write_text(json.dumps(document))
    code, found = examined(deployment, capsys)
    finding = found["m: its candidate can be rolled out"]
    assert finding["result"] == result
    assert told in finding["detail"]
    assert code == 1 if result == "fail" else True


def test_a_policy_that_is_gone_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "bundle")
    text = '[production.models.d]\npath = "bundle"\npolicy = "gone.toml"\n'
    (tmp_path / "serve.toml").write_text(text)
    code, found = examined(tmp_path, capsys)
    assert code == 1
    assert found["d: loads and passes its self-test"]["result"] == "fail"
    assert "gone.toml" in found["d: loads and passes its self-test"]["detail"]


def test_the_candidate_of_a_rollout_under_way_is_the_recorded_one(
    deployment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick(deployment)
    text = '[production]\nstate = "state"\n[production.models.m]\npath = "v0.onnx"\n'
    (deployment / "serve.toml").write_text(text)
    running = RolloutRunning(
        id="1", mode="canary", percent=5, salt="00" * 16, started="",
        candidate=Source("v1.onnx", "sha256:" + 64 * "1"),
    )  # fmt: skip
    store = RolloutStore(deployment / "state")
    store.save("m", Placement(configured=("v0.onnx", None), running=running))
    store.close()
    code, found = examined(deployment, capsys)
    assert code == 1
    told = found["m: its candidate can be rolled out"]["detail"]
    assert "expected sha256:1111" in told


def test_a_server_that_would_stand_open_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    config = tmp_path / "serve.toml"
    config.write_text(
        '[production]\nhost = "0.0.0.0"\n[production.models.a]\npath = "affine.onnx"\n'
    )
    code, found = examined(config, capsys)
    assert code == 1
    assert found["who may reach it"]["result"] == "fail"
    assert "TLS" not in found  # the server does not start at all


def test_more_connections_than_files_may_be_open_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    config = tmp_path / "serve.toml"
    config.write_text('[production.models.a]\npath = "affine.onnx"\n')
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 512))
    code, found = examined(config, capsys)
    assert code == 1
    assert found["open files"]["result"] == "fail"
    assert "set connections to 444 or less" in found["open files"]["detail"]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "no configuration"),
        ({"a.toml": SOUND, "b.toml": SOUND}, "several configurations"),
        ({"a.toml": "[production]\nrates = 1\n"}, "'rates' is unknown"),
    ],
)
def test_a_mistake_is_one_message_and_code_2(
    tmp_path: Path, files: dict[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert run(["doctor", "--deployment", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err


ATTEMPT = """
import socket, sys
from interlock.serve import doctor_isolated as isolated
refused = isolated.isolate()
if refused:
    print("refused", refused)
    sys.exit()
before = isolated.attempts()
try:
    socket.create_connection(("192.0.2.1", 9), timeout=1)
except OSError:
    pass
print(isolated.attempts() - before)
"""


def test_an_attempt_to_reach_a_network_is_counted() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", ATTEMPT], capture_output=True, text=True, check=True
    )
    if ran.stdout.startswith("refused"):
        pytest.skip(ran.stdout)
    assert int(ran.stdout) > 0
    assert doctor_isolated.attempts() >= 0


def test_a_model_without_a_configuration_is_a_deployment(
    deployment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(deployment / "bundle", deployment / "alone")
    _, found = examined(deployment / "alone", capsys)
    assert found["model: loads and passes its self-test"]["result"] == "pass"


def test_a_deployment_with_a_candidate_and_files_beside_its_model_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor's own server stands elsewhere and keeps no state; it must start all the same."""
    write_bundle(tmp_path / "bundle")
    shutil.copytree(tmp_path / "bundle", tmp_path / "next")
    policy = resources.files("interlock.detect") / "pack" / "policy.toml"
    (tmp_path / "policy.toml").write_bytes(policy.read_bytes())
    own = {"path": "bundle", "policy": "policy.toml", "candidate": "next"}
    document = {"production": {"state": "state", "models": {"d": own}}}
    (tmp_path / "serve.json").write_text(json.dumps(document))
    for flag in ("", "true"):
        if flag:
            monkeypatch.setenv("INTERLOCK_SERVE_MODELS_D_USE_CANDIDATE", flag)
        _, found = examined(tmp_path, capsys)
        assert found["the server starts"]["result"] == "pass"
        assert found["every model is ready"]["result"] == "pass"
        assert found["d: its files"]["detail"].startswith("next " if flag else "bundle ")


def test_a_directory_may_hold_files_that_are_no_configuration(
    deployment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (deployment / "labels.json").write_text("[1, 2]")
    _, found = examined(deployment, capsys)
    assert found["every model is ready"]["result"] == "pass"
    # It may be the one that is served, so it is not passed over.
    (deployment / "broken.toml").write_text("[production")
    assert run(["doctor", "--deployment", str(deployment)]) == 2
    told = capsys.readouterr().err
    assert "broken.toml: " in told
    assert "hint: name the configuration" in told


def test_a_link_that_leads_nowhere_is_a_finding(
    deployment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (deployment / "bundle" / "notes").symlink_to(deployment / "gone")
    code, found = examined(deployment, capsys)
    assert code == 1
    assert "notes cannot be read" in found["strict: permissions"]["detail"]


def test_a_directory_in_place_of_a_model_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net" / "model.onnx").mkdir(parents=True)
    (tmp_path / "m.onnx").mkdir()
    named = "[production]\n"
    for name, path in (("net", "net"), ("file", "m.onnx"), ("kind", "m.onnx")):
        named += f'[production.models.{name}]\npath = "{path}"\n'
    (tmp_path / "serve.toml").write_text(named + 'kind = "onnx"\n')
    code, found = examined(tmp_path, capsys)
    assert code == 1
    for item in ("net: loads and passes its self-test", "file: its files"):
        assert found[item]["result"] == "fail"
    assert found["kind: loads and passes its self-test"]["result"] == "fail"


def test_an_environment_is_no_part_of_a_model(
    deployment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(deployment / "bundle")
    assert run(["doctor", "--deployment", bundle, "--environment", "staging"]) == 2
    assert "no configuration file" in capsys.readouterr().err


def test_a_token_in_a_configuration_that_every_user_can_read_fails(
    deployment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = deployment / "serve.toml"
    config.write_text(SOUND.replace("rate", 'token = "a-token-of-the-tests"\nrate'))
    monkeypatch.setenv("INTERLOCK_SERVE_ADMIN_TOKEN", "an-admin-token-of-the-tests")
    for mode, result in ((0o644, "fail"), (0o640, "pass")):
        config.chmod(mode)
        _, found = examined(deployment, capsys)
        assert found["the token in the configuration"]["result"] == result
        assert "the admin_token in the configuration" not in found
        assert "a-token-of-the-tests" not in json.dumps(found)


def test_what_was_promoted_is_what_is_examined(
    deployment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (deployment / "next.onnx").write_bytes(models.affine())
    (deployment / "serve.toml").write_text(SOUND.replace("rate = 50.0", 'state = "state"'))
    store = RolloutStore(deployment / "state")
    digest = "sha256:" + hashlib.sha256(models.affine()).hexdigest()
    store.save("strict", Placement(configured=("bundle", None), stable=Source("next.onnx", digest)))
    _, found = examined(deployment, capsys)
    assert found["strict: its files"]["detail"] == "next.onnx is a onnx; recorded in the state"
    assert found["strict: loads and passes its self-test"]["detail"] == digest
    assert found["strict: integrity"]["result"] == "pass"
    assert found["strict: integrity"]["detail"] == "its digest is the one that the state holds"
    (deployment / "next.onnx").write_bytes(models.shifted(1))
    code, found = examined(deployment, capsys)
    assert code == 1
    assert "expected" in found["strict: loads and passes its self-test"]["detail"]
    store.close()
