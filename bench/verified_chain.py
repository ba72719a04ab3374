"""The chain of slices on ONNX Runtime against the whole model, and against opening sessions.

Chain and whole model run in this thread alone, so its processor time is their latency on an idle
machine, and leaves out what others run meanwhile. Opening sessions starts threads; it is
measured by the wall clock, and the chain beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np

from interlock.engines.onnx import OnnxSession
from interlock.ort import onnxruntime
from interlock.verified import NoProver, Policy, SliceChain, slice_model
from interlock.verified.runner import Runner

MODELS = Path(__file__).parents[1] / "models"
BARS = {"net": 1.5, "doom": 1.4}
WHOLE, CHAIN = "whole model, bare session", "chain of slices"
OPENING = "sessions opened a call"
OPENING_PINNED = "the same, one thread"


def run() -> list[str]:
    """Print every figure; return the lines of the bars."""
    bars = []
    for name, limit in BARS.items():
        times, opened = _times(name)
        print(f"\n{name}: one input, processor time of one thread")
        for case in times.samples:
            middle, low, high = times.ratio(case, WHOLE)
            print(
                f"  {case:28} {measure.duration(times.median(case)):>9}  "
                f"x {middle:.2f} ({low:.2f} … {high:.2f})"
            )
        for case in (OPENING, OPENING_PINNED):
            faster = opened.ratio(case, CHAIN)[0]
            print(f"  {case:28} {measure.duration(opened.median(case)):>9}  {faster:.0f} chains")
        faster = opened.ratio(OPENING, CHAIN)[0]
        ratio = times.ratio(CHAIN, WHOLE)[0]
        bars.append(measure.bar(f"{name}: chain / whole model", ratio, limit))
        bars.append(
            measure.bar(f"{name}: opening sessions a call / chain", faster, 100, at_least=True)
        )
    return bars


def _times(name: str) -> tuple[measure.Times, measure.Times]:
    model = (MODELS / name / "model.onnx").read_bytes()
    chain = SliceChain(slice_model(model), NoProver("the bench proves elsewhere"))
    whole = OnnxSession(model)._session
    with np.load(MODELS / name / "examples.npz") as arrays:
        given = {"input": arrays["input"][:1]}
    policy = Policy(circuits="none")
    runner = Runner(MODELS / name, prover=NoProver("the bench proves elsewhere"))

    files = [MODELS / name / "slices" / f"{part.name}.onnx" for part in chain.model.slices]

    def opening() -> None:
        """As a program without a cache does: by path, with the runtime's own defaults."""
        tensors = dict(given)
        for part, file in zip(chain.model.slices, files, strict=True):
            session = onnxruntime().InferenceSession(str(file), providers=["CPUExecutionProvider"])
            outputs = [spec.name for spec in part.outputs]
            entering = {spec.name: tensors[spec.name] for spec in part.inputs}
            tensors.update(zip(outputs, session.run(outputs, entering), strict=True))

    def opening_pinned() -> None:
        tensors = dict(given)
        for part in chain.model.slices:
            session = OnnxSession(part.model)
            tensors.update(session.run({spec.name: tensors[spec.name] for spec in part.inputs}))

    cases = {
        WHOLE: _processor_time(lambda: whole.run(None, given)),
        CHAIN: _processor_time(lambda: chain.run(given, policy)),
        "Runner.infer, onnx_only": _processor_time(lambda: runner.infer("onnx_only", given)),
        "Runner.infer, auto": _processor_time(lambda: runner.infer("auto", given)),
    }
    slow = {
        CHAIN: measure.calls_of(lambda: chain.run(given, policy)),
        OPENING: measure.calls_of(opening),
        OPENING_PINNED: measure.calls_of(opening_pinned),
    }
    return measure.interleaved(cases, rounds=40), measure.interleaved(slow, rounds=10)


def _processor_time(case: Callable[[], object]) -> measure.Sampler:
    """A sampler that calls `case` and takes the processor time of this thread."""

    def sample(calls: int) -> float:
        start = time.thread_time()
        for _ in range(calls):
            case()
        return (time.thread_time() - start) / calls

    return sample
