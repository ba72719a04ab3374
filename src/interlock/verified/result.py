"""What an inference gives: readable as attributes, and as a mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from interlock.kernel.batch import Array
from interlock.kernel.errors import EngineError
from interlock.verified.chain import ChainRun, SliceRun
from interlock.verified.steps import ONNX

WHOLE = "whole_model"


class _Record(Mapping[str, Any]):
    """A frozen dataclass as a mapping of its fields, those marked `hidden` left out."""

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    @classmethod
    def _keys(cls) -> list[str]:
        return [f.name for f in fields(cls) if "hidden" not in f.metadata]  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class SliceResult(_Record):
    """How one slice was answered.

    slice          its name; `whole_model` where the model ran in one piece
    method         `circuit` (proved), `witness` (its circuit ran without a proof), `onnx`
    verified       whether a proof that verified backs it
    fallback_used  whether ONNX answered though a circuit was wanted
    reason         why it fell back: no circuit, no key, size, time, proof failed, out of range,
                   excluded
    circuit_size   bytes of its compiled circuits; None where it has none
    time           seconds
    """

    slice: str
    method: str
    verified: bool
    fallback_used: bool
    reason: str
    circuit_size: int | None
    time: float


@dataclass(frozen=True, eq=False)
class InferenceResult(_Record):
    """The answer, and what backs it.

    logits             the model's first output, with its batch axis
    probabilities      softmax over its last axis, float64
    predicted_class    index of the largest logit
    execution_results  one entry a slice
    execution_method   `whole_onnx`, `sliced_circuits`, `sliced_mixed`, `sliced_witness`,
                       `sliced_onnx`
    overall_security   percent of the slices that were proved in this inference
    proved, replayed, unverified
                       slices with a verified proof, slices that another process ran again with the
                       same bits, and the rest
    time               seconds in all

    Beside the mapping's keys: `outputs`, all of the model's by name, and `run`, the record of the
    slices, None where the model ran whole.
    """

    logits: Array
    probabilities: Array
    predicted_class: int
    execution_results: tuple[SliceResult, ...]
    execution_method: str
    overall_security: float
    proved: int
    replayed: int
    unverified: int
    time: float
    outputs: Mapping[str, Array] = field(metadata={"hidden": True}, repr=False)
    run: ChainRun | None = field(default=None, metadata={"hidden": True}, repr=False)

    def to_plain(self) -> dict[str, Any]:
        """The mapping in JSON's own types."""
        found = dict(self)
        found["logits"] = self.logits.tolist()
        found["probabilities"] = self.probabilities.tolist()
        found["execution_results"] = [dict(entry) for entry in self.execution_results]
        return found


def weaknesses(result: InferenceResult) -> tuple[str, ...]:
    """What the provers themselves say against their proofs, such as a development SRS, once each.

    A prover says it under `srs_warning` in the detail of a proof.
    """
    runs = () if result.run is None else result.run.slices
    said = [run.proof.detail.get("srs_warning") for run in runs if run.proof is not None]
    return tuple(dict.fromkeys(str(warning) for warning in said if warning))


def of_chain(run: ChainRun, seconds: float) -> InferenceResult:
    """The result of an inference through the slices."""
    methods = {entry.method for entry in run.slices}
    if methods == {"onnx"}:
        method = "sliced_onnx"
    elif len(methods) == 1:
        method = {"circuit": "sliced_circuits", "witness": "sliced_witness"}[methods.pop()]
    else:
        method = "sliced_mixed"
    return _result(run.outputs, tuple(_slice(entry) for entry in run.slices), method, seconds, run)


def of_whole(outputs: Mapping[str, Array], seconds: float, fallback: str | None) -> InferenceResult:
    """The result of the whole model on ONNX Runtime.

    fallback  why, where the whole model is not what was asked for
    """
    entry = SliceResult(WHOLE, ONNX, False, fallback is not None, fallback or "", None, seconds)
    return _result(outputs, (entry,), "whole_onnx", seconds, None)


def require_finite(outputs: Mapping[str, Array]) -> None:
    """Raise EngineError, naming the output, for one that is not finite."""
    for name, array in outputs.items():
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise EngineError(f"the model's output '{name}' is not finite")


def _slice(run: SliceRun) -> SliceResult:
    why = run.fallback
    return SliceResult(
        slice=run.part.name,
        method=run.method,
        verified=run.verified,
        fallback_used=why is not None,
        reason=why or "",
        circuit_size=run.circuit_size,
        time=run.seconds,
    )


def _result(
    outputs: Mapping[str, Array],
    entries: tuple[SliceResult, ...],
    method: str,
    seconds: float,
    run: ChainRun | None,
) -> InferenceResult:
    name, logits = next(iter(outputs.items()))
    if logits.size == 0 or logits.dtype.kind not in "biuf":
        raise EngineError(f"the model's first output '{name}' holds no numbers, so names no class")
    proved = 0 if run is None else run.proved
    return InferenceResult(
        logits=logits,
        probabilities=softmax(logits),
        predicted_class=int(logits.argmax()),
        execution_results=entries,
        execution_method=method,
        overall_security=100 * proved / len(entries),
        proved=proved,
        replayed=0 if run is None else run.replayed,
        unverified=len(entries) if run is None else run.unverified,
        time=seconds,
        outputs=outputs,
        run=run,
    )


def softmax(logits: Array) -> Array:
    """Shares over the last axis, float64; the largest logit is subtracted first."""
    real = np.asarray(logits, dtype=np.float64)
    if real.ndim == 0:
        return np.ones_like(real)
    powers = np.exp(real - real.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
