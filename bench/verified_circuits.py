"""Circuits against ezkl's own defaults, CPU time of proofs, and what the verifier adds to ezkl."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before ezkl is imported: it reads the number of threads once.
os.environ.setdefault("RAYON_NUM_THREADS", "1")

import measure
import numpy as np

from interlock.engines.onnx import OnnxSession
from interlock.kernel.batch import Array
from interlock.verified.chain import ChainRun, SliceChain
from interlock.verified.circuit_prover import CircuitProver
from interlock.verified.directory import Cuts, cut
from interlock.verified.proof_bundle import write_bundle
from interlock.verified.proof_system import (
    COMPILED,
    PROVING_KEY,
    SETTINGS,
    VERIFYING_KEY,
)
from interlock.verified.proof_verify import BundleVerifier
from interlock.verified.slices import Slice, SlicedModel
from interlock.verified.steps import Policy

MODELS = Path(__file__).parents[1] / "models"
OURS, DEFAULTS = "settings of the planner", "ezkl's own defaults"
BUNDLE, OWN = "bundle, verified with links", "sum of ezkl's own verifies"


def run() -> list[str]:
    """Print every figure; return the lines of the bars."""
    import ezkl  # type: ignore[import-not-found,unused-ignore]

    model = (MODELS / "net" / "model.onnx").read_bytes()
    dense = _dense(cut(model, Cuts()))
    with np.load(MODELS / "net" / "examples.npz") as arrays:
        image = arrays["input"][:1]
    tensors = _tensors(cut(model, Cuts()), {"input": image})
    with tempfile.TemporaryDirectory() as scratch, CircuitProver(workers=1) as prover:
        for part in dense.slices:
            prover.setup(part)
        bars = _last_layer(ezkl, prover, dense.slices[-1], tensors, Path(scratch))
        bars += _cpu_seconds(ezkl, prover, dense, tensors, Path(scratch))
        bars += _verifier(ezkl, prover, dense, tensors, Path(scratch))
    return bars


def _dense(model: SlicedModel) -> SlicedModel:
    """fc1 to fc3 of net as a chain of their own."""
    parts = tuple(
        Slice(index, part.model, part.inputs, part.outputs, part.parameterised)
        for index, part in enumerate(model.slices[2:])
    )
    return SlicedModel(model.model, parts[0].inputs, model.outputs, parts)


def _tensors(model: SlicedModel, given: dict[str, Array]) -> dict[str, Array]:
    for part in model.slices:
        given |= OnnxSession(part.model).run({spec.name: given[spec.name] for spec in part.inputs})
    return given


def _entry(prover: CircuitProver, part: Slice) -> tuple[Path, Path]:
    """The directory of the slice's only circuit, and its SRS."""
    (digest,) = prover.circuits_of(part)[1]
    about = prover.keys.about(digest)
    assert about is not None
    srs = prover.srs.find(about.logrows)
    assert srs is not None
    return prover.keys.path(digest), srs.path


def _input(path: Path, value: Array) -> Path:
    path.write_text(json.dumps({"input_data": [value.reshape(-1).astype(float).tolist()]}))
    return path


def _proof(
    ezkl: Any, entry: Path, srs: Path, given: Path, scratch: Path, keys: tuple[str, str]
) -> Callable[[], object]:
    """Witness and proof, keys on disk."""

    def prove() -> None:
        witness = str(scratch / "witness.json")
        ezkl.gen_witness(str(given), str(entry / keys[0]), witness)
        ezkl.prove(
            witness,
            str(entry / keys[0]),
            str(entry / keys[1]),
            str(scratch / "proof.json"),
            str(srs),
        )

    return prove


def _last_layer(
    ezkl: Any, prover: CircuitProver, part: Slice, tensors: dict[str, Array], scratch: Path
) -> list[str]:
    given = _input(scratch / "last.json", tensors[part.inputs[0].name])
    entry, srs = _entry(prover, part)
    other, other_srs = _default_circuit(ezkl, part, given, scratch, prover)
    names = (COMPILED, PROVING_KEY)
    times = measure.interleaved(
        {
            OURS: measure.calls_of(_proof(ezkl, entry, srs, given, scratch, names)),
            DEFAULTS: measure.calls_of(_proof(ezkl, other, other_srs, given, scratch, names)),
        },
        rounds=5,
    )
    faster, low, high = times.ratio(DEFAULTS, OURS)
    sizes = [(place / PROVING_KEY).stat().st_size for place in (entry, other)]
    print("\nnet's last layer, one thread: witness and proof, keys on disk")
    for case, size in zip((OURS, DEFAULTS), sizes, strict=True):
        print(f"  {case:28} {measure.duration(times.median(case)):>9}  key {size / 1e6:.1f} MB")
    print(
        f"  x {faster:.1f} ({low:.1f} … {high:.1f}) faster, key {sizes[1] / sizes[0]:.1f} smaller"
    )
    return [
        measure.bar("last layer: defaults / planner, time to prove", faster, 8, at_least=True),
        measure.bar("last layer: defaults / planner, key", sizes[1] / sizes[0], 10, at_least=True),
    ]


