"""ONNX models behind HTTP: bundles, strict ones by rows with their masks, and plain files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from interlock.bundle import DEFAULT_LIMITS, load, signature_of
from interlock.bundle.load import Bundle
from interlock.bundle.metadata import OUTPUT_ORDER, SmokeVector, TensorSpec
from interlock.bundle.pack import read_model
from interlock.bundle.structure import check_structure, parse_model
from interlock.engines.onnx import OnnxEngine, SessionConfig
from interlock.engines.worker import WorkerPool
from interlock.kernel.batch import Array
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import BundleContractError, BundleIntegrityError, EngineError
from interlock.kernel.outcome import Evidence, EvidenceKind
from interlock.kernel.route import BatchAnswer, BatchVerdict, Route, RouteStep
from interlock.serve.served import Answer, Workers, agrees, check_inputs, workers_of
from interlock.serve.settings import ModelSettings
from interlock.serve.stub import depends_on_inputs
from interlock.serve.tensors import DATATYPES
from interlock.strict.guards import MaskGuard
from interlock.strict.runtime import validate_bundle

_STEP = "model"


@dataclass
class OnnxServed:
    """An ONNX model in killable processes, behind a route of one step.

    by_rows  the first axis of every tensor counts rows, and each row is judged by itself; else a
             request is one item. The other fields are as in `Served`
    smoke    vectors that the self-test and the canary must reproduce
    told_to_merge
             the settings ask for merging; a model whose rows then turn out to depend on one another
             is refused, where it otherwise is only not merged
    """

    name: str
    version: str
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    diagnostics: frozenset[str]
    mergeable: bool
    by_rows: bool
    route: Route[Any, Any]
    pool: WorkerPool
    model: bytes = field(repr=False)
    smoke: tuple[SmokeVector, ...] = ()
    told_to_merge: bool = False

    def start(self, deadline: Deadline) -> None:
        """See `Served.start`; a graph whose outputs ignore its inputs is refused as a stub."""
        if not depends_on_inputs(self.model):
            raise BundleContractError(
                f"{self.name} is a stub: no output of its graph depends on an input"
            )
        self.pool.start(deadline)
        for index in range(max(1, len(self.smoke))):
            self._probe(index, deadline)
        if self.mergeable and not self._rows_stand_alone(deadline):
            if self.told_to_merge:
                raise BundleContractError(
                    f"{self.name}: merge is true, but its rows depend on the rows beside them",
                    hint="merge = false",
                )
            self.mergeable = False

    def check(self, inputs: Mapping[str, Array]) -> int:
        """See `Served.check`."""
        return check_inputs(self.inputs, inputs, self.by_rows)

    def infer(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> Answer:
        """See `Served.infer`."""
        if not self.by_rows:
            single = self.route.run(inputs, deadline=deadline)
            return Answer(single, {} if single.value is None else single.value)
        outcome = self.route.run_batch(inputs, deadline=deadline)
        # The engine's first output is the value; the route has blanked its refused rows.
        value, *rest = (spec.name for spec in self.outputs)
        outputs = {value: outcome.value}
        for name in rest:
            array = outcome.fields.get(f"{_STEP}.{name}")
            if array is None:
                continue
            if name not in self.diagnostics and array.dtype.kind in "fc":
                array = array.copy()
                array[~outcome.answered] = np.nan
            outputs[name] = array
        return Answer(outcome, outputs)

    def canary(self, *, deadline: Deadline) -> None:
        """See `Served.canary`: the first smoke vector, or zeros where there is none."""
        self._probe(0, deadline)

    def workers(self) -> Workers:
        """See `Served.workers`."""
        return workers_of(self.pool)

    def close(self) -> None:
        """See `Served.close`."""
        self.pool.close()

    def _rows_stand_alone(self, deadline: Deadline) -> bool:
        """Whether some rows come out the same alone, and between others: a test, no proof."""
        if self.smoke:
            alone, rtol, atol = self.smoke[0].inputs, self.smoke[0].rtol, self.smoke[0].atol
        else:
            alone, rtol, atol = {spec.name: _varied(spec) for spec in self.inputs}, 1e-5, 1e-6
        names = [spec.name for spec in self.outputs]
        rows = next(iter(alone.values())).shape[0]
        others = {n: (a[::-1] * 3 if a.dtype.kind == "f" else a[::-1]) for n, a in alone.items()}
        between = {n: np.concatenate([others[n], a, others[n]]) for n, a in alone.items()}
        first = self.pool.run(alone, outputs=names, deadline=deadline)
        found = self.pool.run(between, outputs=names, deadline=deadline)
        return all(agrees(found[name][rows : 2 * rows], first[name], rtol, atol) for name in names)

    def _probe(self, index: int, deadline: Deadline) -> None:
        if not self.smoke:
            self.pool.run(
                {spec.name: _zeros(spec) for spec in self.inputs},
                outputs=[spec.name for spec in self.outputs],
                deadline=deadline,
            )
            return
        vector = self.smoke[index]
        found = self.pool.run(vector.inputs, outputs=list(vector.outputs), deadline=deadline)
        for name, expected in vector.outputs.items():
            if not agrees(found[name], expected, vector.rtol, vector.atol):
                raise EngineError(f"{self.name}: output '{name}' differs from smoke vector {index}")


def bundle_served(name: str, settings: ModelSettings, path: Path) -> OnnxServed:
    """The bundle in `path`, checked and probed as `interlock.bundle.load` does; its errors."""
    options: dict[str, Any] = {
        "expected_digest": settings.expected_digest,
        "require_signature": None
        if settings.require_signature is None
        else Path(settings.require_signature),
    }
    bundle = load(path, **options)
    if bundle.metadata.strict is not None:
        # What was probed is remembered, so this costs reading and hashing only.
        bundle = validate_bundle(path, **options)
    metadata = bundle.metadata
    by_rows = metadata.strict is not None or (
        metadata.batch_axis == 0 and numeric_rows(metadata.inputs, metadata.outputs)
    )
    return _served(
        name,
        settings,
        model=bundle.model,
        version=bundle.digest,
        platform="interlock_strict" if metadata.strict is not None else "onnx_onnxv1",
        inputs=metadata.inputs,
        outputs=metadata.outputs,
        by_rows=by_rows,
        bundle=bundle,
        smoke=metadata.smoke,
    )


def file_served(name: str, settings: ModelSettings, path: Path) -> OnnxServed:
    """The ONNX file at `path`, its external tensors put in.

    Raises BundleFormatError for a graph that a bundle could not hold either, and
    BundleIntegrityError for another digest than the expected one.
    """
    model = read_model(path, DEFAULT_LIMITS)
    parsed = parse_model(model, DEFAULT_LIMITS)
    check_structure(parsed, {}, DEFAULT_LIMITS)
    inputs, outputs = signature_of(parsed)
    version = f"sha256:{hashlib.sha256(model).hexdigest()}"
    if settings.expected_digest not in (None, version):
        raise BundleIntegrityError(
            f"the model's digest is {version}, expected {settings.expected_digest}"
        )
    return _served(
        name,
        settings,
        model=model,
        version=version,
        platform="onnx_onnxv1",
        inputs=inputs,
        outputs=outputs,
        by_rows=numeric_rows(inputs, outputs),
        bundle=None,
        smoke=(),
    )


def _served(
    name: str,
    settings: ModelSettings,
    *,
    model: bytes,
    version: str,
    platform: str,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    by_rows: bool,
    bundle: Bundle | None,
    smoke: tuple[SmokeVector, ...],
) -> OnnxServed:
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            if spec.dtype not in DATATYPES:
                raise BundleContractError(
                    f"{name}: {kind} '{spec.name}' is of {spec.dtype}, which has no data type in "
                    "the Open Inference Protocol",
                    hint="cast it to float32 within the graph",
                )
    strict = bundle is not None and bundle.metadata.strict is not None
    pool = WorkerPool(
        model,
        SessionConfig(intra_op_threads=settings.threads),
        size=settings.workers,
        memory_limit=settings.memory_limit,
        call_seconds=settings.call_seconds,
        name=name,
    )
    value, *rest = (spec.name for spec in outputs)
    evidence = (
        Evidence(EvidenceKind.ATTESTED, "model", {"model": version})
        if bundle is None
        else bundle.evidence()
    )
    step = RouteStep(
        _STEP,
        OnnxEngine(pool, value=value, fields=rest) if by_rows else _WholeEngine(pool.run),
        guards=() if not by_rows else (MaskGuard(),) if strict else (_FiniteFields(),),
        evidence=(evidence,),
    )
    return OnnxServed(
        name=name,
        version=version,
        platform=platform,
        inputs=inputs,
        outputs=outputs,
        diagnostics=frozenset(OUTPUT_ORDER[1:]) if strict else frozenset(),
        # A plain graph may mix its rows, which no declaration rules out; a strict bundle's contract
        # is by rows. The self-test looks at both.
        mergeable=by_rows and (strict if settings.merge is None else settings.merge),
        by_rows=by_rows,
        route=Route(name=name, steps=(step,), otherwise="refuse"),
        pool=pool,
        model=model,
        smoke=smoke,
        told_to_merge=settings.merge is True,
    )


@dataclass(frozen=True)
class _WholeEngine:
    """A request as one item: name -> array in, name -> array out."""

    run: Callable[..., dict[str, Array]]

    def answer(self, item: Mapping[str, Array], *, deadline: Deadline) -> dict[str, Array]:
        return self.run(item, deadline=deadline)


class _FiniteFields:
    """Refuses rows with a NaN or an infinity in any output; the route looks at the first only."""

    def check_batch(self, inputs: Mapping[str, Array], answer: BatchAnswer) -> BatchVerdict:
        refuse: dict[str, Array] = {}
        for name, array in answer.fields.items():
            if array.dtype.kind in "fc":
                axes = tuple(range(1, array.ndim))
                refuse[f"output '{name}' is not finite"] = np.asarray(
                    ~np.isfinite(array).all(axis=axes)
                )
        return BatchVerdict(refuse=refuse)


def numeric_rows(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> bool:
    """Whether every tensor starts with the same symbolic dimension, and is numeric."""
    firsts = {spec.shape[0] if spec.shape else None for spec in (*inputs, *outputs)}
    numeric = all(spec.dtype != "string" for spec in (*inputs, *outputs))
    return numeric and len(firsts) == 1 and isinstance(next(iter(firsts)), str)


def _zeros(spec: TensorSpec) -> Array:
    shape = tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)
    if spec.dtype == "string":
        return np.full(shape, "", dtype=object)
    return np.zeros(shape, dtype=spec.dtype)


def _varied(spec: TensorSpec) -> Array:
    """Two rows that differ: halves for floats, zeros and ones for the rest."""
    shape = tuple(dim if isinstance(dim, int) else 2 for dim in spec.shape)
    steps = np.arange(int(np.prod(shape))).reshape(shape)
    return (steps % 5 / 2 if spec.dtype.startswith("float") else steps % 2).astype(spec.dtype)
