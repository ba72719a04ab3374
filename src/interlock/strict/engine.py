"""A strict bundle as the engine of a route."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from interlock.bundle.metadata import TensorSpec
from interlock.kernel.batch import Array
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import InputError
from interlock.kernel.outcome import Evidence
from interlock.kernel.route import BatchAnswer
from interlock.strict.runtime import StrictRuntime


@dataclass(frozen=True)
class StrictEngine:
    """Answers a batch with `runtime`; put a `MaskGuard` behind it.

    The route's inputs that bear the names of the model's inputs go to the model. The masks come
    as the fields `bottom_mask` and `gap_mask`.
    """

    runtime: StrictRuntime

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """What the bundle attests, behind every answer."""
        return (self.runtime.bundle.evidence(),)

    @property
    def signature(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """The tensors that it takes, and the one that is a route's value."""
        metadata = self.runtime.bundle.metadata
        return metadata.inputs, metadata.outputs[:1]

    def describe(self) -> dict[str, str | float | None]:
        """The bundle's name and digest and the thresholds, for reports and digests of routes."""
        bundle, config = self.runtime.bundle, self.runtime.config
        return {
            "bundle": bundle.digest,
            "name": bundle.metadata.name,
            "tau_infer": config.tau_infer,
            "tau_train": config.tau_train,
        }

    def answer_batch(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> BatchAnswer:
        """The decoded values and the masks; raises InputError where an input is missing."""
        taken = {}
        for spec in self.runtime.bundle.metadata.inputs:
            if spec.name not in inputs:
                raise InputError(f"the route has no input {spec.name!r}, which the model takes")
            taken[spec.name] = inputs[spec.name]
        decoded, bottom, gap = self.runtime.run(taken, deadline=deadline)
        return BatchAnswer(decoded, {"bottom_mask": bottom, "gap_mask": gap})
