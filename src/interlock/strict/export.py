"""Export a P/Q model as a strict bundle: decode fused into the graph, answers compared, packed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import onnx

from interlock.bundle import (
    Bundle,
    Metadata,
    SmokeVector,
    StrictContract,
    TensorSpec,
    pack,
    signature_of,
)
from interlock.engines.onnx import OnnxSession
from interlock.kernel.batch import Array
from interlock.kernel.errors import BundleError, ConfigError, EngineError, InputError
from interlock.strict.compare import compare_answers, near_threshold, tolerance
from interlock.strict.config import InferenceConfig
from interlock.strict.decode import StrictResult
from interlock.strict.graph import OUTPUTS, TAU_INFER, TAU_TRAIN, append_decode
from interlock.strict.shapes import mask_shape
from interlock.strict.tensors import to_numpy

Inputs = tuple[Array, ...]
Pair = tuple[Array, Array]

OPSET = 18

SMOKE_ROWS = 64
"""How many rows of the example inputs are kept as a smoke vector."""

SMOKE_TOLERANCE = {"float32": (1e-3, 1e-5), "float64": (1e-9, 1e-12)}
"""rtol and atol of a smoke vector by dtype: room for another processor's last bits."""


def export_bundle(
    source: Any,
    directory: str | os.PathLike[str],
    *,
    example_inputs: Sequence[Any],
    config: InferenceConfig | None = None,
    name: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    smoke_inputs: Sequence[Any] | None = None,
    outputs: tuple[str, str] = ("P", "Q"),
    opset: int = OPSET,
) -> Bundle:
    """Publish `source` with strict decode as a bundle in `directory`, atomically.

    source          an SCMInferenceWrapper (exported in eval mode; its mode is restored), or an
                    ONNX model with P and Q among its outputs, as a ModelProto, bytes or path;
                    the latter needs no torch
    example_inputs  one array or tensor for each input of the model, first axis the rows, at
                    least one
    config          required for an ONNX model; a wrapper brings its own
    name            what the bundle is called; by default the directory's name
    provenance      where the model comes from: plain JSON
    smoke_inputs    like example_inputs; kept in the bundle with their answers, which each load
                    repeats. By default the first `SMOKE_ROWS` rows of example_inputs. Rows whose
                    answer another processor's rounding could change are left out.
    outputs         names of P and Q in an ONNX model
    opset           of the graph exported from torch; an ONNX model keeps its own

    Before anything is written, the graph's answers to both inputs must equal the strict decode of
    the source's own P and Q: masks exactly, accepted values within rounding as defined in
    `interlock.strict.compare`; else BundleContractError is raised.

    Raises InputError for inputs of the wrong number, dtype or shape, a batch axis that is fixed,
    or P and Q that do not belong together; ConfigError, MissingExtraError, and what
    `interlock.bundle.pack` raises.
    """
    wrapper = _wrapper(source)
    settings = _settings(wrapper, config)
    examples = _arrays("example_inputs", example_inputs)
    if smoke_inputs is None:
        smoke = tuple(array[:SMOKE_ROWS] for array in examples)
    else:
        smoke = _arrays("smoke_inputs", smoke_inputs)
    if wrapper is None:
        graph, (p, q) = read_model(source), outputs
        _check_graph(graph, p, q)
        for what, arrays in (("example_inputs", examples), ("smoke_inputs", smoke)):
            check_inputs(what, arrays, signature_of(graph)[0])
    else:
        # The model itself says first what is wrong with the inputs or with P and Q.
        _check_pair(*_torch_answers(wrapper, examples), rows=len(examples[0]))
        from interlock.strict.export_torch import to_onnx

        graph = to_onnx(wrapper, examples, opset=opset)
        p, q = (value.name for value in graph.graph.output)
        _check_graph(graph, p, q)
        check_inputs("smoke_inputs", smoke, signature_of(graph)[0])

    fused = append_decode(graph, p=p, q=q, config=settings)
    inputs, answers = signature_of(fused)
    session = OnnxSession(fused.SerializeToString())
    reference = _onnx_answers(graph, p, q) if wrapper is None else partial(_torch_answers, wrapper)
    _agreed("example_inputs", examples, session, reference, settings)
    _check_batch_sizes(session, examples)
    found, pair = _agreed("smoke_inputs", smoke, session, reference, settings)
    vector = _smoke_vector(inputs, smoke, found, *pair, settings)
    metadata = Metadata(
        name=name or Path(directory).absolute().name,
        kind="strict",
        inputs=inputs,
        outputs=answers,
        strict=StrictContract(
            p=p,
            q=q,
            dtype=cast(Literal["float32", "float64"], answers[0].dtype),
            tau_infer=settings.tau_infer,
            tau_train=settings.tau_train,
        ),
        smoke=(vector,),
        provenance=dict(provenance or {}),
    )
    return pack(directory, fused, metadata)


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


def _wrapper(source: Any) -> Any | None:
    """`source` if it is a wrapper, None if it is for `read_model` to judge."""
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not isinstance(source, torch.nn.Module):
        return None
    from interlock.strict.wrapper import SCMInferenceWrapper

    if not isinstance(source, SCMInferenceWrapper):
        raise InputError(
            f"source is a torch module of type {type(source).__name__}, which states no thresholds",
            hint="wrap it: SCMInferenceWrapper(model, config=InferenceConfig(…))",
        )
    return source


