"""What runs behind a verified model's process: what its answers say, and of which bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.networks import MODELS, dense, examples
from support.provers import FixedPointProver

from interlock.kernel.batch import Array
from interlock.serve.child import load_verified
from interlock.verified import inputs, runner
from interlock.verified.srs import DEVELOPMENT_WARNING


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped `net`; all its slices can be proved."""
    prover = FixedPointProver(warning=DEVELOPMENT_WARNING)
    monkeypatch.setattr(runner, "default_prover", lambda: prover)
    directory = tmp_path / "net"
    shutil.copytree(
        MODELS / "net", directory, ignore=shutil.ignore_patterns("*_Runner_Metadata.json")
    )
    return directory


def test_an_answer_under_a_development_srs_says_so(net: Path) -> None:
    answer = load_verified({"source": str(net), "mode": "auto", "proofs": None})
    (row,) = examples("net", 1)
    found = json.loads(answer({"do": "infer", "inputs": row, "seconds": None, "keep": True}))
    evidence = found["evidence"]
    assert (evidence["kind"], evidence["detail"]["proved"]) == ("checked", 5)
    assert evidence["detail"]["weaknesses"] == DEVELOPMENT_WARNING


def test_the_version_is_the_digest_of_the_bytes_that_run(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced while the process starts."""
    read, before = inputs.read_inputs, (net / "model.onnx").read_bytes()

    def replaced(*arguments: Any) -> dict[str, Array]:
        (net / "model.onnx").write_bytes(dense([4, 3, 2]))
        return read(*arguments)

    monkeypatch.setattr(inputs, "read_inputs", replaced)
    answer = load_verified({"source": str(net), "mode": "auto", "proofs": None})
    told = answer({"do": "describe"})
    assert told["version"] == f"sha256:{hashlib.sha256(before).hexdigest()}"
