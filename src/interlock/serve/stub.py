"""Whether a graph can be a model at all: some output must depend on an input."""

from __future__ import annotations

from typing import Any

import onnx


def depends_on_inputs(model: bytes) -> bool:
    """Whether any output of the ONNX graph is reachable from any of its inputs.

    A static look: a graph that multiplies its input by zero passes. It finds constants that stand
    in for a model, not a model that is bad.
    """
    graph = onnx.load_model_from_string(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    reached = {value.name for value in graph.input} - constants
    for node in graph.node:  # in topological order, which the checker of graphs demands
        if reached & _read_by(node):
            reached |= set(node.output)
    return any(value.name in reached for value in graph.output)


def _read_by(node: Any) -> set[str]:
    """Names that a node reads, those that its subgraphs take from outside included."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names |= _read_by(inner)
            names |= {value.name for value in graph.output}
    return names
