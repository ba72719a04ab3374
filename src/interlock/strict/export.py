"""Export a P/Q model as a strict bundle: decode fused into the graph, answers compared, packed."""

from __future__ import annotations

import os
import sys
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
from interlock.bundle.manifest import MODEL, manifest_of, model_digest_of
from interlock.engines.onnx import OnnxSession
from interlock.kernel.batch import Array
from interlock.kernel.errors import (
    BundleContractError,
    ConfigError,
    EngineError,
    InputError,
)
from interlock.strict.certificate import Certificate
from interlock.strict.certified import with_certificate
from interlock.strict.compare import compare_answers, near_threshold, tolerance
from interlock.strict.config import InferenceConfig
from interlock.strict.decode import StrictResult
from interlock.strict.graph import OUTPUTS, append_decode
from interlock.strict.pq_model import check_inputs, check_signature, read_model
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
    certificate: Certificate | None = None,
    extensions: Mapping[str, Any] | None = None,
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
    certificate     the calibration that tau_infer comes from; kept in the metadata, where it names
                    the bundle's model. A ConfigError where it is for another threshold or dtype,
                    or names another model already.
    extensions      what else to keep in the metadata: plain JSON

    Before anything is written, the graph's answers to both inputs must equal the strict decode of
    the source's own P and Q: masks exactly, accepted values within rounding as defined in
    `interlock.strict.compare`; else BundleContractError is raised.

    Raises InputError for inputs of the wrong number, dtype or shape, a batch axis that is fixed,
    answers that depend on the rows beside them, or P and Q that do not belong together;
    ConfigError, MissingExtraError, EngineUnavailableError for a graph that does not load,
    and what `interlock.bundle.pack` raises.
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
        check_signature(graph, p, q)
        for what, arrays in (("example_inputs", examples), ("smoke_inputs", smoke)):
            check_inputs(what, arrays, signature_of(graph)[0])
    else:
        # The model itself says first what is wrong with the inputs or with P and Q.
        _check_pair(*_torch_answers(wrapper, examples), rows=len(examples[0]))
        from interlock.strict.export_torch import to_onnx

        graph = to_onnx(wrapper, examples, opset=opset)
        p, q = (value.name for value in graph.graph.output)
        check_signature(graph, p, q)
        check_inputs("smoke_inputs", smoke, signature_of(graph)[0])

    fused = append_decode(graph, p=p, q=q, config=settings)
    inputs, answers = signature_of(fused)
    session = OnnxSession(fused.SerializeToString())
    reference = _onnx_answers(graph, p, q) if wrapper is None else partial(_torch_answers, wrapper)
    _, pair = _agreed("example_inputs", examples, session, reference, settings)
    found, smoke_pair = _agreed("smoke_inputs", smoke, session, reference, settings)
    _check_batch_sizes(session, examples, pair, settings)
    vector = _smoke_vector(inputs, smoke, found, *smoke_pair, settings)
    kept, model = dict(extensions or {}), fused.SerializeToString()
    if certificate is not None:
        digest = model_digest_of(manifest_of({MODEL: model}))
        kept = with_certificate(kept, certificate, settings.tau_infer, answers[0].dtype, digest)
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
        extensions=kept,
    )
    return pack(directory, model, metadata)


def _wrapper(source: Any) -> Any | None:
    """`source` if it is a wrapper, None if it is for `read_model` to judge."""
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
        if not isinstance(config, InferenceConfig):
            raise ConfigError(f"config is a {type(config).__name__}; it must be an InferenceConfig")
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


def _check_batch_sizes(
    session: OnnxSession, inputs: Inputs, pair: Pair, config: InferenceConfig
) -> None:
    """Run one row alone and all rows twice; each row must be answered as it was before.

    A batch axis may be called open and still be fixed, and an answer may depend on the other rows,
    as that of a batch norm without running statistics does.
    """
    single = tuple(array[:1] for array in (*inputs, *pair))
    double = tuple(np.concatenate([array, array]) for array in (*inputs, *pair))
    for *resized, p, q in (single, double):
        rows = len(p)
        try:
            found = _answer(session, tuple(resized))
        except EngineError as error:
            raise InputError(
                f"the model answers {len(inputs[0])} rows but not {rows}: {error.message}",
                hint="it must take any number of rows",
            ) from None
        if len(found.decoded) != rows:
            raise InputError(f"the model gives {len(found.decoded)} rows for {rows}")
        # Kernels differ by batch size, and so do the last bits.
        clear = ~near_threshold(q, config).reshape(rows, -1).any(axis=1)
        rest = StrictResult(*(array[clear] for array in found))
        try:
            compare_answers(rest, p[clear], q[clear], config, what=f"in a batch of {rows}")
        except BundleContractError as error:
            raise InputError(
                f"the model's answer to a row depends on the rows beside it: {error.message}",
                hint="a batch's rows must be answered on their own",
            ) from None


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