def _default_circuit(
    ezkl: Any, part: Slice, given: Path, scratch: Path, prover: CircuitProver
) -> tuple[Path, Path]:
    """The slice as ezkl's own calls make it: default arguments, calibration, its own logrows."""
    place = scratch / "default"
    place.mkdir()
    model, settings = str(place / "model.onnx"), str(place / SETTINGS)
    Path(model).write_bytes(part.model)
    arguments = ezkl.PyRunArgs()
    arguments.input_visibility = arguments.output_visibility = "public"
    arguments.param_visibility = "fixed"
    ezkl.gen_settings(model, settings, arguments)
    ezkl.calibrate_settings(str(given), model, settings, "resources")
    logrows = json.loads(Path(settings).read_text())["run_args"]["logrows"]
    with prover._backend() as backend:
        srs = prover.srs.provide(logrows, backend).path
    ezkl.compile_circuit(model, str(place / COMPILED), settings)
    ezkl.setup(
        str(place / COMPILED), str(place / VERIFYING_KEY), str(place / PROVING_KEY), str(srs)
    )
    return place, srs


def _cpu_seconds(
    ezkl: Any, prover: CircuitProver, dense: SlicedModel, tensors: dict[str, Array], scratch: Path
) -> list[str]:
    proofs = []
    for part in dense.slices:
        entry, srs = _entry(prover, part)
        given = _input(scratch / f"{part.name}.json", tensors[part.inputs[0].name])
        proofs.append(_proof(ezkl, entry, srs, given, scratch, (COMPILED, PROVING_KEY)))
    totals = []
    for _ in range(3):
        began = time.process_time()
        for prove in proofs:
            prove()
        totals.append(time.process_time() - began)
    middle = sorted(totals)[1]
    print(
        f"\nfc1 to fc3, scale {prover.settings.scale}: {middle:.1f} CPU-seconds to prove "
        f"({min(totals):.1f} … {max(totals):.1f}, 3 runs)"
    )
    return [measure.bar("fc1-fc3: CPU-seconds to prove", middle, 20)]


def _verifier(
    ezkl: Any, prover: CircuitProver, dense: SlicedModel, tensors: dict[str, Array], scratch: Path
) -> list[str]:
    given = {spec.name: tensors[spec.name] for spec in dense.inputs}
    chain = SliceChain(dense, prover)
    run = chain.run(given, Policy(record=True))
    again = chain.run(given, Policy(record=True, excluded={dense.slices[0].name: "the bench"}))
    seconds, ratio = _against_ezkl(
        ezkl, prover, dense, run, scratch / "bundle", "fc1 to fc3: three proofs"
    )
    _, replayed = _against_ezkl(
        ezkl, prover, dense, again, scratch / "replayed", "fc1 run again, two proofs"
    )
    return [
        measure.bar("fc1-fc3: seconds to verify with links", seconds, 0.3),
        measure.bar("fc1-fc3: bundle / sum of ezkl's own verifies", ratio, 1.1),
        measure.bar("the same with fc1 run again / ezkl's own of the others", replayed, 1.1),
    ]


def _against_ezkl(
    ezkl: Any, prover: CircuitProver, model: SlicedModel, run: ChainRun, bundle: Path, title: str
) -> tuple[float, float]:
    """Seconds to verify the bundle of a run, and their ratio to ezkl's own verifies in turn."""
    write_bundle(bundle, run, prover)
    checks = []
    for part, entry in zip(model.slices, run.slices, strict=True):
        if entry.proof is None:
            continue
        keys, srs = _entry(prover, part)
        files = (bundle / f"{part.name}-0.proof.json", keys / SETTINGS, keys / VERIFYING_KEY, srs)
        checks.append([str(file) for file in files])
    with BundleVerifier() as verifier:
        assert verifier.verify(bundle).accepted
        times = measure.interleaved(
            {
                BUNDLE: measure.calls_of(lambda: verifier.verify(bundle)),
                OWN: measure.calls_of(lambda: [ezkl.verify(*one) for one in checks]),
            },
            rounds=15,
            seconds=0.1,
        )
    ratio, low, high = times.ratio(BUNDLE, OWN)
    print(f"\n{title}, verifier running")
    for case in (BUNDLE, OWN):
        print(f"  {case:28} {measure.duration(times.median(case)):>9}")
    print(f"  x {ratio:.2f} ({low:.2f} … {high:.2f})")
    return times.median(BUNDLE), ratio
