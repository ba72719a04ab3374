"""Reading an inference request of the Open Inference Protocol, JSON or with binary tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from interlock.kernel.batch import Array
from interlock.kernel.errors import InputError
from interlock.serve.request_json import read_json
from interlock.serve.tensors import from_binary, from_json

# Parameters that change what is asked for, and that this server does not do: ignoring one would
# answer another question.
_REFUSED = ("shared_memory_region", "classification", "sequence_id")


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class _Output(msgspec.Struct, frozen=True):
    name: str
    parameters: dict[str, Any] = {}


class _Body(msgspec.Struct, frozen=True):
    inputs: list[_Tensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[_Output] | None = None


_DECODER = msgspec.json.Decoder(_Body)


@dataclass(frozen=True)
class InferRequest:
    """What was asked.

    inputs   name -> array
    outputs  name -> whether it is wanted as binary data, in the order asked; None for all
    binary   whether outputs that were not named are wanted as binary data
    seconds  the client's own limit, None for none
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, bool] | None = None
    binary: bool = False
    id: str | None = None
    seconds: float | None = None


def read_request(body: bytes, header_length: str | None) -> InferRequest:
    """The request in `body`.

    header_length  the header `Inference-Header-Content-Length`: how many bytes of the body are
                   JSON, before the binary tensors; None where all of it is

    Raises InputError that names the field and what is wrong with it.
    """
    view = memoryview(body)
    length = len(body) if header_length is None else _header_length(header_length, len(body))
    found = read_json(view[:length], _DECODER, "the Open Inference Protocol")
    binary = view[length:]
    inputs: dict[str, Array] = {}
    at = 0
    for tensor in found.inputs:
        name = tensor.name[:200]
        _refuse(f"input '{name}'", tensor.parameters)
        if tensor.name in inputs:
            raise InputError(f"input '{name}' is given twice")
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            inputs[tensor.name] = from_json(name, tensor.datatype, tensor.shape, tensor.data)
            continue
        if tensor.data is not None:
            raise InputError(f"input '{name}' has both data and binary_data_size")
        if type(size) is not int or not 0 <= size <= len(binary) - at:
            raise InputError(f"input '{name}': binary_data_size does not fit the body")
        part = binary[at : at + size]
        inputs[tensor.name] = from_binary(name, tensor.datatype, tensor.shape, part)
        at += size
    if at != len(binary):
        raise InputError(f"{len(binary) - at} bytes of binary data belong to no input")
    _refuse("the request", found.parameters)
    flag = _flag("binary_data_output", found.parameters)
    return InferRequest(
        inputs=inputs,
        outputs=None if found.outputs is None else _outputs(found.outputs, flag),
        binary=flag,
        id=found.id,
        seconds=_seconds(found.parameters.get("timeout")),
    )


def _header_length(text: str, body: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= body):
        raise InputError(
            "Inference-Header-Content-Length must be a number of bytes that the body has"
        )
    return int(text)


def _outputs(wanted: list[_Output], default: bool) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for output in wanted:
        name = output.name[:200]
        _refuse(f"output '{name}'", output.parameters)
        if output.name in found:
            raise InputError(f"output '{name}' is asked for twice")
        found[output.name] = _flag("binary_data", output.parameters, default)
    return found


def _flag(name: str, parameters: Mapping[str, Any], default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"parameter {name} must be true or false")
    return value


def _refuse(where: str, parameters: Mapping[str, Any]) -> None:
    for name in _REFUSED:
        if parameters.get(name):
            raise InputError(f"{where}: the parameter {name} is not supported")


def _seconds(value: Any) -> float | None:
    """The parameter `timeout`, in microseconds as Triton's clients send it; 0 for none."""
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise InputError("parameter timeout must be a number of microseconds above 0")
    return float(value) / 1e6
