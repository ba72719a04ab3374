"""Scopes of names in nested graphs, and functions that call functions."""

from __future__ import annotations

import os
import subprocess
import sys

import onnx
import pytest
from onnx import TensorProto, helper
from support.bundles import as_model

from interlock.bundle.limits import DEFAULT_LIMITS
from interlock.bundle.structure import MAX_CALL_DEPTH, check_structure
from interlock.errors import BundleFormatError

TRUTH = helper.make_tensor_value_info("x", TensorProto.BOOL, [])


@pytest.mark.parametrize("order", [1, -1])
def test_how_deeply_functions_may_call_does_not_depend_on_their_order(order: int) -> None:
    def check_chain(length: int) -> None:
        calls = [helper.make_node("Not", ["a"], ["b"])]
        calls += [helper.make_node(f"f{i}", ["a"], ["b"], domain="own") for i in range(length - 1)]
        opsets = [("", 18), ("own", 1)]
        imports = [helper.make_opsetid(*opset) for opset in opsets]
        chain = [
            helper.make_function("own", f"f{i}", ["a"], ["b"], [call], imports)
            for i, call in enumerate(calls)
        ]
        output = helper.make_tensor_value_info("y", TensorProto.BOOL, [])
        node = helper.make_node(f"f{length - 1}", ["x"], ["y"], domain="own")
        model = as_model(helper.make_graph([node], "g", [TRUTH], [output]), opsets)
        model.functions.extend(chain[::order])
        check_structure(model, {}, DEFAULT_LIMITS)

    check_chain(MAX_CALL_DEPTH)
    with pytest.raises(BundleFormatError, match="calls itself, or too deeply"):
        check_chain(MAX_CALL_DEPTH + 1)


def branch(*nodes: onnx.NodeProto, gives: str) -> onnx.GraphProto:
    """A branch of an If that gives one truth value."""
    value = helper.make_tensor_value_info(gives, TensorProto.BOOL, [])
    return helper.make_graph(list(nodes), "branch", [], [value])


def choice(output: str, then: onnx.GraphProto) -> onnx.NodeProto:
    """An If on `x`."""
    return helper.make_node("If", ["x"], [output], then_branch=then, else_branch=branch(gives="x"))


def check(*nodes: onnx.NodeProto) -> None:
    """Check a model of these nodes, from x to y."""
    output = helper.make_tensor_value_info("y", TensorProto.BOOL, [])
    check_structure(
        as_model(helper.make_graph(list(nodes), "g", [TRUTH], [output])), {}, DEFAULT_LIMITS
    )


BEFORE = helper.make_node("Not", ["x"], ["before"])
AFTER = helper.make_node("Not", ["x"], ["after"])


def test_a_subgraph_sees_what_stands_before_its_node_in_every_graph_around_it() -> None:
    inner = branch(helper.make_node("And", ["before", "own"], ["deep"]), gives="deep")
    own = helper.make_node("Not", ["before"], ["own"])
    check(BEFORE, choice("y", branch(own, choice("inner", inner), gives="inner")))


@pytest.mark.parametrize("name", ["after", "inside", "y"])
def test_a_subgraph_does_not_see_what_comes_after_or_lies_in_another(name: str) -> None:
    inside = helper.make_node("Not", ["x"], ["inside"])
    uses = branch(helper.make_node("Not", [name], ["found"]), gives="found")
    with pytest.raises(BundleFormatError, match=f"takes '{name}', which nothing before"):
        check(choice("first", branch(inside, gives="inside")), choice("y", uses), AFTER)


WITHOUT_MEMORY = """
import resource
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from interlock.bundle.limits import DEFAULT_LIMITS
from interlock.bundle.structure import inline, parse_model

count = 16 << 20
weights = numpy_helper.from_array(np.zeros(count, np.float32), "w")
output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [count])
node = helper.make_node("Identity", ["w"], ["y"])
graph = helper.make_graph([node], "g", [], [output], [weights])
data = helper.make_model(graph).SerializeToString()
model = parse_model(data, DEFAULT_LIMITS)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), resource.RLIM_INFINITY))
for call in (lambda: parse_model(data, DEFAULT_LIMITS), lambda: inline(model, [], {})):
    try:
        call()
    except MemoryError as error:
        print(error)
"""


def test_a_model_that_memory_is_lacking_for_is_not_called_malformed() -> None:
    command = [sys.executable, "-c", WITHOUT_MEMORY]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    told = ["cannot be parsed: no memory is left", "cannot be put together: no memory is left"]
    assert done.stdout.splitlines() == [f"model.onnx {each}" for each in told], done.stderr
