"""The arm's bundle that ships with the package, and its route."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from interlock.kernel.batch import Array
from interlock.kernel.route import Route
from interlock.strict.arm.route import arm_route
from interlock.strict.engine import StrictEngine
from interlock.strict.runtime import StrictRuntime, load_onnx_runtime_bundle

SHIPPED = Path(__file__).parent / "shipped"
"""The bundle's directory. `make train-arm` replaces it."""


def open_arm(directory: Path = SHIPPED) -> tuple[StrictRuntime, Route[Mapping[str, Array], Array]]:
    """The runtime of the arm's bundle and the route that serves it.

    Raises what `load_onnx_runtime_bundle` raises.
    """
    runtime = load_onnx_runtime_bundle(directory)
    engine = StrictEngine(runtime)
    return runtime, arm_route(engine, evidence=engine.evidence)
