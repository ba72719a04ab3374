"""ONNX models with P and Q among their outputs: read, and checked for what a bundle needs."""

from __future__ import annotations

import os
from collections.abc import Sequence

import onnx

from interlock.bundle import TensorSpec, signature_of
from interlock.kernel.batch import Array
from interlock.kernel.errors import BundleError, InputError
from interlock.strict.graph import OUTPUTS, TAU_INFER, TAU_TRAIN


def read_model(source: onnx.ModelProto | bytes | str | os.PathLike[str]) -> onnx.ModelProto:
    """The model; external tensors of a path are read from beside it, then it is self-contained.

    Raises InputError for anything that is not a model, or that lacks its external tensors.
    """
    model: onnx.ModelProto
    try:
        match source:
            case onnx.ModelProto():
                model = source
            case bytes():
                model = onnx.load_from_string(source)
            case str() | os.PathLike():
                model = onnx.load(os.fspath(source))
            case _:
                raise InputError(
                    f"source is a {type(source).__name__}; it must be an SCMInferenceWrapper, or "
                    "an ONNX model as a ModelProto, bytes or path"
                )
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"the model cannot be read: {error}") from None
    except Exception as error:  # noqa: BLE001 - protobuf's errors differ by backend
        raise InputError(f"the source is no ONNX model: {type(error).__name__}") from None
    if not model.graph.node or not model.graph.output:
        raise InputError("the source is no ONNX model: its graph has no nodes or no outputs")
    external = onnx.TensorProto.EXTERNAL
    if any(tensor.data_location == external for tensor in model.graph.initializer):
        raise InputError(
            "the model has external tensors, which bytes or a ModelProto lack",
            hint="give the model's path",
        )
    return model


def check_signature(graph: onnx.ModelProto, p: str, q: str) -> None:
    """Raise InputError unless the graph gives P and Q for any number of rows."""
    try:
        inputs, outputs = signature_of(graph)
    except BundleError as error:
        raise InputError(error.message) from None
    found = [spec.name for spec in outputs]
    for role, name in (("P", p), ("Q", q)):
        if name not in found:
            raise InputError(
                f"the model has no output {name!r} for {role}; it has {', '.join(found)}",
                hint="rename the model's outputs, or name them: outputs=('numerator', …)",
            )
        if name in (*OUTPUTS, TAU_INFER, TAU_TRAIN):
            raise InputError(f"the output for {role} is called {name!r}, which the decode needs")
    if not inputs:
        raise InputError("the model has no inputs")
    for spec in (*inputs, *(spec for spec in outputs if spec.name in (p, q))):
        if not spec.shape or not isinstance(spec.shape[0], str):
            raise InputError(
                f"{spec.name!r} has shape {spec.shape}; its first axis, the batch, must be open",
                hint="export the model with a dynamic batch axis",
            )


def check_inputs(what: str, arrays: Sequence[Array], specs: Sequence[TensorSpec]) -> None:
    """Raise InputError unless `arrays` fit the graph's inputs `specs`, one for each in order."""
    if len(arrays) != len(specs):
        names = ", ".join(spec.name for spec in specs)
        raise InputError(f"{what} has {len(arrays)} arrays; the model has the inputs {names}")
    for array, spec in zip(arrays, specs, strict=True):
        if array.dtype.name != spec.dtype:
            raise InputError(
                f"{what}: {spec.name!r} has dtype {array.dtype}; the model takes {spec.dtype}"
            )
        fits = array.ndim == len(spec.shape) and all(
            isinstance(dim, str) or dim == size
            for dim, size in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"{what}: {spec.name!r} has shape {array.shape}; the model takes {spec.shape}"
            )
