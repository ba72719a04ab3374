"""The arm's bundle that ships with the package, and its route."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from interlock.kernel.batch import Array
from interlock.kernel.route import Route
from interlock.strict.arm.route import arm_route
from interlock.strict.engine import StrictEngine
from interlock.strict.runtime import StrictRuntime, load_onnx_runtime_bundle

SHIPPED = Path(__file__).parent / "shipped"
"""The bundle's directory. `make train-arm` replaces it."""


def open_arm(
    directory: Path | None = None,
) -> tuple[StrictRuntime, Route[Mapping[str, Array], Array]]:
    """The runtime of the arm's bundle and the route that serves it.

    directory  another bundle of the arm, such as one that was trained again

    Raises what `load_onnx_runtime_bundle` raises.
    """
    if directory is not None:
        runtime = load_onnx_runtime_bundle(directory)
    else:
        # Some installers hard-link a package's files, which loading refuses. These are trusted as
        # far as the code beside them is, so a copy of them is as good.
        with TemporaryDirectory() as scratch:
            copy = Path(scratch) / "arm"
            shutil.copytree(SHIPPED, copy, copy_function=shutil.copyfile)
            runtime = load_onnx_runtime_bundle(copy)
    engine = StrictEngine(runtime)
    return runtime, arm_route(engine, evidence=engine.evidence)
