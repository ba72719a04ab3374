"""Rollouts over HTTP: two versions side by side, changed by an operator, kept over a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import models
from support.bundles import strict_bundle
from support.rollouts import ADMIN, ENVIRON, HEADERS, admin, decided, rollout_of, until
from support.rollouts import write_versions as versions
from support.serving import Running, serving

X = [[1, 2, 3]]


def settings(model: str = "m", **changes: Any) -> dict[str, Any]:
    return {model: {"path": "v0.onnx", "percent": 50, **changes}}


MODELS = [f"m{k}" for k in range(9)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path, list[str]]]:
    """One server; each test takes a model of its own."""
    place = tmp_path_factory.mktemp("rollouts")
    versions(place)
    named: dict[str, Any] = {}
    for model in MODELS:
        (place / f"{model}.onnx").write_bytes(models.shifted(0))
        named |= settings(model, path=f"{model}.onnx")
    strict_bundle(place / "strict")
    named["strict"] = {"path": "strict"}
    with serving(place, named, environ=ENVIRON, state="state") as running:
        yield running, place, list(MODELS)


@pytest.fixture
def server(shared: tuple[Running, Path, list[str]]) -> Running:
    return shared[0]


@pytest.fixture
def place(shared: tuple[Running, Path, list[str]]) -> Path:
    return shared[1]


@pytest.fixture
def model(shared: tuple[Running, Path, list[str]]) -> str:
    return shared[2].pop()


def answered(server: Running, client: str = "", model: str = "m") -> tuple[float, str]:
    """The first number of an answer, which tells the version, and the digest beside it."""
    reply = server.infer(model, X, headers={"x-client-id": client} if client else {})
    assert reply.status_code == 200, reply.text
    body = reply.json()
    return body["outputs"][0]["data"][0] - 2, body["model_version"]


def shares(server: Running, clients: int = 60, model: str = "m") -> float:
    """The share of clients that the new version answers."""
    found = [answered(server, f"client {k}", model)[0] for k in range(clients)]
    return sum(found) / clients


def test_a_canary_takes_its_share_of_the_clients_and_always_the_same(
    server: Running, model: str
) -> None:
    assert shares(server, model=model) == 0
    told = admin(server, f"models/{model}/rollout", {"path": "v1.onnx", "mode": "canary"}).json()
    assert told["rollout"]["mode"] == "canary"
    first = [answered(server, f"client {k}", model) for k in range(60)]
    assert 0.2 < sum(number for number, _ in first) / 60 < 0.8
    assert [answered(server, f"client {k}", model) for k in range(60)] == first
    digests = {0.0: told["stable"]["digest"], 1.0: told["rollout"]["candidate"]}
    assert all(digests[number] == digest for number, digest in first)
    assert set(server.get(f"/v2/models/{model}").json()["versions"]) == set(digests.values())


def test_a_canary_that_grows_keeps_its_clients(server: Running, model: str) -> None:
    names = [f"client {k}" for k in range(60)]
    before: set[str] = set()
    for percent in (10, 40, 90):
        asked = {"path": "v1.onnx", "mode": "canary", "percent": percent}
        assert admin(server, f"models/{model}/rollout", asked).status_code == 200
        now = {name for name in names if answered(server, name, model)[0] == 1}
        assert before <= now
        before = now
    assert len(before) > 40


def test_a_version_can_be_asked_for_by_its_digest(server: Running, model: str) -> None:
    told = admin(server, f"models/{model}/rollout", {"path": "v1.onnx", "mode": "shadow"}).json()
    path = f"{model}/versions/{told['rollout']['candidate']}"
    assert server.infer(path, X).json()["outputs"][0]["data"][0] == 3
    assert answered(server, model=model)[0] == 0


def test_a_shadow_is_asked_and_compared_and_the_old_version_answers(
    server: Running, model: str
) -> None:
    admin(server, f"models/{model}/rollout", {"path": "v1.onnx", "mode": "shadow"})
    assert shares(server, 20, model) == 0
    until(lambda: rollout_of(server, model)["rollout"]["shadow"]["compared"] > 5)
    shadow = rollout_of(server, model)["rollout"]["shadow"]
    assert shadow["same"] == 0
    assert shadow["compared"] + shadow["dropped"] <= 20
    assert f'interlock_rollout_active{{mode="shadow",model="{model}"}} 1.0' in server.metrics()


def test_promoted_and_returned(server: Running, model: str, place: Path) -> None:
    admin(server, f"models/{model}/rollout", {"path": "v1.onnx", "mode": "canary"})
    assert (
        admin(server, f"models/{model}/rollout/promote", {"reason": "release 2"}).status_code == 200
    )
    assert shares(server, 10, model) == 1
    assert admin(server, f"models/{model}/rollout/rollback", {}).status_code == 200
    assert shares(server, 10, model) == 0
    assert decided(server, model) == [
        ("started", "asked for"),
        ("promoted", "release 2"),
        ("reverted", "asked for"),
    ]
    refused = admin(server, f"models/{model}/rollout/rollback", {})
    assert refused.status_code == 409
    assert "no version before this one" in refused.json()["error"]


@pytest.mark.parametrize("ending", ["promote", "rollback", ""])
def test_what_was_decided_holds_after_a_restart(tmp_path: Path, ending: str) -> None:
    versions(tmp_path)
    with serving(tmp_path, settings(), environ=ENVIRON, state="state") as server:
        admin(server, "models/m/rollout", {"path": "v1.onnx", "mode": "canary"})
        if ending:
            assert admin(server, f"models/m/rollout/{ending}", {}).status_code == 200
        before = [answered(server, f"client {k}") for k in range(30)]
        server.process.kill()
    with serving(tmp_path, settings(), environ=ENVIRON, state="state") as server:
        assert [answered(server, f"client {k}") for k in range(30)] == before
        assert (rollout_of(server)["rollout"] is not None) == (ending == "")


def test_a_configured_candidate_is_rolled_out_once(tmp_path: Path) -> None:
    versions(tmp_path)
    named = settings(candidate="v1.onnx", rollout="canary")
    for started in (True, False):
        with serving(tmp_path, named, environ=ENVIRON, state="state") as server:
            assert (rollout_of(server)["rollout"] is not None) == started
            if started:
                admin(server, "models/m/rollout/rollback", {})
    (tmp_path / "v1.onnx").write_bytes(models.shifted(7))  # another release at the same place
    with serving(tmp_path, named, environ=ENVIRON, state="state") as server:
        assert rollout_of(server)["rollout"] is not None


def test_a_state_that_cannot_be_used_at_the_start_delays_the_rollout_only(tmp_path: Path) -> None:
    versions(tmp_path)
    (tmp_path / "state").write_text("in the way")
    named = settings(candidate="v1.onnx", rollout="canary")
    with serving(tmp_path, named, environ=ENVIRON, state="state") as server:
        assert answered(server)[0] == 0
        health = server.get("/health").json()
        assert (health["status"], "state" in health["message"]) == ("degraded", True)
        refused = admin(server, "models/m/rollout", {"path": "v1.onnx"})
        assert (refused.status_code, refused.json()["code"]) == (503, "storage")
        event = next(e for e in server.log if e["event"] == "rollout_not_recorded")
        assert "cannot make" in event["message"]
        (tmp_path / "state").unlink()
        until(lambda: rollout_of(server)["rollout"] is not None)
        assert rollout_of(server)["fault"] == ""


def test_the_configuration_counts_where_it_was_edited(tmp_path: Path) -> None:
    versions(tmp_path, 3)
    with serving(tmp_path, settings(), environ=ENVIRON, state="state") as server:
        admin(server, "models/m/rollout", {"path": "v1.onnx"})
        admin(server, "models/m/rollout/promote", {})
    with serving(tmp_path, settings(path="v2.onnx"), environ=ENVIRON, state="state") as server:
        assert answered(server)[0] == 2
        assert decided(server)[-1][0] == "superseded"


def test_the_feature_flag_decides_by_itself(tmp_path: Path) -> None:
    versions(tmp_path)
    named = settings(candidate="v1.onnx", rollout="canary")
    for flag, number in (("true", 1), ("false", 0)):
        environ = {**ENVIRON, "INTERLOCK_SERVE_MODELS_M_USE_CANDIDATE": flag}
        with serving(tmp_path, named, environ=environ, state="state") as server:
            assert shares(server, 10) == number
            refused = admin(server, "models/m/rollout", {"path": "v1.onnx"})
            assert refused.status_code == 409
            assert "use_candidate" in refused.json()["error"]


def test_a_candidate_that_must_not_be_served_leaves_the_old_version(
    server: Running, model: str, place: Path
) -> None:
    (place / "stub.onnx").write_bytes(models.stub())
    (place / "other.onnx").write_bytes(models.labelled())
    (place / "same.onnx").write_bytes(models.shifted(0))
    (place / "whole.onnx").write_bytes(models.shifted(1, rows="M"))
    for body, code, told in (
        ({"path": "stub.onnx"}, 422, "is a stub"),
        ({"path": "gone.onnx"}, 422, "there is no gone.onnx"),
        ({"path": "other.onnx"}, 422, "inputs differ"),
        ({"path": "whole.onnx"}, 422, "answers by rows"),
        ({"path": "same.onnx"}, 422, "is served already"),
        ({"path": "v1.onnx", "digest": "sha256:" + "0" * 64}, 422, "the model's digest is"),
        ({"path": "../v1.onnx"}, 422, "leads out of"),
        ({"path": "/etc/passwd"}, 422, "leads out of"),
        ({"path": "v1.onnx", "percent": 0}, 422, "percent is 0"),
        ({"path": "v1.onnx", "mode": "all"}, 400, "mode"),
        ({"path": "v1.onnx", "colour": 1}, 400, "colour"),
    ):
        refused = admin(server, f"models/{model}/rollout", body)
        assert refused.status_code in (400, code), (body, refused.text)
        assert told in refused.json()["error"], (body, refused.text)
    assert rollout_of(server, model)["rollout"] is None
    assert answered(server, model=model)[0] == 0


def test_a_bundle_that_was_changed_gets_no_traffic(server: Running, place: Path) -> None:
    digest = rollout_of(server, "strict")["stable"]["digest"]
    strict_bundle(place / "tampered")
    for name in ("tampered", "strict"):
        with (place / name / "model.onnx").open("r+b") as file:
            file.seek(-1, 2)
            byte = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([byte[0] ^ 1]))
    for path, body in (("rollout", {"path": "tampered"}), ("reload", {})):
        refused = admin(server, f"models/strict/{path}", body)
        assert (refused.status_code, refused.json()["code"]) == (422, "bundle_integrity")
    assert server.get("/v2/models/strict").json()["versions"] == [digest]
    assert server.get("/v2/models/strict/ready").status_code == 200


def test_a_second_change_is_refused(server: Running, model: str, place: Path) -> None:
    (place / "v3.onnx").write_bytes(models.shifted(3))
    admin(server, f"models/{model}/rollout", {"path": "v1.onnx", "mode": "canary"})
    assert admin(server, f"models/{model}/rollout", {"path": "v3.onnx"}).status_code == 409
    assert admin(server, f"models/{model}/reload", {}).status_code == 409
    assert admin(server, "models/gone/rollout", {"path": "v3.onnx"}).status_code == 404


def test_a_reload_takes_what_is_there_now(server: Running, model: str, place: Path) -> None:
    unchanged = admin(server, f"models/{model}/reload", {}).json()
    assert not unchanged["changed"]
    (place / f"{model}.onnx").write_bytes(models.shifted(5))
    told = admin(server, f"models/{model}/reload", {}).json()
    assert told["changed"]
    assert answered(server, model=model) == (5, told["digest"])
    (place / f"{model}.onnx").write_bytes(b"no model")
    refused = admin(server, f"models/{model}/reload", {})
    assert refused.status_code == 422
    assert refused.json()["code"] == "bundle_format"
    assert answered(server, model=model) == (5, told["digest"])


def test_a_model_that_was_not_ready_can_be_loaded_later(tmp_path: Path) -> None:
    with serving(tmp_path, settings(), environ=ENVIRON) as server:
        assert server.get("/v2/health/ready").status_code == 503
        refused = admin(server, "models/m/reload", {})
        assert (refused.status_code, refused.json()["error"]) == (422, "there is no v0.onnx")
        versions(tmp_path)
        assert admin(server, "models/m/reload", {}).json()["changed"]
        assert server.get("/v2/health/ready").status_code == 200
        assert answered(server)[0] == 0


def test_a_reload_to_another_path_holds_after_a_restart(tmp_path: Path) -> None:
    versions(tmp_path)
    with serving(tmp_path, settings(), environ=ENVIRON, state="state") as server:
        assert admin(server, "models/m/reload", {"path": "v1.onnx"}).json()["changed"]
        server.process.kill()
    with serving(tmp_path, settings(), environ=ENVIRON, state="state") as server:
        assert answered(server)[0] == 1


def test_without_a_state_directory_there_are_reloads_but_no_rollouts(tmp_path: Path) -> None:
    versions(tmp_path)
    with serving(tmp_path, settings(), environ=ENVIRON) as server:
        refused = admin(server, "models/m/rollout", {"path": "v1.onnx"})
        assert "set `state`" in refused.json()["hint"]
        (tmp_path / "v0.onnx").write_bytes(models.shifted(1))
        assert admin(server, "models/m/reload", {}).json()["changed"]
        refused = admin(server, "models/m/reload", {"path": "v1.onnx"})
        assert refused.status_code == 422


def test_there_is_no_admin_api_without_a_token(tmp_path: Path) -> None:
    versions(tmp_path)
    with serving(tmp_path, settings(), state="state") as server:
        for path in ("rollouts", "models/m/rollout"):
            refused = server.get(f"/v1/admin/{path}", headers=HEADERS)
            assert refused.status_code == 404
        assert not [p for p in server.get("/openapi.json").json()["paths"] if "admin" in p]


CLIENT = "token-of-a-client-0001"


def test_the_admin_api_takes_the_admin_token_alone(tmp_path: Path) -> None:
    versions(tmp_path)
    environ = {**ENVIRON, "INTERLOCK_SERVE_TOKEN": CLIENT}
    with serving(tmp_path, settings(), environ=environ, state="state") as server:
        for token in ("x", CLIENT, ADMIN[:-1], ADMIN + "x"):
            headers = {"authorization": f"Bearer {token}"}
            for path in ("rollouts", "models/m/rollout", "models/gone/rollout", "nowhere"):
                assert server.get(f"/v1/admin/{path}", headers=headers).status_code == 401
            for path in ("rollout", "rollout/promote", "rollout/rollback", "reload"):
                url = f"/v1/admin/models/m/{path}"
                assert server.client.post(url, json={}, headers=headers).status_code == 401
        assert server.get("/v2", headers=HEADERS).status_code == 401
        assert server.get("/v1/admin/rollouts", headers=HEADERS).status_code == 200


def test_files_that_were_exchanged_since_the_start_are_not_promoted(
    server: Running, place: Path, model: str
) -> None:
    """The next start would refuse them, and leave the model without a version."""
    candidate = place / f"{model}-next.onnx"
    candidate.write_bytes(models.shifted(1))
    asked = {"path": candidate.name, "mode": "canary"}
    assert admin(server, f"models/{model}/rollout", asked).status_code == 200
    for exchange in (lambda: candidate.write_bytes(models.shifted(5)), candidate.unlink):
        exchange()
        refused = admin(server, f"models/{model}/rollout/promote", {})
        assert refused.status_code == 422
        assert rollout_of(server, model)["rollout"] is not None
    candidate.write_bytes(models.shifted(1))
    assert admin(server, f"models/{model}/rollout/promote", {}).status_code == 200
    assert answered(server, model=model)[0] == 1
