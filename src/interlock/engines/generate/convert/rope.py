"""Tables of the rotary embedding's cosines and sines, with what stretches them.

Formulas: Su et al. 2021 (RoFormer); linear scaling and "llama3" as in the Llama 3.1 release;
"longrope" by Ding et al. 2024 (LongRoPE), as Phi-3 uses it.
"""

from __future__ import annotations

import math

import numpy as np

from interlock.engines.generate.convert.checkpoint import (
    Architecture,
    Floats,
    Rope,
    SourceError,
    positive,
)


def rope_tables(architecture: Architecture) -> tuple[Floats, Floats]:
    """Cosines and sines, each (context, head_size / 2), float32.

    Longrope has two sets of factors, and which one is meant depends on the length of the text. A
    bundle has one: the short set where its context does not exceed the length that the model was
    first trained for, else the long one. Raises SourceError for settings that give no angles.
    """
    rope = architecture.rope
    angles: Floats = np.full((1, 1), np.nan, np.float32)
    factor = 1.0
    # What overflows or divides by nothing is told below, by the setting's name.
    with np.errstate(all="ignore"):
        if 0 < rope.theta <= float(np.finfo(np.float32).max):
            inverse, factor = _frequencies(architecture)
            angles = np.outer(np.arange(architecture.context, dtype=np.float32), inverse)
    if not (np.isfinite(angles).all() and math.isfinite(factor)):
        raise SourceError(
            f"rope_theta {rope.theta:g} with rope_scaling {rope.kind!r} gives no finite angles"
        )
    scale = np.float32(factor)
    return (
        (np.cos(angles) * scale).astype(np.float32),
        (np.sin(angles) * scale).astype(np.float32),
    )


def _frequencies(architecture: Architecture) -> tuple[Floats, float]:
    """The frequencies (head_size / 2,) float32, and the factor of the tables."""
    rope, size = architecture.rope, architecture.head_size
    # In float32 from the start, as the models were trained.
    exponent = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    powers = np.power(np.full_like(exponent, rope.theta), exponent)
    inverse: Floats = np.reciprocal(powers)
    factor = 1.0
    match rope.kind:
        case "default":
            pass
        case "linear":
            inverse = np.asarray(inverse / _value(rope, "factor"), np.float32)
        case "factors":
            # Llama 3's scaling as GGUF files keep it: already worked out, one number a frequency.
            inverse = inverse / _factors(rope, "factors", inverse)
        case "llama3":
            inverse = _llama3(inverse, rope)
        case "longrope" | "su":
            inverse, factor = _longrope(inverse, rope, architecture.context)
        case other:
            raise SourceError(
                f"rope_scaling has the type {other!r}; read are default, linear, llama3, longrope"
            )
    return inverse, factor


def _llama3(inverse: Floats, rope: Rope) -> Floats:
    factor = _value(rope, "factor")
    low = _value(rope, "low_freq_factor")
    high = _value(rope, "high_freq_factor")
    original = _value(rope, "original_max_position_embeddings")
    wavelength = 2 * math.pi / inverse
    smooth = (original / wavelength - low) / (high - low)
    mixed = (1 - smooth) * inverse / factor + smooth * inverse
    stretched = np.where(wavelength > original / low, inverse / factor, mixed)
    return np.where(wavelength < original / high, inverse, stretched).astype(np.float32)


def _longrope(inverse: Floats, rope: Rope, context: int) -> tuple[Floats, float]:
    original = _value(rope, "original_max_position_embeddings")
    longest = _value(rope, "max_position_embeddings")
    which = "long_factor" if context > original else "short_factor"
    factors = _factors(rope, which, inverse)
    stretch = _value(rope, "factor") if rope.values.get("factor") else longest / original
    if rope.values.get("attention_factor") is not None:
        scale = _value(rope, "attention_factor")
    elif stretch <= 1.0:
        scale = 1.0
    else:
        scale = math.sqrt(1 + math.log(stretch) / math.log(original))
    return (inverse / factors).astype(np.float32), scale


def _value(rope: Rope, name: str) -> float:
    if rope.values.get(name) is None:
        raise SourceError(f"rope_scaling has no {name}")
    return float(positive(rope.values[name], f"rope_scaling.{name}"))


def _factors(rope: Rope, name: str, inverse: Floats) -> Floats:
    """One number for each frequency."""
    try:
        factors: Floats = np.asarray(rope.values.get(name), np.float32)
    except (ValueError, TypeError, OverflowError):
        raise SourceError(f"rope_scaling.{name} holds no numbers") from None
    if factors.shape != inverse.shape:
        raise SourceError(
            f"rope_scaling.{name} has {factors.size} numbers; the heads need {inverse.size}"
        )
    return factors
