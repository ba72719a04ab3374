"""Writing what the Open Inference Protocol answers: metadata, and outcomes with their evidence."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

import interlock
from interlock.bundle.metadata import TensorSpec
from interlock.kernel.batch import STATUS_OF_CODE, Array, BatchOutcome
from interlock.kernel.errors import InputError
from interlock.serve.oip_request import InferRequest
from interlock.serve.served import Answer, Served, name_of, step_document
from interlock.serve.tensors import datatype_of, to_binary, to_json

STATUS, REASON = "interlock_status", "interlock_reason"
"""Outputs that every model with rows has: a row's status and its reasons, as text."""

HEADER_LENGTH = "inference-header-content-length"


class UnanswerableError(InputError):
    """The answer is a refusal that no tensor of it can carry."""

    code = "refused"


@dataclass(frozen=True)
class Encoded:
    """A response's body, and the length of its JSON where binary tensors follow."""

    body: bytes
    json_length: int | None = None


def server_metadata() -> dict[str, Any]:
    """The answer to GET /v2."""
    return {
        "name": "interlock",
        "version": interlock.__version__,
        "extensions": ["binary_tensor_data"],
    }


def model_metadata(served: Served) -> dict[str, Any]:
    """The answer to GET /v2/models/{name}."""
    rows = (TensorSpec(STATUS, "string", ("rows",)), TensorSpec(REASON, "string", ("rows",)))
    extra = rows if served.by_rows else ()
    return {
        "name": served.name,
        "versions": [served.version],
        "platform": served.platform,
        "inputs": [_tensor_metadata(spec) for spec in served.inputs],
        "outputs": [_tensor_metadata(spec) for spec in (*served.outputs, *extra)],
    }


def parameters_of(answer: Answer, served: Served, request_id: str) -> dict[str, Any]:
    """Status, steps, reasons and evidence of an answer as the protocol's parameters.

    What is structured is JSON in a string, since a parameter is a string, a number or a boolean.
    """
    summary = answer.summary
    found: dict[str, Any] = {
        "status": str(summary.status),
        "route": summary.route,
        "digest": served.version,
        "request_id": request_id,
        "steps": _json([step_document(step) for step in summary.steps]),
        "reasons": _json(summary.reasons),
        "evidence": _json(summary.evidence),
    }
    if summary.action is not None:
        found["action"] = summary.action
    if isinstance(answer.outcome, BatchOutcome):
        for status, rows in answer.outcome.counts().items():
            found[f"rows_{status}"] = rows
    return found


def _json(value: Any) -> str:
    """`value`, which holds plain JSON types only, as text."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        raise InputError("a text with a lone surrogate cannot be written as JSON") from None


def check_outputs(request: InferRequest, served: Served) -> None:
    """Raise InputError for an output that the model has none of, before it is asked."""
    if request.outputs:
        known = [spec.name for spec in served.outputs]
        known += [STATUS, REASON] if served.by_rows else []
        _check_known(request.outputs, known)


def _check_known(wanted: Iterable[str], known: Collection[str]) -> None:
    for name in wanted:
        if name not in known:
            raise InputError(
                f"output {name[:200]!r} is unknown", hint=f"the model gives {', '.join(known)}"
            )


def encode_answer(
    answer: Answer, request: InferRequest, served: Served, request_id: str
) -> Encoded:
    """The response to `request`.

    Raises InputError for an output that there is none of, and UnanswerableError where the answer
    is a refusal and the tensors asked for could not say so: a NaN can, an integer cannot.
    """
    available = dict(answer.outputs)
    if isinstance(answer.outcome, BatchOutcome):
        available |= _row_texts(answer.outcome)
    elif not answer.outcome.status.usable:
        raise UnanswerableError("; ".join(answer.outcome.reasons) or str(answer.outcome.status))
    wanted = request.outputs
    if not wanted:
        wanted = dict.fromkeys(available, request.binary)
    _check_wanted(wanted, available, answer, served, asked=bool(request.outputs))
    tensors, buffers = [], []
    for name, binary in wanted.items():
        array = available[name]
        tensor: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(name_of(array.dtype)),
            "shape": list(array.shape),
        }
        if binary:
            buffers.append(to_binary(array))
            tensor["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            tensor["data"] = to_json(array)
        tensors.append(tensor)
    document = {
        "model_name": served.name,
        "model_version": served.version,
        "id": request.id or request_id,
        "parameters": parameters_of(answer, served, request_id),
        "outputs": tensors,
    }
    head = msgspec.json.encode(document)
    if not buffers:
        return Encoded(head)
    return Encoded(b"".join([head, *buffers]), len(head))


def _check_wanted(
    wanted: Any, available: dict[str, Array], answer: Answer, served: Served, *, asked: bool
) -> None:
    _check_known(wanted, available)
    outcome = answer.outcome
    if not isinstance(outcome, BatchOutcome) or outcome.answered.all():
        return
    if asked and STATUS in wanted:
        return  # who asks for the statuses reads them
    for name in wanted:
        if name in (STATUS, REASON) or name in served.diagnostics:
            continue
        if available[name].dtype.kind not in "fc":
            raise UnanswerableError(
                f"{int((~outcome.answered).sum())} rows have no answer, and output '{name}' has "
                "no value that could say so",
                hint=f"ask for the output {STATUS} as well, and read it",
            )


def _row_texts(outcome: BatchOutcome) -> dict[str, Array]:
    status = np.array([str(status) for status in STATUS_OF_CODE], dtype=object)[outcome.status]
    texts = np.array(outcome.reason_texts, dtype=object)
    reasons = np.full(len(outcome), "", dtype=object)
    for k, step in enumerate(outcome.steps):
        given = outcome.reasons[k] >= 0
        for row in np.flatnonzero(given):
            text = texts[outcome.reasons[k, row]]
            if text:
                reasons[row] += ("; " if reasons[row] else "") + f"{step.name}: {text}"
    return {STATUS: status, REASON: reasons}


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "datatype": datatype_of(spec.dtype),
        # The protocol knows no names of dimensions; an open one is -1.
        "shape": [dim if isinstance(dim, int) else -1 for dim in spec.shape],
    }
