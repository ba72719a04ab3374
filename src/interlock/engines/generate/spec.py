"""What a text model's bundle says of itself, in `metadata.json` under `extensions.text`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from interlock.bundle import Metadata
from interlock.kernel.errors import BundleFormatError

EXTENSION = "text"
TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
WEIGHTS = "weights.bin"
"""Holds the large tensors of a model that is too large for one ONNX file."""
FORMAT = 1

Weights = Literal["int8", "fp32", "exact"]
Family = Literal["llama", "mistral", "qwen2", "phi3", "starcoder2"]


class Fidelity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far the bundle's weights are from the source's in float32, on one fixed text.

    kl            mean Kullback-Leibler divergence of the next token's distribution, in nats
    top1          share of positions with the same most likely token
    top1_low      lower end of its 95% interval
    top1_high     upper end
    positions     positions compared
    text          SHA-256 of the text
    """

    kl: float
    top1: float
    top1_low: float
    top1_high: float
    positions: int
    text: str


class TextSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the engine must know to run the graph.

    family        the architecture that the graph was built for
    weights       how they are stored: "int8" (blocks of 32), "fp32", or "exact", which is the
                  source file's own blocks, equal to the bit
    layers, kv_heads, head_size   of the key-value cache: per layer two tensors of shape
                  (rows, kv_heads, capacity, head_size), float32
    vocabulary    logits a position
    context       most tokens of prompt and answer together
    end_tokens    any of them ends the answer
    start_token   put in front of plain text; None for models that take none
    specials      names of the start and end token for the chat template
    fidelity      measured at conversion; None where it was not
    """

    family: Family
    weights: Weights
    layers: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    end_tokens: tuple[int, ...]
    start_token: int | None = None
    specials: dict[str, str] = {}
    fidelity: Fidelity | None = None
    format: int = FORMAT

    @property
    def token_bytes(self) -> int:
        """Bytes of the key-value cache that one token takes."""
        return 2 * 4 * self.layers * self.kv_heads * self.head_size


def spec_of(metadata: Metadata) -> TextSpec:
    """The spec in a bundle's metadata; BundleFormatError where there is none or it is malformed."""
    found: Any = metadata.extensions.get(EXTENSION)
    if found is None:
        raise BundleFormatError(
            f"the bundle {metadata.name!r} is no text model: it has no extensions.{EXTENSION}",
            hint="make one with `interlock models add PATH`",
        )
    if isinstance(found, dict) and found.get("format") != FORMAT:
        raise BundleFormatError(
            f"extensions.{EXTENSION}.format is {found.get('format')!r}, not {FORMAT}",
            hint="convert the model again with `interlock models add`",
        )
    try:
        return msgspec.convert(found, TextSpec)
    except msgspec.ValidationError as error:
        raise BundleFormatError(f"extensions.{EXTENSION}: {error}") from None