def _settings(wrapper: Any | None, config: InferenceConfig | None) -> InferenceConfig:
    if wrapper is None:
        if config is None:
            raise ConfigError("config is missing; an ONNX model states no thresholds")
        return config
    own: InferenceConfig = wrapper.config
    if config is not None and config != own:
        raise ConfigError(f"config is {config}; the wrapper's own is {own}")
    return own


def _arrays(what: str, values: Sequence[Any]) -> Inputs:
    """The inputs as arrays with a common, positive number of rows."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise InputError(
            f"{what} is a {type(values).__name__}; it must be a tuple with one array for each "
            "input of the model"
        )
    arrays = tuple(to_numpy(f"{what}[{index}]", value) for index, value in enumerate(values))
    if not arrays:
        raise InputError(f"{what} is empty; it must have one array for each input of the model")
    for index, array in enumerate(arrays):
        if array.ndim == 0 or len(array) == 0:
            raise InputError(f"{what}[{index}] has shape {array.shape}; it needs at least one row")
        if len(array) != len(arrays[0]):
            raise InputError(
                f"{what}[{index}] has {len(array)} rows and {what}[0] has {len(arrays[0])}"
            )
    return arrays


def _check_graph(graph: onnx.ModelProto, p: str, q: str) -> None:
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


def _check_pair(p: Array, q: Array, rows: int) -> None:
    if p.dtype != q.dtype:
        raise InputError(f"P is {p.dtype} and Q is {q.dtype}; a bundle needs one dtype")
    if p.dtype.name not in SMOKE_TOLERANCE:
        raise InputError(
            f"P and Q are {p.dtype}; a bundle takes {' or '.join(SMOKE_TOLERANCE)}",
            hint="cast them at the end of the model",
        )
    _check_rows(p, q, rows)
    mask_shape(p.shape, q.shape)


def _check_rows(p: Array, q: Array, rows: int) -> None:
    for role, values in (("P", p), ("Q", q)):
        if values.shape[:1] != (rows,):
            raise InputError(f"{role} has shape {values.shape} for {rows} rows of input")


def _torch_answers(wrapper: Any, inputs: Inputs) -> Pair:
    from interlock.strict.export_torch import projective_arrays

    return projective_arrays(wrapper, inputs)


def _onnx_answers(graph: onnx.ModelProto, p: str, q: str) -> Callable[[Inputs], Pair]:
    session = OnnxSession(graph.SerializeToString())

    def answers(inputs: Inputs) -> Pair:
        found = session.run(_named(session, inputs), outputs=(p, q))
        return found[p], found[q]

    return answers


def _agreed(
    what: str,
    inputs: Inputs,
    session: OnnxSession,
    reference: Callable[[Inputs], Pair],
    config: InferenceConfig,
) -> tuple[StrictResult, Pair]:
    """The bundle's answers, having agreed with the source's, and the source's P and Q."""
    p, q = reference(inputs)
    _check_rows(p, q, len(inputs[0]))
    found = _answer(session, inputs)
    compare_answers(found, p, q, config, what=f"the exported graph on {what}")
    return found, (p, q)


def _check_batch_sizes(session: OnnxSession, inputs: Inputs) -> None:
    """Run one row and twice the rows: a batch axis may be called open and still be fixed."""
    single = tuple(array[:1] for array in inputs)
    double = tuple(np.concatenate([array, array]) for array in inputs)
    for resized in (single, double):
        rows = len(resized[0])
        try:
            found = _answer(session, resized)
        except EngineError as error:
            raise InputError(
                f"the model answers {len(inputs[0])} rows but not {rows}: {error.message}",
                hint="it must take any number of rows",
            ) from None
        if len(found.decoded) != rows:
            raise InputError(f"the model gives {len(found.decoded)} rows for {rows}")


def _answer(session: OnnxSession, inputs: Inputs) -> StrictResult:
    found = session.run(_named(session, inputs), outputs=OUTPUTS)
    return StrictResult(*(found[name] for name in OUTPUTS))


def _named(session: OnnxSession, inputs: Inputs) -> dict[str, Array]:
    return dict(zip(session.input_names(), inputs, strict=True))


def _smoke_vector(
    specs: Sequence[TensorSpec],
    inputs: Inputs,
    answer: StrictResult,
    p: Array,
    q: Array,
    config: InferenceConfig,
) -> SmokeVector:
    """The rows whose answer rounding cannot change by more than the vector's tolerance."""
    rtol, atol = SMOKE_TOLERANCE[p.dtype.name]
    size = np.abs(answer.decoded.astype(np.float64))
    with np.errstate(invalid="ignore"):
        steady = np.isnan(size) | (tolerance(p, q) <= atol + rtol * size)
    rows = len(p)
    keep = steady.reshape(rows, -1).all(axis=1)
    keep &= ~near_threshold(q, config).reshape(rows, -1).any(axis=1)
    if not keep.any():
        raise InputError(
            "no row of the smoke inputs has an answer that rounding leaves alone",
            hint="give smoke_inputs with |Q| well away from the thresholds, and a tau_infer above "
            "the rounding of Q",
        )
    return SmokeVector(
        inputs={spec.name: array[keep] for spec, array in zip(specs, inputs, strict=True)},
        outputs={name: getattr(answer, name)[keep] for name in StrictResult._fields},
        rtol=rtol,
        atol=atol,
    )
