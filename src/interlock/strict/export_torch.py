"""A wrapped torch module as an ONNX graph with the outputs P and Q; imports torch."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from interlock.kernel.errors import InputError, MissingExtraError
from interlock.strict.tensors import to_numpy
from interlock.strict.wrapper import SCMInferenceWrapper

Array = npt.NDArray[Any]


def projective_arrays(
    wrapper: SCMInferenceWrapper, inputs: tuple[Array, ...]
) -> tuple[Array, Array]:
    """P and Q of the wrapped model in eval mode, as NumPy arrays.

    Raises InputError where the model does not take the inputs or does not return P and Q.
    """
    device = next((parameter.device for parameter in wrapper.parameters()), torch.device("cpu"))
    # A copy, since a model may work in place and NumPy arrays may be read-only.
    tensors = [torch.from_numpy(np.array(array)).to(device) for array in inputs]
    with _eval_mode(wrapper), torch.no_grad():
        _parameters(wrapper.model, len(tensors))
        try:
            p, q = wrapper.projective(*tensors)
        except RuntimeError as error:
            raise InputError(f"the model failed on the inputs: {_first_line(error)}") from error
    return to_numpy("P", p), to_numpy("Q", q)


def to_onnx(
    wrapper: SCMInferenceWrapper, inputs: tuple[Array, ...], *, opset: int
) -> onnx.ModelProto:
    """The wrapped model, in eval mode, as a self-contained graph with an open batch axis.

    Its inputs are called as the parameters of the model's `forward`, and its two outputs, in
    order, P and Q unless an input has that name. Raises InputError for a model that torch cannot
    export or that needs one batch size.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtraError("torch", "exporting a torch model") from None

    device = next((parameter.device for parameter in wrapper.parameters()), torch.device("cpu"))
    parameters = _parameters(wrapper.model, len(inputs))
    names = _input_names(parameters)
    # Export takes sizes 0 and 1 for fixed ones, so a single row is doubled.
    rows = [np.concatenate([array, array]) if len(array) == 1 else array for array in inputs]
    tensors = tuple(torch.from_numpy(np.array(array)).to(device) for array in rows)
    axes = {0: torch.export.Dim("batch")}
    shapes = tuple(
        tuple(axes for _ in taken) if isinstance(taken, tuple) else axes
        for taken in parameters.values()
    )
    with _eval_mode(wrapper), _quiet():
        try:
            program = torch.onnx.export(
                wrapper.model,
                tensors,
                dynamo=True,
                opset_version=opset,
                input_names=names,
                output_names=[name if name not in names else f"{name}_" for name in ("P", "Q")],
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            raise InputError(
                f"torch cannot export the model with an open batch axis: {_cause(error)}",
                hint="the model must take any number of rows; branches on values need torch.where",
            ) from error
    graph: onnx.ModelProto = program.model_proto
    _strip(graph)
    return graph


def _parameters(model: torch.nn.Module, count: int) -> dict[str, Any]:
    """The parameters of `forward` that `count` positional inputs go to, each with its input's
    index, or a tuple of them for `*inputs`. Raises InputError where they do not fit.
    """
    try:
        return dict(inspect.signature(model.forward).bind(*range(count)).arguments)
    except TypeError as error:
        raise InputError(f"example_inputs has {count} inputs; the model: {error}") from None


def _input_names(parameters: dict[str, Any]) -> list[str]:
    names: list[str] = []
    for name, taken in parameters.items():
        many = isinstance(taken, tuple)
        names += [f"{name}_{index}" for index in range(len(taken))] if many else [name]
    return names


def _strip(graph: onnx.ModelProto) -> None:
    """Drop what tells of the exporting machine, such as source paths in stack traces."""
    parts = [graph, graph.graph, *graph.functions, *graph.graph.node]
    parts += [*graph.graph.input, *graph.graph.output, *graph.graph.value_info]
    parts += [*graph.graph.initializer]
    parts += [node for function in graph.functions for node in function.node]
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""


@contextlib.contextmanager
def _eval_mode(wrapper: SCMInferenceWrapper) -> Iterator[None]:
    modes = {module: module.training for module in wrapper.modules()}
    wrapper.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings of itself; errors are raised, so nothing is lost."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _cause(error: BaseException) -> str:
    """The first line of the innermost error, which is the one that says what is wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {_first_line(error)}"
