"""Matrices of a graph: float32, or blocks of 32 for ONNX Runtime's MatMulNBits.

MatMulNBits computes x Wᵀ with w = (level - zero) * scale, zero being 8 for four bits and 128 for
eight; `accuracy_level` 4 lets it round the activations to int8 in blocks as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interlock.engines.generate.convert.checkpoint import Blocks, Floats, Quantized, SourceError

BLOCK = 32
ACCURACY = 4


@dataclass(frozen=True)
class NBits:
    """A matrix (n, k) as MatMulNBits takes it.

    packed  (n, blocks, block * bits / 8); of two four-bit levels in a byte the first is the low one
    scale   (n, blocks)
    offset  (n, blocks) to add to every weight of a block, or None
    zero    the level that means zero; None for MatMulNBits' own, 8 or 128
    """

    bits: int
    k: int
    packed: Blocks
    scale: Floats
    offset: Floats | None = None
    zero: int | None = None


def round_to_int8(matrix: Floats, block: int = BLOCK) -> NBits:
    """Symmetric rounding to 255 levels in blocks along k; k is filled up with zeros.

    Raises SourceError for numbers that are not finite.
    """
    n, k = matrix.shape
    if not np.isfinite(matrix).all():
        raise SourceError("a matrix holds numbers that are not finite")
    blocks = -(-k // block)
    padded = np.zeros((n, blocks * block), np.float32)
    padded[:, :k] = matrix
    grouped = padded.reshape(n, blocks, block)
    scale = np.abs(grouped).max(axis=2) / np.float32(127)
    divisor = np.where(scale > 0, scale, np.float32(1))[:, :, None]
    levels = np.rint(grouped / divisor).clip(-127, 127).astype(np.int16) + 128
    return NBits(8, k, levels.astype(np.uint8), scale.astype(np.float32))


def transcode(matrix: Quantized) -> NBits:
    """The file's own blocks, every weight equal to the bit.

    Q4_1 has w = level * scale + offset. Writing it as (level - 8) * scale + (offset + 8 * scale)
    keeps the part that MatMulNBits rounds activations for around zero. The sum is exact wherever
    float32 holds it; a matrix where it is not keeps the level 0 as its zero.
    """
    blocks = matrix.levels.shape[1]
    k = blocks * BLOCK
    if matrix.kind == "Q8_0":
        return NBits(8, k, matrix.levels, matrix.scale)
    if matrix.kind == "Q4_0":
        return NBits(4, k, pack_nibbles(matrix.levels), matrix.scale)
    offset = matrix.offset + np.float32(8) * matrix.scale
    found = NBits(4, k, pack_nibbles(matrix.levels), matrix.scale, offset)
    if np.array_equal(weights_of(found), matrix.floats()):
        return found
    return NBits(4, k, pack_nibbles(matrix.levels), matrix.scale, matrix.offset, zero=0)


def weights_of(matrix: NBits) -> Floats:
    """The matrix (n, k) that an `NBits` stands for, float32."""
    if matrix.bits == 4:
        levels = np.stack([matrix.packed & 0xF, matrix.packed >> 4], axis=-1)
        levels = levels.reshape(*matrix.packed.shape[:2], BLOCK)
    else:
        levels = matrix.packed
    default = 8 if matrix.bits == 4 else 128
    centred = levels.astype(np.float32) - (default if matrix.zero is None else matrix.zero)
    values = centred * matrix.scale[:, :, None]
    if matrix.offset is not None:
        values = values + matrix.offset[:, :, None]
    return values.reshape(values.shape[0], -1)[:, : matrix.k].astype(np.float32)


def pack_nibbles(levels: Blocks) -> Blocks:
    """Levels 0 to 15 (n, blocks, 32) as bytes (n, blocks, 16)."""
    return (levels[:, :, 0::2] | (levels[:, :, 1::2] << 4)).astype(np.uint8)


def joined(parts: Sequence[NBits]) -> NBits:
    """Several matrices over the same input as one, rows after rows; their zeros must be equal."""
    first = parts[0]
    offset = None
    if any(part.offset is not None for part in parts):
        offset = np.concatenate(
            [np.zeros_like(p.scale) if p.offset is None else p.offset for p in parts]
        )
    return NBits(
        first.bits,
        first.k,
        np.concatenate([part.packed for part in parts]),
        np.concatenate([part.scale for part in parts]),
        offset,
        first.zero,
    )
