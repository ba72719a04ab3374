"""kill -9 while keys are made and while pieces are proved: nothing half-written is ever used."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.circuits import SMALL, infer, ready_prover, shared_cache, tiny
from support.counts import count
from support.kill import run_and_kill, run_to_end

from interlock.verified.circuit_prover import CircuitProver
from interlock.verified.proof_file import read_proof
from interlock.verified.proof_verify import verify_bundle

pytestmark = pytest.mark.zk

CHILD = Path(__file__).with_name("circuits_to_kill.py")


def test_keys_of_a_killed_setup_are_whole_or_absent(tmp_path: Path) -> None:
    rng = random.Random(20260101)
    cache = tmp_path / "cache"
    for _ in range(count(5, 60)):
        ended = run_and_kill(
            CHILD, ["setup", str(cache)], rng=rng, after_lines=(1, 2), extra_seconds=1.5
        )
        with CircuitProver(cache, ceiling=SMALL) as prover:
            for part in tiny().slices[:2]:
                if part.name in ended.acknowledged:
                    assert prover.unavailable(part) is None
            for entry in (cache / "keys").glob("[0-9a-f]*"):
                assert prover.keys.about(entry.name) is not None
    run_to_end(CHILD, ["setup", str(cache)])
    with CircuitProver(cache, ceiling=SMALL) as prover:
        run = infer(prover, excluded=("slice_2",))
    assert [entry.verified for entry in run.slices] == [True, True, False]
    assert list((cache / "keys").glob(".*.partial")) == []


def test_a_killed_proof_goes_on_and_its_bundle_is_whole_or_absent(tmp_path: Path) -> None:
    for _ in ready_prover((0, 1)):
        pass
    rng = random.Random(20260102)
    pieces, bundle = tmp_path / "pieces", tmp_path / "bundle"
    arguments = ["prove", str(shared_cache()), str(pieces), str(bundle)]
    proved: set[str] = set()
    for _ in range(count(4, 40)):
        ended = run_and_kill(CHILD, arguments, rng=rng, after_lines=(1, 4), extra_seconds=0.4)
        proved |= set(ended.acknowledged) - {"started", "published"}
        kept = list(pieces.glob("[0-9a-f]*.json")) if pieces.exists() else []
        assert len(kept) >= len(proved)
        for path in kept:
            read_proof(path.read_bytes())
        if bundle.exists():
            break
    if not bundle.exists():
        assert run_to_end(CHILD, arguments).acknowledged[-1] == "published"
    assert verify_bundle(bundle).accepted
