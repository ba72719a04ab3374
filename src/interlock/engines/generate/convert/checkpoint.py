"""A model as its publisher ships it: what it is built like, its weights, its vocabulary."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from interlock.engines.generate.spec import Family
from interlock.kernel.errors import BundleFormatError

Floats = npt.NDArray[np.float32]
Blocks = npt.NDArray[np.uint8]
Biases = Literal["none", "qkv", "all"]


class SourceError(BundleFormatError):
    """What a publisher ships cannot be converted."""

    default_hint = "look for another file of the model, or for another model"


def positive(value: object, name: str) -> float:
    """`value` where it is a finite number above zero, else SourceError with the `name` of it."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    # An int may be larger than any float.
    if not known or not 0 < value <= sys.float_info.max:  # type: ignore[operator]
        raise SourceError(f"{name} is {str(value)[:40]!r}")
    return value  # type: ignore[return-value]


def whole_number(value: object, name: str) -> int:
    """`value` where it is a whole number above zero, else SourceError with the `name` of it."""
    number = positive(value, name)
    if number != int(number):
        raise SourceError(f"{name} is {str(value)[:40]!r}, no whole number")
    return int(number)


def check_layers(names: Iterable[str], before: str, layers: int) -> None:
    """Raise SourceError where tensors, named by `before` and a number, belong to further layers.

    The model would answer without them, and nothing that it is measured by would tell.
    """
    numbers = (name.removeprefix(before).partition(".")[0] for name in names if before in name)
    last = max((int(number) for number in numbers if number.isdecimal()), default=0)
    if last >= layers:
        raise SourceError(f"the files hold {before}{last}, and the model has {layers} layers")


_LEAST = {"context": 16}
_MOST = {
    "hidden": 1 << 17,
    "intermediate": 1 << 19,
    "layers": 1 << 10,
    "heads": 1 << 10,
    "kv_heads": 1 << 10,
    "head_size": 1 << 10,
    "vocabulary": 1 << 24,
    "context": 1 << 24,
}


@dataclass(frozen=True)
class Rope:
    """Rotary embeddings: `theta`, and what stretches them to longer contexts.

    kind      "default", "linear", "llama3" or "longrope"
    values    the scaling's own numbers, under the names of Hugging Face's `rope_scaling`
    """

    theta: float = 10000.0
    kind: str = "default"
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """What the graph is built from.

    context   how far the rotary tables reach
    biases    which projections have them: Q, K and V, or those of the output and the MLP as well
    """

    family: Family
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    norm_epsilon: float
    rope: Rope
    tied: bool
    window: int | None = None
    biases: Biases = "none"

    def __post_init__(self) -> None:
        """Raise SourceError for sizes that no such model has; a file can claim any."""
        for name, most in _MOST.items():
            value, least = getattr(self, name), _LEAST.get(name, 1)
            if not least <= value <= most:
                raise SourceError(f"the model's {name} is {value}; it must be {least} to {most}")
        if self.heads % self.kv_heads or self.head_size % 2:
            raise SourceError(
                f"the model has {self.heads} heads over {self.kv_heads} of size {self.head_size}"
            )
        if not 0 < self.norm_epsilon < 1:
            raise SourceError(f"the model's norm_epsilon is {self.norm_epsilon}")

    @property
    def layer_norm(self) -> bool:
        """Norms that take the mean off and add a bias (LayerNorm), instead of RMSNorm."""
        return self.family == "starcoder2"

    @property
    def gated(self) -> bool:
        """An MLP of three matrices, down(silu(gate) * up), instead of c_proj(gelu(c_fc))."""
        return self.family != "starcoder2"


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer in the format of `tokenizers`, and what the model calls its special tokens."""

    tokenizer: bytes
    end_tokens: tuple[int, ...]
    start_token: int | None
    specials: Mapping[str, str]
    chat_template: str | None


@dataclass(frozen=True)
class Quantized:
    """A matrix (n, k) in blocks of 32 along k, as the file holds it.

    kind    "Q4_0", "Q4_1" or "Q8_0"
    levels  (n, k / 32, 32) unsigned levels: w = (level - zero) * scale + offset
    scale   (n, k / 32), values of float16
    offset  (n, k / 32), values of float16; zeros where the format has none
    """

    kind: str
    levels: Blocks
    scale: Floats
    offset: Floats

    @property
    def zero(self) -> int:
        """The level that means zero."""
        return {"Q4_0": 8, "Q4_1": 0, "Q8_0": 128}[self.kind]

    def floats(self) -> Floats:
        """The matrix (n, k), float32, as the format defines it."""
        centred = self.levels.astype(np.float32) - np.float32(self.zero)
        values = centred * self.scale[:, :, None] + self.offset[:, :, None]
        return values.reshape(self.levels.shape[0], -1)


class Checkpoint(Protocol):
    """Weights by Hugging Face's names, such as `model.layers.0.mlp.up_proj.weight`."""

    name: str
    architecture: Architecture
    vocabulary: Vocabulary
    provenance: Mapping[str, Any]

    def floats(self, name: str) -> Floats:
        """The tensor in float32, matrices as (out, in). SourceError where it is missing."""
        ...

    def quantized(self, name: str) -> Quantized | None:
        """The matrix as the file's own blocks, or None where it holds no such blocks."""
        ...
