"""What the probe does in its process: smoke vectors, then the strict decode at its limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from interlock.bundle.contract import decode_nodes, thresholds
from interlock.bundle.decode_cases import Cases, expected, p_cases, q_cases
from interlock.bundle.metadata import Array, Metadata, SmokeVector, StrictContract, parse_metadata
from interlock.kernel.errors import BundleContractError, BundleFormatError
from interlock.ort import onnxruntime

ort = onnxruntime()

_OPEN_DIM = 2
# Of P in one batch of cases, where the graph leaves the batch open.
_ELEMENTS = 1 << 20
_REASON = 300


def serve(options: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], None]:
    """The worker's factory: a callable that takes `model`, `metadata` and `tensors`, and raises
    or not.
    """
    ort.set_default_logger_severity(4)

    def handle(payload: Mapping[str, Any]) -> None:
        check(payload["model"], parse_metadata(payload["metadata"]), payload["tensors"])

    return handle


def check(model: bytes, metadata: Metadata, tensors: Mapping[str, Array] = {}) -> None:
    """Raise BundleFormatError or BundleContractError where the model does not do what it should."""
    session = open_session(model, "the model", tensors)
    for index, vector in enumerate(metadata.smoke):
        _reproduce(session, metadata, vector, index)
    del session
    if metadata.strict is not None:
        _check_decode(model, metadata, metadata.strict)


def open_session(model: bytes, what: str, tensors: Mapping[str, Array] = {}) -> Any:
    """A session over `model`, one thread, nothing logged; BundleFormatError where there is none."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if tensors:
        options.add_external_initializers(
            list(tensors), [ort.OrtValue.ortvalue_from_numpy(each) for each in tensors.values()]
        )
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many types
        raise BundleFormatError(f"ONNX Runtime refuses {what}: {_first_line(error)}") from None


