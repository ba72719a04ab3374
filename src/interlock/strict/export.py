"""Export a P/Q model as a strict bundle: decode fused into the graph, answers compared, packed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from interlock.bundle import Bundle, Metadata, SmokeVector, StrictContract, TensorSpec, pack
from interlock.bundle.contract import signature_of
from interlock.kernel.errors import ConfigError, InputError
from interlock.strict.compare import compare_answers, tolerance
from interlock.strict.config import InferenceConfig
from interlock.strict.decode import StrictResult, strict_inference
from interlock.strict.graph import OUTPUTS, append_decode

Array = npt.NDArray[Any]

OPSET = 18

SMOKE_ROWS = 64
"""How many rows of the example inputs are kept as a smoke vector."""

SMOKE_MARGIN = 1e-3
"""Rows with |Q| this near a threshold, relatively, are not kept: on another processor the last
bits of Q differ, and such a row could fall on the other side."""


@dataclass(frozen=True)
class ProjectiveModel:
    """A model that gives P and Q: its self-contained graph, and what computes the reference.

    `p` and `q` name the graph's outputs; `reference` maps inputs in the graph's order to (P, Q).
    """

    graph: onnx.ModelProto
    p: str
    q: str
    inputs: tuple[TensorSpec, ...]


def export_bundle(
    source: Any,
    directory: str | os.PathLike[str],
    *,
    example_inputs: Sequence[Any],
    config: InferenceConfig | None = None,
    name: str = "",
    provenance: Mapping[str, Any] | None = None,
    smoke_inputs: Sequence[Any] | None = None,
    outputs: tuple[str, str] = ("P", "Q"),
    opset: int = OPSET,
) -> Bundle:
    """Publish `source` with strict decode as a bundle in `directory`, atomically.

    source          an SCMInferenceWrapper (exported in eval mode; its mode is restored), or an
                    ONNX model with P and Q among its outputs, as a ModelProto, bytes or path;
                    the latter needs no torch
    example_inputs  one array or tensor for each input of the model, first axis the rows (the
                    same number in each, at least 1)
    config          required for an ONNX model; a wrapper brings its own
    name            what the bundle is called; by default the directory's name
    provenance      where the model comes from: plain JSON
    smoke_inputs    like example_inputs, kept in the bundle with their answers and compared at each
                    load; by default the first `SMOKE_ROWS` rows of example_inputs. Rows too near
                    a threshold are left out, see `SMOKE_MARGIN`.
    outputs         names of P and Q in an ONNX model
    opset           of the graph exported from torch; an ONNX model keeps its own

    Before anything is written, the graph's answers to example_inputs and smoke_inputs must equal
    `strict_inference` of the source's own P and Q: masks exactly, accepted values within
    `interlock.strict.compare.tolerance`. Else BundleContractError is raised.

    Raises InputError for inputs of the wrong number, dtype or shape, a batch axis that is fixed,
    or P and Q that do not belong together; ConfigError; MissingExtraError; and what `pack` raises.
    """
    settings = _settings(source, config)
    target = Path(directory)
    examples = _examples("example_inputs", example_inputs)
    smoke = examples if smoke_inputs is None else _examples("smoke_inputs", smoke_inputs)
    if smoke_inputs is None:
        smoke = tuple(array[:SMOKE_ROWS] for array in smoke)
    wrapper = _wrapper(source)
    if wrapper is None:
        graph = read_model(source)
        p, q = outputs
    else:
        from interlock.strict.export_torch import to_onnx

        graph, (p, q) = to_onnx(wrapper, examples, opset=opset), ("P", "Q")
    model = _checked(graph, p, q, settings)
    for what, arrays in (("example_inputs", examples), ("smoke_inputs", smoke)):
        check_inputs(what, arrays, model.inputs)

    fused = append_decode(graph, p=p, q=q, config=settings)
    _compare(wrapper, model, fused, examples, settings)
    vector = _smoke_vector(wrapper, model, fused, smoke, settings)
    inputs, answers = signature_of(fused)
    metadata = Metadata(
        name=name or target.resolve().name,
        kind="strict",
        inputs=inputs,
        outputs=answers,
        strict=StrictContract(
            p=p,
            q=q,
            dtype=answers[0].dtype,  # type: ignore[arg-type]
            tau_infer=settings.tau_infer,
            tau_train=settings.tau_train,
        ),
        smoke=(vector,),
        provenance=dict(provenance or {}),
    )
    return pack(target, fused, metadata)
