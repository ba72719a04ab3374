"""A strict bundle against a bare session over the same bytes: running it, and loading it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import numpy as np
import strict_decode

from interlock.ort import onnxruntime
from interlock.strict import (
    attach_certificate,
    calibrate_tau,
    export_bundle,
    load_onnx_runtime_bundle,
)

BARE_RUN, BARE_LOAD = "session.run", "read, hash, session"

FIRST_LOAD = """
import sys, time
import onnx
from interlock.ort import onnxruntime
from interlock.strict import load_onnx_runtime_bundle
onnxruntime()
start = time.perf_counter()
load_onnx_runtime_bundle(sys.argv[1], probe=sys.argv[2] == "probe")
print(time.perf_counter() - start)
"""


def run() -> list[str]:
    """Print every figure; return the lines of the bars."""
    bars = []
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "mlp"
        example = np.random.default_rng(5).normal(size=(64, 4)).astype(np.float32)
        export_bundle(
            strict_decode.mlp(),
            directory,
            example_inputs=(example,),
            config=strict_decode.CONFIG,
        )
        for batch in (1, 1_000, 10_000):
            times = _run(directory, batch)
            strict_decode.show(f"bundle of MLP-256, batch {batch:,}", times, (BARE_RUN,))
            if batch >= 1_000:
                ratio = times.ratio("bundle.run", BARE_RUN)[0]
                bars.append(measure.bar(f"bundle.run / session.run, {batch:,}", ratio, 1.05))
        times = _load(directory)
        strict_decode.show("loading it again in one process", times, (BARE_LOAD,))
        bars.append(measure.bar("load / bare", times.ratio("load", BARE_LOAD)[0], 1.3))
        certify(directory)
        times = _load(directory)
        strict_decode.show("the same with its certificate checked", times, (BARE_LOAD,))
        ratio = times.ratio("load", BARE_LOAD)[0]
        bars.append(measure.bar("load with a certificate / bare", ratio, 1.3))
        print("\nloading it first, in a process of its own, imports not counted")
        for mode in ("probe", "no probe"):
            seconds = sorted(_first_load(directory, mode) for _ in range(5))
            print(f"  {mode:24} {measure.duration(seconds[2]):>9}")
    return bars


def certify(directory: Path) -> None:
    """Put a certificate for its own threshold into the bundle; the rows are made up."""
    tau = load_onnx_runtime_bundle(directory).config.tau_infer
    q_abs = np.random.default_rng(7).uniform(tau, 1, 10_000).astype(np.float32)
    found = calibrate_tau(q_abs, q_abs < 2 * tau, 0.01, 0.05, start=tau, lowest=tau)
    assert found.certificate is not None, found.reason
    attach_certificate(directory, found.certificate)
    assert load_onnx_runtime_bundle(directory).certificate is not None


def _bare_session(model: bytes) -> Any:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(directory: Path, batch: int) -> measure.Times:
    runtime = load_onnx_runtime_bundle(directory)
    bare = _bare_session(runtime.bundle.model)
    x = np.random.default_rng(4).normal(size=(batch, 4)).astype(np.float32)
    cases = {
        BARE_RUN: measure.calls_of(lambda: bare.run(None, {"x": x})),
        "bundle.run": measure.calls_of(lambda: runtime.run(x)),
    }
    return measure.interleaved(cases, rounds=40)


def _load(directory: Path) -> measure.Times:
    load_onnx_runtime_bundle(directory)

    def bare() -> Any:
        files = {path.name: path.read_bytes() for path in directory.iterdir()}
        for data in files.values():
            hashlib.sha256(data).hexdigest()
        return _bare_session(files["model.onnx"])

    cases = {
        BARE_LOAD: measure.calls_of(bare),
        "load": measure.calls_of(lambda: load_onnx_runtime_bundle(directory)),
    }
    return measure.interleaved(cases, rounds=40, seconds=0.05)


def _first_load(directory: Path, mode: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_LOAD, str(directory), mode],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)