def _run(session: Any, names: list[str], inputs: Mapping[str, Array]) -> list[Any]:
    try:
        return list(session.run(names, dict(inputs)))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many types
        raise BundleContractError(f"the model fails when it runs: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_REASON]


def _reproduce(session: Any, metadata: Metadata, vector: SmokeVector, index: int) -> None:
    names = [spec.name for spec in metadata.outputs]
    for name, actual in zip(names, _run(session, names, vector.inputs), strict=True):
        wanted = vector.outputs[name]
        if actual.shape != wanted.shape or actual.dtype != wanted.dtype:
            raise BundleContractError(
                f"smoke[{index}]: {name!r} is {actual.dtype.name} of shape {actual.shape}, "
                f"not {wanted.dtype.name} of shape {wanted.shape}"
            )
        if not agree(actual, wanted, vector.rtol, vector.atol):
            raise BundleContractError(f"smoke[{index}]: {name!r} is not reproduced")


def agree(actual: Array, wanted: Array, rtol: float, atol: float) -> bool:
    """Whether every element agrees within the tolerance; NaN and infinities must be equal."""
    if actual.dtype.kind not in "fc":
        return bool(np.array_equal(actual, wanted))
    return bool(np.allclose(actual, wanted, rtol=rtol, atol=atol, equal_nan=True))


def _check_decode(model: bytes, metadata: Metadata, strict: StrictContract) -> None:
    """Cut the decode out of the graph and compare it with the rules, case by case."""
    whole = onnx.ModelProto()
    whole.ParseFromString(model)
    p_shape, q_shape = _shapes(whole, metadata, strict)
    if not 0 < len(q_shape) <= len(p_shape):
        raise BundleContractError(f"P has shape {p_shape} and Q {q_shape}")
    taus = thresholds(strict)
    p, q = p_cases(strict.dtype), q_cases(strict.dtype, list(taus.values()))
    dim = metadata.outputs[0].shape[0] if metadata.outputs[0].shape else 1
    width = math.prod(p_shape[1:])
    most = min(len(p) * len(q), max(1, _ELEMENTS // max(1, width)))
    rows = most if isinstance(dim, str) else dim
    cases = Cases(p, q, p_shape, q_shape, rows)
    session = open_session(_cut(whole, strict, p_shape, q_shape), "the decode")
    for p_batch, q_batch in cases:
        found = _run(session, list(strict.output_order), {strict.p: p_batch, strict.q: q_batch})
        _compare(found, p_batch, q_batch, strict, taus)


def _shapes(
    whole: onnx.ModelProto, metadata: Metadata, strict: StrictContract
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of P and Q for the first smoke vector, or for inputs of ones where there is none."""
    if metadata.smoke:
        inputs = dict(metadata.smoke[0].inputs)
    else:
        inputs = {
            spec.name: np.ones(
                [_OPEN_DIM if isinstance(dim, str) else dim for dim in spec.shape], spec.dtype
            )
            for spec in metadata.inputs
        }
    tapped = onnx.ModelProto()
    tapped.CopyFrom(whole)
    del tapped.graph.output[:]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(strict.dtype))
    names = [name for name in dict.fromkeys((strict.p, strict.q)) if name not in inputs]
    arrays = dict(inputs)
    if names:
        for name in names:
            tapped.graph.output.append(helper.make_tensor_value_info(name, kind, None))
        session = open_session(tapped.SerializeToString(), "P and Q as outputs")
        arrays |= dict(zip(names, _run(session, names, inputs), strict=True))
    for name in (strict.p, strict.q):
        if arrays[name].dtype.name != strict.dtype:
            raise BundleContractError(
                f"{name!r} is {arrays[name].dtype.name}; the metadata says {strict.dtype}"
            )
    return arrays[strict.p].shape, arrays[strict.q].shape


def _cut(
    whole: onnx.ModelProto,
    strict: StrictContract,
    p_shape: tuple[int, ...],
    q_shape: tuple[int, ...],
) -> bytes:
    """A model of the decode alone, from P and Q to the three outputs."""
    nodes = decode_nodes(whole.graph, strict)
    used = {name for node in nodes for name in node.input} | set(strict.output_order)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(strict.dtype))
    graph = helper.make_graph(
        nodes,
        "decode",
        [
            helper.make_tensor_value_info(name, kind, [None] * len(shape))
            for name, shape in {strict.p: p_shape, strict.q: q_shape}.items()
        ],
        [value for value in whole.graph.output if value.name in strict.output_order],
        [tensor for tensor in whole.graph.initializer if tensor.name in used],
    )
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    cut = helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    return bytes(cut.SerializeToString())


def _compare(
    found: list[Any],
    p: Array,
    q: Array,
    strict: StrictContract,
    taus: Mapping[str, np.floating[Any]],
) -> None:
    decoded, bottom, gap = found
    if decoded.dtype.name != strict.dtype:
        raise BundleContractError(f"the decode gives {decoded.dtype.name}, not {strict.dtype}")
    wanted = expected(p, q, taus["tau_infer"], taus.get("tau_train"))
    if wanted is None:
        raise BundleContractError(
            f"P of shape {p.shape} and Q of shape {q.shape} do not belong together"
        )
    shapes = (decoded.shape, bottom.shape, gap.shape)
    rules = (wanted.decoded.shape, wanted.bottom.shape, wanted.gap.shape)
    if shapes != rules:
        raise BundleContractError(
            f"the decode gives the shapes {shapes} for P of shape {p.shape} and Q of shape "
            f"{q.shape}; the rules say {rules}"
        )
    for name, actual, rule in (
        ("bottom_mask", bottom, wanted.bottom),
        ("gap_mask", gap, wanted.gap),
        ("decoded", decoded, wanted.decoded),
    ):
        if name == "decoded":
            limits = np.finfo(strict.dtype)
            ulps, tiny = 4 * float(limits.eps), 4 * float(limits.smallest_subnormal)
            fits = np.isclose(actual, rule, rtol=ulps, atol=tiny, equal_nan=True)
        else:
            fits = actual == rule
        if not fits.all():
            where = tuple(int(i) for i in np.argwhere(~fits)[0])
            raise BundleContractError(
                f"the decode's {name} is {actual[where]} for P = {_at(p, where)!r} and "
                f"Q = {_at(q, where)!r}; the rules say {rule[where]}"
            )


def _at(array: Array, where: tuple[int, ...]) -> list[Any] | Any:
    """The elements of `array` that broadcast to the place `where`, for a message."""
    index = tuple(min(i, size - 1) for i, size in zip(where, array.shape, strict=False))
    return array[index].tolist()
