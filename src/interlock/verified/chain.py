"""Runs the slices of a model one after another, each by its circuit where it can, else by ONNX.

A slice is a route: the step `circuit`, then the step `onnx`. Stretches of slices whose circuit is
barred before it is asked run over bound buffers instead, with the same record: a route's own cost
is more than what a small slice takes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import msgspec

from interlock.engines.onnx import Optimization
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import EngineError, EngineUnavailableError
from interlock.kernel.outcome import EvidenceKind, Outcome, Status, Step, StepResult
from interlock.kernel.route import Route, RouteStep
from interlock.verified.bound import BoundSlices
from interlock.verified.prover import Prover, SliceProof
from interlock.verified.slices import Slice, SlicedModel
from interlock.verified.steps import (
    CIRCUIT,
    ONNX,
    Policy,
    Tensors,
    attested,
    circuit_step,
    fallback_reason,
    onnx_step,
)

DEFAULT_POLICY = Policy()


class SliceRun(msgspec.Struct, frozen=True):
    """One slice of one inference.

    outcome       the steps taken, with reasons and times, and the evidence; it holds no value
    proof         where it was proved
    inputs        what entered, and `outputs` what left, by name; empty where not recorded
    circuit_size  bytes of its compiled circuits, None where it has none
    """

    part: Slice
    outcome: Outcome[None]
    proof: SliceProof | None = None
    inputs: Tensors = {}
    outputs: Tensors = {}
    circuit_size: int | None = None

    @property
    def method(self) -> str:
        """`circuit` where it was proved, `witness` where its circuit ran without proof, `onnx`."""
        if self.outcome.steps[-1].name == ONNX:
            return ONNX
        return CIRCUIT if self.proof is not None else "witness"

    @property
    def verified(self) -> bool:
        """Whether a proof backs it. A replay does not count."""
        return self.outcome.evidence.kind is EvidenceKind.PROVED

    @property
    def fallback(self) -> str | None:
        """Why ONNX answered though a circuit was wanted; None where it did not."""
        first = self.outcome.steps[0]
        if self.method != ONNX or first.name != CIRCUIT:
            return None
        return fallback_reason(first.result, first.reason)

    @property
    def seconds(self) -> float:
        """Of all steps together."""
        return sum(step.seconds for step in self.outcome.steps)


class _Stretch(msgspec.Struct, frozen=True):
    """Slices that ONNX answered over bound buffers, before they are put on record.

    The record is made when somebody looks: it takes as long as a slice of a small model.

    before  the steps of each slice ahead of ONNX's
    sizes   bytes of the circuits of each; None where no circuit was wanted
    """

    parts: tuple[Slice, ...]
    before: Sequence[tuple[Step, ...]]
    seconds: list[float]
    sizes: list[int | None] | None
    tensors: Tensors

    def runs(self) -> Iterator[SliceRun]:
        """The record of each slice."""
        sizes = self.sizes if self.sizes is not None else [None] * len(self.parts)
        columns = zip(self.parts, self.before, self.seconds, sizes, strict=True)
        for part, before, took, size in columns:
            evidence = attested(part)
            step = Step(ONNX, StepResult.ACCEPTED, "", took, 1, (evidence,))
            outcome: Outcome[None] = Outcome(
                Status.ACCEPTED, None, (*before, step), evidence, part.name
            )
            yield _record(part, outcome, None, self.tensors, size)


class ChainRun:
    """One inference through all slices.

    inputs   of the whole model by name, and `outputs` likewise
    seconds  in all
    """

    def __init__(
        self,
        model: SlicedModel,
        parts: Sequence[SliceRun | _Stretch],
        inputs: Tensors,
        outputs: Tensors,
        seconds: float,
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.outputs = outputs
        self.seconds = seconds
        self._parts = parts

    @cached_property
    def slices(self) -> tuple[SliceRun, ...]:
        """The record of every slice, in order."""
        found: list[SliceRun] = []
        for part in self._parts:
            found += part.runs() if isinstance(part, _Stretch) else [part]
        return tuple(found)

    @property
    def proved(self) -> int:
        """Slices with a proof that verified."""
        return sum(run.verified for run in self.slices)

    @property
    def replayed(self) -> int:
        """Slices that another process ran again and gave the same bits for."""
        return sum(run.outcome.evidence.kind is EvidenceKind.REPLAYED for run in self.slices)

    @property
    def unverified(self) -> int:
        """The rest."""
        return len(self.slices) - self.proved - self.replayed


class SliceChain:
    """A sliced model with its sessions open and its prover at hand. Safe across threads."""

    def __init__(
        self, model: SlicedModel, prover: Prover, optimization: Optimization = "all"
    ) -> None:
        self.model = model
        self.prover = prover
        self.bound = BoundSlices(model, optimization)
        self._nothing_asked: list[tuple[Step, ...]] = [()] * len(model.slices)
        self._steps: dict[tuple[object, ...], list[Route[Tensors, Any]]] = {}

    def run(
        self,
        inputs: Tensors,
        policy: Policy = DEFAULT_POLICY,
        *,
        deadline: Deadline = NO_DEADLINE,
    ) -> ChainRun:
        """Answer `inputs`, which must fit the model's.

        Raises EngineError, naming the slice and the reason of every step, where a slice gives no
        answer; no later circuit is asked then. Without fallback, EngineUnavailableError before
        anything runs where a circuit is barred.
        """
        started = time.perf_counter()
        tensors = dict(inputs)
        done: list[SliceRun | _Stretch]
        if policy.circuits == "none":
            done = [self._stretch(0, self._nothing_asked, tensors, policy, deadline)]
        else:
            done = self._asked(tensors, policy, deadline)
        outputs = {name: tensors[name] for name in self.model.outputs}
        return ChainRun(self.model, done, inputs, outputs, time.perf_counter() - started)

    def _asked(
        self, tensors: dict[str, Any], policy: Policy, deadline: Deadline
    ) -> list[SliceRun | _Stretch]:
        """Run the slices, asking the circuit of each that is not barred."""
        routes = self._routes(policy)
        if not policy.fallback:
            self._require(routes, policy, deadline)
        done: list[SliceRun | _Stretch] = []
        at, total = 0, len(self.model.slices)
        while at < total:
            barred: list[tuple[Step, ...]] = []
            for route in routes[at:]:
                before = self._before_onnx(route, policy, deadline)
                if before is None:
                    break
                barred.append(before)
            if barred:
                done.append(self._stretch(at, barred, tensors, policy, deadline))
            else:
                done.append(self._ask(at, routes[at], tensors, deadline))
            at += max(1, len(barred))
        return done

    def _routes(self, policy: Policy) -> list[Route[Tensors, Any]]:
        """The route of each slice, made once for each set of limits."""
        key = (policy.circuits, policy.fallback, policy.time_limit, policy.size_limit)
        routes = self._steps.get(key)
        if routes is None:
            routes = [self._route(part, policy) for part in self.model.slices]
            if len(self._steps) >= 16:  # limits that change with every call must not pile up
                self._steps.clear()
            self._steps[key] = routes
        return routes

    def _route(self, part: Slice, policy: Policy) -> Route[Tensors, Any]:
        steps: tuple[RouteStep, ...] = (circuit_step(self.prover, part, policy),)
        if policy.fallback:
            steps += (onnx_step(self.bound, part),)
        return Route(part.name, steps, "refuse")

    def _require(
        self, routes: list[Route[Tensors, Any]], policy: Policy, deadline: Deadline
    ) -> None:
        """Raise EngineUnavailableError, naming every slice whose circuit is barred, and why."""
        reasons = []
        for route in routes:
            steps = self._before_onnx(route, policy, deadline)
            if steps is not None:
                why = fallback_reason(steps[0].result, steps[0].reason)
                reasons.append(f"{route.name}: {why}")
        if reasons:
            raise EngineUnavailableError(
                f"{len(reasons)} of {len(routes)} slices cannot be proved: {'; '.join(reasons)}",
                hint="set the slices up, or let ONNX answer for them with the mode 'auto'",
            )

    def _before_onnx(
        self, route: Route[Tensors, Any], policy: Policy, deadline: Deadline
    ) -> tuple[Step, ...] | None:
        """The steps on record where ONNX answers without a circuit being asked; None where not."""
        excluded = policy.excluded.get(route.name)
        if excluded is not None:
            return (Step(CIRCUIT, StepResult.UNAVAILABLE, excluded, attempts=0),)
        why = route.gate(route.steps[0], {}, deadline)
        return None if why is None else (Step(CIRCUIT, *why, attempts=0),)

    def _stretch(
        self,
        start: int,
        barred: Sequence[tuple[Step, ...]],
        tensors: dict[str, Any],
        policy: Policy,
        deadline: Deadline,
    ) -> _Stretch:
        stop = start + len(barred)
        seconds = self.bound.run(start, stop, tensors, record=policy.record, deadline=deadline)
        parts = self.model.slices[start:stop]
        asked = policy.circuits != "none"
        sizes = [self.prover.circuit_bytes(part) for part in parts] if asked else None
        kept = dict(tensors) if policy.record else {}
        return _Stretch(parts, barred, seconds, sizes, kept)

    def _ask(
        self, index: int, route: Route[Tensors, Any], tensors: dict[str, Any], deadline: Deadline
    ) -> SliceRun:
        part = self.model.slices[index]
        entering = {spec.name: tensors[spec.name] for spec in part.inputs}
        found = route.run(entering, deadline=deadline)
        if not found.status.usable:
            raise EngineError(f"{part.name} failed: {'; '.join(found.reasons)}")
        answer: Any = found.value
        proof = answer if isinstance(answer, SliceProof) else None
        tensors.update(answer if proof is None else proof.outputs)
        outcome: Outcome[None] = Outcome(
            found.status, None, found.steps, found.evidence, found.route
        )
        return _record(part, outcome, proof, tensors, self.prover.circuit_bytes(part))


def _record(
    part: Slice,
    outcome: Outcome[None],
    proof: SliceProof | None,
    tensors: Tensors,
    size: int | None,
) -> SliceRun:
    """The record of a slice, with what entered and left it where `tensors` were kept."""
    if not tensors:
        return SliceRun(part, outcome, proof, circuit_size=size)
    inputs = {spec.name: tensors[spec.name] for spec in part.inputs}
    outputs = {spec.name: tensors[spec.name] for spec in part.outputs}
    return SliceRun(part, outcome, proof, inputs, outputs, size)
