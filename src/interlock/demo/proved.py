"""Step 5, with the extra `zk`: a digit is proved slice by slice, verified, and tampered with."""

from __future__ import annotations

import hashlib
import importlib.util
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from interlock.verified.circuit_prover import CircuitProver
from interlock.verified.directory import shipped_models
from interlock.verified.metadata import RunnerMetadata
from interlock.verified.proof_bundle import write_bundle
from interlock.verified.proof_manifest import DIGEST, MANIFEST, ProvedSlice, file_entry, parse
from interlock.verified.proof_verify import Verdict, verify_bundle
from interlock.verified.prover import CircuitPlan, Limits
from interlock.verified.result import InferenceResult
from interlock.verified.runner import Runner

MODEL = "net"
SECONDS = 20.0
"""Slices predicted to take longer stay with ONNX here; `make prove-net` proves them all."""


@dataclass(frozen=True)
class Proved:
    """What was planned, proved and verified.

    tampered  the verdict on a copy of the bundle whose proof of `slice` had one bit flipped, with
              every digest made to fit again
    """

    plans: tuple[CircuitPlan, ...]
    result: InferenceResult
    metadata: RunnerMetadata
    verdict: Verdict
    slice: str
    tampered: Verdict


def available() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("ezkl") is not None


def prove_and_verify(output: Path, seed: int, say: Callable[[str], None]) -> Proved:
    """Prove what fits of `net` on its example, a scanned digit, and check the proofs as a stranger.

    Keys are kept in OUTPUT/keys. Raises EngineError where a slice that was planned cannot be
    proved.
    """
    directory = output / MODEL
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(shipped_models() / MODEL, directory, copy_function=shutil.copyfile)
    with CircuitProver((output / "keys").absolute()) as prover:
        runner = Runner(directory, prover=prover)
        assert runner.sliced is not None
        limits = Limits(seconds=SECONDS)
        plans = []
        for part in runner.sliced.slices:
            plan = prover.plan(part, limits)
            say(f"  {part.name}: {plan.decision}: {plan.reason}")
            plans.append(plan if plan.decision == "fallback" else prover.setup(part, limits))
        result = runner.infer(record=True)
        assert result.run is not None
        bundle = output / "proofs"
        shutil.rmtree(bundle, ignore_errors=True)
        write_bundle(bundle, result.run, prover, optimization=runner.optimization)
    verdict = verify_bundle(bundle)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "proofs"
        shutil.copytree(bundle, copy)
        name = flip_one_bit(copy, random.Random(seed))
        tampered = verify_bundle(copy)
    return Proved(tuple(plans), result, runner.metadata, verdict, name, tampered)


def flip_one_bit(bundle: Path, rng: random.Random) -> str:
    """Flip a bit in the proof of a slice and make all digests fit; returns the slice's name."""
    manifest = parse((bundle / MANIFEST).read_bytes())
    part = rng.choice([part for part in manifest.slices if isinstance(part, ProvedSlice)])
    path = bundle / part.proofs[0].file
    document = msgspec.json.decode(path.read_bytes())
    proof = document["proof"]
    place = rng.randrange(len(proof))
    proof[place] ^= 1 << rng.randrange(8)
    document["hex_proof"] = "0x" + bytes(proof).hex()
    path.write_bytes(msgspec.json.encode(document))
    files = tuple(
        file_entry(entry.name, (bundle / entry.name).read_bytes()) for entry in manifest.files
    )
    data = msgspec.structs.replace(manifest, files=files).encode()
    (bundle / MANIFEST).write_bytes(data)
    (bundle / DIGEST).write_text(hashlib.sha256(data).hexdigest() + "\n", encoding="ascii")
    return part.name
