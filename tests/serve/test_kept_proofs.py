"""Answers whose proofs are kept, with real proofs of a tiny network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.circuits import image, shared_cache, tiny

from interlock.cli.app import run
from interlock.errors import ConfigError
from interlock.serve.child import load_verified
from interlock.serve.kept_proofs import prepare
from interlock.verified import Runner, runner
from interlock.verified.circuit_prover import CircuitProver
from interlock.verified.proof_manifest import MANIFEST

pytestmark = pytest.mark.zk

Ask = Callable[[Any], Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network, sliced, with keys for all slices."""
    directory = tmp_path_factory.mktemp("kept") / "tiny"
    directory.mkdir()
    (directory / "model.onnx").write_bytes(tiny().model)
    data = {"input_data": [image()["x"].reshape(-1).tolist()]}
    (directory / "input.json").write_text(json.dumps(data))
    assert run(["verified", "slice", str(directory)]) == 0
    assert run(["verified", "setup", str(directory), "--cache", str(shared_cache())]) == 0
    return directory


@pytest.fixture(scope="module")
def prover() -> Iterator[CircuitProver]:
    with CircuitProver(shared_cache()) as prover:
        yield prover


@pytest.fixture
def load(
    model: Path, prover: CircuitProver, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path | None], Ask]:
    """What runs in a worker process, with a directory for proofs."""
    monkeypatch.setattr(runner, "default_prover", lambda: prover)

    def loaded(proofs: Path | None) -> Ask:
        options = {"source": str(model), "mode": "auto", "proofs": proofs and str(proofs)}
        return load_verified(options)

    return loaded


def asked(answer: Ask, *, keep: bool = True) -> Any:
    call = {"do": "infer", "inputs": image(3), "seconds": None, "keep": keep}
    return json.loads(answer(call))


def verify(bundle: Path, digest: str) -> tuple[int, list[str]]:
    code = run(
        ["verified", "verify", str(bundle), "--digest", digest, "--cache", str(shared_cache())]
    )
    return code, sorted(path.name for path in bundle.parent.iterdir())


def test_an_answer_can_be_checked_without_the_server(
    load: Callable[[Path | None], Ask], tmp_path: Path
) -> None:
    proofs = tmp_path / "kept" / "proofs"
    found = asked(load(proofs))
    detail = found["evidence"]["detail"]
    assert (found["status"], found["evidence"]["kind"], detail["proved"]) == (
        "accepted",
        "proved",
        3,
    )
    assert verify(proofs / detail["proof"], detail["proof_digest"]) == (0, [detail["proof"]])
    assert verify(proofs / detail["proof"], "sha256:" + 64 * "0")[0] != 0
    told = json.loads((proofs / detail["proof"] / MANIFEST).read_text())
    (entered,) = [one for one in told["tensors"] if one["name"] == "x"]
    kept = np.frombuffer((proofs / detail["proof"] / entered["file"]).read_bytes(), np.float32)
    assert np.array_equal(kept, image(3)["x"].reshape(-1))
    assert proofs.stat().st_mode & 0o077 == 0


def test_a_proof_that_nobody_keeps_is_the_servers_word(
    load: Callable[[Path | None], Ask], tmp_path: Path
) -> None:
    for answer, keep in ((load(None), True), (load(tmp_path / "proofs"), False)):
        found = asked(answer, keep=keep)
        evidence = found["evidence"]
        assert (found["status"], evidence["kind"]) == ("accepted", "checked")
        assert evidence["detail"]["proved"] == 3
        assert "proof" not in evidence["detail"]
    assert not list((tmp_path / "proofs").iterdir())


def test_an_answer_whose_proof_cannot_be_kept_is_flagged(
    load: Callable[[Path | None], Ask], tmp_path: Path
) -> None:
    answer = load(tmp_path / "proofs")
    (tmp_path / "proofs").rmdir()
    (tmp_path / "proofs").write_bytes(b"")
    found = asked(answer)
    assert (found["status"], found["evidence"]["kind"]) == ("flagged", "checked")
    assert "the proof is not kept (" in found["steps"][0]["reason"]
    assert str(tmp_path) not in json.dumps(found)


def test_nothing_is_recorded_for_a_proof_that_is_not_kept(
    load: Callable[[Path | None], Ask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What enters and leaves each slice takes memory."""
    recorded: list[bool] = []
    infer = Runner.infer

    def told(self: Runner, *arguments: Any, **options: Any) -> Any:
        if "record" in options:
            recorded.append(options["record"])
        return infer(self, *arguments, **options)

    monkeypatch.setattr(Runner, "infer", told)
    asked(load(None))
    asked(load(tmp_path / "proofs"), keep=False)
    asked(load(tmp_path / "proofs"))
    assert recorded == [False, False, True]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    prepare(tmp_path / "proofs")
    left = tmp_path / "proofs" / ".20260101T000000Z-00.publish-x"
    whole = tmp_path / "proofs" / "20260101T000000Z-01"
    for directory in (left, whole):
        directory.mkdir()
        (directory / "tensor-0.bin").write_bytes(b"x")
    prepare(tmp_path / "proofs")
    assert list((tmp_path / "proofs").iterdir()) == [whole]


@pytest.mark.parametrize("mode", [0o755, 0o701])
def test_a_directory_that_every_user_may_look_into_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "proofs").mkdir()
    (tmp_path / "proofs").chmod(mode)
    with pytest.raises(ConfigError, match="open to every user"):
        prepare(tmp_path / "proofs")
    (tmp_path / "proofs").chmod(0o750)
    prepare(tmp_path / "proofs")


def test_a_directory_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"proofs .* cannot be written"):
        prepare(tmp_path / "file" / "proofs")
