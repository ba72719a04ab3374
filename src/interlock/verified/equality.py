"""Whether the chain of slices gives the bits of the whole model on ONNX Runtime.

ONNX Runtime rewrites graphs before it runs them. A rewrite that would span a cut is not made in
the slices, and may round differently. At the level "none" it rewrites nothing, and every node gets
the same inputs and the same kernel in both: the bits agree by construction. At the level "all",
which is faster, they agree for most models; that is measured, not proved, and depends on the
processor, by which ONNX Runtime chooses its kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from interlock.engines.onnx import OnnxSession, Optimization, SessionConfig
from interlock.kernel.batch import Array
from interlock.kernel.errors import EngineError
from interlock.verified.bound import BoundSlices
from interlock.verified.slices import SlicedModel, sizes

SAMPLES = 16


def same_bits(
    model: SlicedModel, inputs: Iterable[Mapping[str, Array]], optimization: Optimization = "all"
) -> tuple[int, int]:
    """On how many of `inputs` the chain gives the whole model's bits, and how many there are.

    An input on which either fails counts as unequal.
    """
    whole = OnnxSession(model.model, SessionConfig(optimization=optimization))
    return agreement(model, whole, BoundSlices(model, optimization), inputs)


def agreement(
    model: SlicedModel,
    whole: OnnxSession,
    chain: BoundSlices,
    inputs: Iterable[Mapping[str, Array]],
) -> tuple[int, int]:
    """As `same_bits`, over sessions that are open."""
    equal = total = 0
    for given in inputs:
        total += 1
        tensors = dict(given)
        try:
            wanted = whole.run(given, outputs=model.outputs)
            chain.run(0, len(model.slices), tensors)
        except EngineError:
            continue
        equal += all(tensors[name].tobytes() == wanted[name].tobytes() for name in model.outputs)
    return equal, total


def fastest_equal(
    model: SlicedModel, inputs: Iterable[Mapping[str, Array]] | None = None
) -> tuple[Optimization, int]:
    """The level at which to run a model and its slices, and the number of inputs compared.

    "all" where both agree on every one of `inputs`, else "none". Without `inputs`, `SAMPLES` random
    ones are drawn.
    """
    equal, total = same_bits(model, random_inputs(model) if inputs is None else inputs)
    return ("all" if equal == total else "none"), total


def random_inputs(
    model: SlicedModel, count: int = SAMPLES, seed: int = 0
) -> Iterator[dict[str, Array]]:
    """Inputs of the model's shapes: normal floats, and zeros and ones where it takes integers."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        given = {}
        for spec in model.inputs:
            shape = sizes(spec)
            real = np.dtype(spec.dtype).kind == "f"
            drawn = rng.normal(size=shape) if real else rng.integers(0, 2, size=shape)
            given[spec.name] = drawn.astype(spec.dtype)
        yield given
