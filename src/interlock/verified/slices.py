"""What a slice of a model is: an ONNX model of its own, and the tensors that enter and leave it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from interlock.engines.onnx import TensorSpec


def sizes(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of a tensor whose dims are all fixed."""
    return tuple(dim for dim in spec.shape if isinstance(dim, int))


@dataclass(frozen=True)
class Slice:
    """A part of a model that runs on its own.

    index          its place in the chain, from 0
    model          a self-contained ONNX model, weights inside, strides, pads, dilations and group
                   spelled out, value infos of every tensor present
    inputs         the tensors that enter: the model's inputs or outputs of earlier slices, not
                   necessarily of the one before
    outputs        the tensors that later slices or the caller take
    parameterised  operators of the nodes that hold weights, in graph order, such as ("Conv",)

    Tensors are named alike in the slice, in its neighbours and in the whole model. Shapes are
    static; the batch axis, where there is one, has length 1.
    """

    index: int
    model: bytes = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameterised: tuple[str, ...]
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        """Hash the bytes, which are the ones that run."""
        object.__setattr__(self, "sha256", hashlib.sha256(self.model).hexdigest())

    @property
    def name(self) -> str:
        """`slice_0` for the first one, and so on."""
        return f"slice_{self.index}"


@dataclass(frozen=True)
class SlicedModel:
    """A whole model and the slices that give its answer one after another.

    model    the model's bytes as they are in its file; `sha256` is theirs
    inputs   of the whole model, with the sizes that the slices were made for
    outputs  names of the whole model's outputs, in its order
    """

    model: bytes = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    slices: tuple[Slice, ...]
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        """Hash the bytes."""
        object.__setattr__(self, "sha256", hashlib.sha256(self.model).hexdigest())

    def lasting(self, index: int) -> frozenset[str]:
        """The tensors made before slice `index` that it, a later one or the caller takes."""
        made = {spec.name for spec in self.inputs}
        made |= {spec.name for part in self.slices[:index] for spec in part.outputs}
        taken = {spec.name for part in self.slices[index:] for spec in part.inputs}
        return frozenset(made & (taken | set(self.outputs)))
