"""Whole model, slices and circuits side by side: what each costs, proves, and answers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import msgspec
import numpy as np

from interlock.kernel.batch import Array
from interlock.kernel.errors import EngineError
from interlock.kernel.outcome import Status
from interlock.kernel.progress import SILENT, Progress
from interlock.verified.inputs import read_inputs
from interlock.verified.result import InferenceResult, weaknesses
from interlock.verified.runner import Runner

TIMED_RUNS = 25


class MethodRow(msgspec.Struct, frozen=True):
    """One way to run the model on the example input.

    seconds        median of `TIMED_RUNS` runs; of a single one where a circuit ran
    same_class     whether it predicts the whole model's class; None for the whole model itself
    overhead       percent of time beyond the whole model's
    security_gain  percentage points of `security` beyond the whole model's, which has none
    circuit_sizes  bytes of each slice's compiled circuits, None where it has none
    """

    method: str
    predicted_class: int
    security: float
    seconds: float
    same_class: bool | None
    overhead: float | None
    security_gain: float | None
    circuit_sizes: list[int | None]
    proved: int
    onnx: int


class Difference(msgspec.Struct, frozen=True):
    """One element of the output in both computations."""

    index: int
    onnx: float
    circuit: float
    difference: float


class Differences(msgspec.Struct, frozen=True):
    """Circuits, by their witness, against ONNX on one input: over the output, in float64.

    maximum, mean, total  of the absolute differences
    relative              Euclidean norm of the differences over that of ONNX's output
    largest               the three largest, largest first
    circuits, onnx        slices that each answered on the circuits' side
    """

    maximum: float
    mean: float
    total: float
    relative: float
    largest: list[Difference]
    circuits: int
    onnx: int
    onnx_class: int
    circuit_class: int


class ManyInputs(msgspec.Struct, frozen=True):
    """Circuits (their witness) against ONNX over several inputs.

    refused     inputs that a circuit refused, such as an activation out of its range
    worst       largest absolute difference over the largest absolute logit of the same input,
                over the inputs that no circuit refused
    same_class  how many of these have the same predicted class
    """

    inputs: int
    worst: float
    same_class: int
    refused: int


class Comparison(msgspec.Struct, frozen=True):
    """All of it for one model; `differences` and `many` are None where there is no circuit.

    weaknesses  what stands against the proofs that were made, such as a development SRS
    """

    model: str
    parameters: int
    rows: list[MethodRow]
    differences: Differences | None
    many: ManyInputs | None
    weaknesses: tuple[str, ...] = ()


def compare(
    runner: Runner,
    inputs: Iterable[Array] | None = None,
    *,
    prove: bool = True,
    progress: Progress = SILENT,
) -> Comparison:
    """Run the model's example whole, in slices, and by its circuits, and compare the answers.

    inputs  further inputs, each of the model's shape, for the comparison of many
    prove   prove what can be proved; otherwise no proof is made
    progress
            is told of each further input

    Circuits that are missing are compiled, without keys, for their witness: it is what a proof
    would show. A slice of which no circuit can be made is answered by ONNX throughout; the rows say
    how many.
    """
    example = read_inputs(runner.directory.example, runner.inputs)
    seconds, whole = _timed(lambda: runner.infer("onnx_only", example))
    rows = [_row("Whole Model", whole, seconds, None)]
    differences = many = None
    said: tuple[str, ...] = ()
    if runner.sliced is not None and runner.metadata.Reconstruct:
        seconds, found = _timed(lambda: runner.infer("auto", example, circuits="none"))
        rows.append(_row("Sliced ONNX", found, seconds, rows[0]))
        if compile_circuits(runner):
            witness = runner.infer("auto", example, circuits="witness")
            rows.append(_row("Sliced Witness", witness, witness.time, rows[0]))
            differences = differ(whole.logits, witness)
            many = None if inputs is None else over_many(runner, inputs, progress)
        if prove:
            auto = runner.infer("auto", example)
            rows.append(_row("Sliced Auto", auto, auto.time, rows[0]))
            said = weaknesses(auto)
    return Comparison(runner.name, runner.metadata.parameters, rows, differences, many, said)


def compile_circuits(runner: Runner) -> int:
    """Compile the circuits that are missing; returns how many slices have one."""
    there = 0
    for part in () if runner.sliced is None else runner.sliced.slices:
        if runner.prover.circuit_bytes(part) is None:
            try:
                runner.prover.compile(part)
            except EngineError:
                continue
        there += 1
    return there


def differ(onnx: Array, circuits: InferenceResult) -> Differences:
    """The differences between ONNX's first output and the circuits'."""
    wanted = np.asarray(onnx, dtype=np.float64).ravel()
    found = np.asarray(circuits.logits, dtype=np.float64).ravel()
    distance = np.abs(found - wanted)
    norm = float(np.linalg.norm(wanted))
    order = np.argsort(-distance, kind="stable")[:3]
    by_onnx = sum(entry.method == "onnx" for entry in circuits.execution_results)
    return Differences(
        maximum=float(distance.max()),
        mean=float(distance.mean()),
        total=float(distance.sum()),
        relative=float(np.linalg.norm(found - wanted)) / norm if norm else 0.0,
        largest=[
            Difference(int(k), float(wanted[k]), float(found[k]), float(distance[k])) for k in order
        ],
        circuits=len(circuits.execution_results) - by_onnx,
        onnx=by_onnx,
        onnx_class=int(wanted.argmax()),
        circuit_class=int(found.argmax()),
    )


def over_many(runner: Runner, inputs: Iterable[Array], progress: Progress = SILENT) -> ManyInputs:
    """The witnesses of the circuits against ONNX over several inputs."""
    worst, same, refused, total = 0.0, 0, 0, 0
    for given in inputs:
        total += 1
        wanted = runner.infer("onnx_only", given)
        found = runner.infer("auto", given, circuits="witness")
        # Where ONNX answered in a circuit's place, it would be compared with itself.
        if any(
            entry.reason.startswith(("out of range", "proof failed"))
            for entry in found.execution_results
        ):
            refused += 1
        else:
            largest = float(np.abs(wanted.logits).max())
            distance = float(np.abs(found.logits.astype(np.float64) - wanted.logits).max())
            worst = max(worst, distance / largest if largest else distance)
            same += found.predicted_class == wanted.predicted_class
        progress.advance({Status.ACCEPTED: 1})
    return ManyInputs(total, worst, same, refused)


def _timed(run: Callable[[], InferenceResult]) -> tuple[float, InferenceResult]:
    """The median time, and the last answer."""
    found = run()
    taken = []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        found = run()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken), found


def _row(method: str, found: InferenceResult, seconds: float, whole: MethodRow | None) -> MethodRow:
    entries = found.execution_results
    return MethodRow(
        method=method,
        predicted_class=found.predicted_class,
        security=found.overall_security,
        seconds=seconds,
        same_class=None if whole is None else found.predicted_class == whole.predicted_class,
        overhead=None if whole is None else 100 * (seconds / whole.seconds - 1),
        security_gain=None if whole is None else found.overall_security - whole.security,
        circuit_sizes=[] if whole is None else [entry.circuit_size for entry in entries],
        proved=found.proved,
        onnx=sum(entry.method == "onnx" for entry in entries),
    )
