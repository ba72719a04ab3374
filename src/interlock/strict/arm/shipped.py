"""The arm's bundle that ships with the package, its route, and its network."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from interlock.bundle.contract import decode_nodes
from interlock.kernel.batch import Array
from interlock.kernel.route import Route
from interlock.strict.arm.route import arm_route
from interlock.strict.engine import StrictEngine
from interlock.strict.runtime import StrictRuntime, load_onnx_runtime_bundle

if TYPE_CHECKING:
    import onnx

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


def shipped_network() -> onnx.ModelProto:
    """The shipped P/Q network without its decode: input `x`, outputs `P` and `Q`.

    Raises what `open_arm` raises.
    """
    import onnx
    from onnx import helper

    runtime, _ = open_arm()
    bundle = runtime.bundle
    strict = bundle.metadata.strict
    assert strict is not None
    model = onnx.load_model_from_string(bundle.model)
    graph = model.graph
    shapes = {spec.name: spec.shape for spec in bundle.metadata.outputs}
    decode = {node.output[0] for node in decode_nodes(graph, strict)}
    network = [node for node in graph.node if node.output[0] not in decode]
    used = {name for node in network for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    rows, size = shapes["decoded"]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(strict.dtype))
    outputs = [
        helper.make_tensor_value_info(strict.p, kind, [rows, size]),
        helper.make_tensor_value_info(strict.q, kind, [rows, 1]),
    ]
    for field, parts in (("node", network), ("initializer", constants), ("output", outputs)):
        graph.ClearField(field)
        getattr(graph, field).extend(parts)
    return model
