"""Channels of the encoder's activations made alike before they are rounded to int8.

A few channels reach many times as far as the rest, and one scale for all leaves the rest few
levels. Dividing each channel by a number, and multiplying the matrix's column by it, changes
nothing in exact arithmetic. The numbers are those of SmoothQuant (Xiao et al. 2023),
a^q / w^(1 - q), with the largest activation a and the largest weight w of a channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from interlock.detect.training.graph import Floats, Parts, Tensors, build, matrices
from interlock.ort import onnxruntime

SHARE = 0.7
"""q: how much of the unevenness goes to the weights. Tried on held-back texts: 0.3, 0.5, 0.7."""
_LEAST = 1e-5


def smoothed(parts: Parts, rows: Sequence[np.ndarray[Any, Any]]) -> Parts:
    """The parts with `smooth` set from what the float32 encoder makes of windows' token ids."""
    largest = _largest(parts, rows)
    return replace(parts, smooth={name: _scales(parts, name, largest[name]) for name in largest})


def _scales(parts: Parts, name: str, activation: Floats) -> Floats:
    weight = np.abs(matrices(parts.encoder, name)).max(axis=0)
    scale = np.maximum(activation, _LEAST) ** SHARE / np.maximum(weight, _LEAST) ** (1 - SHARE)
    # Of geometric mean 1, so that neither side leaves its range.
    return np.asarray(scale / np.exp(np.log(scale).mean()), np.float32)


def _largest(parts: Parts, rows: Sequence[np.ndarray[Any, Any]]) -> Tensors:
    """Of each matrix whose input is rounded with one scale, its channels' largest activations."""
    model = build(parts, int8=False)
    inputs = {
        node.input[1]: node.input[0]
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1].startswith("layers.")
    }
    wanted = {name: at for name, at in inputs.items() if not name.endswith(".narrow")}
    names = sorted(set(wanted.values()))
    session = _session(model, names)
    found = {name: np.zeros(1, np.float32) for name in names}
    rules = np.zeros((1, len(parts.rule_weight)), np.float32)
    for row in rows:
        ids = np.asarray(row, np.int64)[None]
        given = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "ngrams": np.zeros((1, 1), np.int64),
            "rules": rules,
            "document": np.zeros((1, 1), np.float32),
        }
        for name, value in zip(names, session.run(names, given), strict=True):
            found[name] = np.maximum(found[name], np.abs(value[0]).max(axis=0))
    return {name: found[at] for name, at in wanted.items()}


def _session(model: onnx.ModelProto, names: Sequence[str]) -> Any:
    ort = onnxruntime()
    known = {output.name for output in model.graph.output}
    for name in names:
        if name not in known:
            kind = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            model.graph.output.append(kind)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    # Fused nodes would hide what lies between them.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
