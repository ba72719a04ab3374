"""Public clients work unchanged, tritonclient's and kserve's; schemathesis finds no fault."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import models
from support.bundles import strict_bundle
from support.counts import count
from support.rollouts import ENVIRON, HEADERS
from support.serving import Running, serving

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("INTERLOCK_CLIENTS", ROOT / ".venv" / "oip-clients")) / "bin/python"

pytestmark = pytest.mark.oip

ANSWER = [[3, 5, 7], [9, 11, 13]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("clients")
    for name in ("affine", "is_yes"):
        (place / f"{name}.onnx").write_bytes(getattr(models, name)())
    strict_bundle(place / "strict")
    named = {"affine": "affine.onnx", "is_yes": "is_yes.onnx", "strict": "strict"}
    with serving(place, {name: {"path": path} for name, path in named.items()}) as running:
        yield running


def ask(client: str, server: Running) -> Any:
    script = ROOT / "tests" / "clients" / "ask.py"
    done = subprocess.run(
        [PYTHON, script, client, f"127.0.0.1:{server.port}"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_tritonclient(server: Running) -> None:
    found = ask("triton", server)
    assert (found["live"], found["ready"], found["model_ready"]) == (True, True, True)
    assert found["server"]["name"] == "interlock"
    assert found["model"]["versions"][0].startswith("sha256:")
    for way in ("binary", "json"):
        assert found[way]["y"] == ANSWER
        assert found[way]["total"] == [15, 33]
        assert found[way]["response"]["id"] == "mine"
        assert found[way]["response"]["parameters"]["status"] == "accepted"
    assert found["strict"] == {
        "decoded": ["nan", "nan"],
        "bottom": [[True, True]],
        "status": ["refused"],
    }
    assert found["same"] == [True, False]
    status, message = found["error"]
    assert status == "400"
    assert "input 'z' is unknown" in message


def test_kserve_client(server: Running) -> None:
    found = ask("kserve", server)
    assert (found["live"], found["ready"], found["model_ready"]) == (True, True, True)
    for way in ("binary", "json"):
        assert found[way] == {"y": ANSWER, "status": "accepted", "id": "mine"}


def schemathesis(server: Running, place: Path, *arguments: str) -> list[int]:
    """Let it look for faults; the statuses of all that it asked."""
    checks = ("not_a_server_error", "status_code_conformance", "content_type_conformance",
              "response_schema_conformance")  # fmt: skip
    done = subprocess.run(
        [
            PYTHON.parent / "schemathesis",
            "run",
            f"{server.url}/openapi.json",
            f"--checks={','.join(checks)}",
            f"--max-examples={count(20, 150)}",
            "--seed=1",
            *arguments,
        ],
        cwd=place,  # it keeps a cache where it runs
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return [event["status"] for event in list(server.log) if event["event"] == "request"]


def test_schemathesis_finds_no_server_error_and_no_undocumented_answer(
    server: Running, tmp_path: Path
) -> None:
    """What the OpenAPI page says is what comes, whatever is sent."""
    codes = schemathesis(server, tmp_path)
    assert len(codes) > 300
    assert codes.count(200) > 100
    assert {code for code in codes if code >= 500} <= {503}


def test_schemathesis_finds_none_in_the_admin_api(tmp_path: Path) -> None:
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    named = {"m": {"path": "affine.onnx"}}
    with serving(tmp_path, named, environ=ENVIRON, state="state") as server:
        codes = schemathesis(
            server,
            tmp_path,
            f"--header=Authorization: {HEADERS['authorization']}",
            "--include-path-regex=/v1/",
        )
        assert len(codes) > 100
        assert {code for code in codes if code >= 500} <= {503}
