"""Versions of a small classifier that misbehave as scripted, registered as routes of a package.

`y` is 1 where `x` is above 0.5, which is the truth of the tests.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from interlock.bundle.metadata import TensorSpec
from interlock.kernel.batch import Array
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import EngineError
from interlock.kernel.route import BatchAnswer, Route, RouteStep

KINDS = ("stable", "good", "slow", "erroring", "leaking", "alarmist", "broken")
SLOW_SECONDS = 0.6
LEAK = 1 << 20


@dataclass
class Scripted:
    """One version. What it does depends on the input alone, and on how often it was asked."""

    kind: str
    kept: list[bytes] = field(default_factory=list)

    @property
    def signature(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """One number a row in, one out."""
        return (TensorSpec("x", "float32", ("N",)),), (TensorSpec("y", "float32", ("N",)),)

    def describe(self) -> dict[str, Any]:
        """What tells the versions apart."""
        return {"kind": self.kind}

    def answer_batch(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> BatchAnswer:
        """The answer, or what is scripted."""
        x = inputs["x"]
        chance = float(x[0]) * 1000 % 1  # as good as drawn, and the same for the same input
        if self.kind == "broken":
            raise EngineError("it never works")
        if self.kind == "slow" and chance < 0.2:
            time.sleep(SLOW_SECONDS)
        # The self-test asks for ones, on which it must not fail.
        if self.kind == "erroring" and x[0] != 1 and chance < 0.25:
            raise EngineError("as scripted")
        if self.kind == "leaking":
            self.kept.append(os.urandom(LEAK))
        y = (x > 0.5).astype(np.float32)
        if self.kind == "alarmist" and chance < 0.3:
            y[:] = 1
        return BatchAnswer(y)


def _factory(kind: str) -> Any:
    def make(options: Mapping[str, Any], *, base: Path) -> Route[Any, Any]:
        step = RouteStep("classifier", Scripted(kind))
        return Route(name="scripted", steps=(step,), otherwise="refuse")

    return make


stable, good, slow, erroring, leaking, alarmist, broken = (_factory(kind) for kind in KINDS)


def install(place: Path) -> dict[str, str]:
    """Register the versions as `route:scripted-<kind>`; the environment that a server needs."""
    about = place / "scripted_versions-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: scripted-versions\nVersion: 1.0\n"
    )
    lines = [f"scripted-{kind} = support.scripted_versions:{kind}" for kind in KINDS]
    (about / "entry_points.txt").write_text("\n".join(["[interlock.routes]", *lines, ""]))
    tests = Path(__file__).parents[1]
    paths = [str(tests), str(tests.parent / "src"), str(place)]
    return {"PYTHONPATH": os.pathsep.join(paths)}
