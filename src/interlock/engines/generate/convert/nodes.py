"""Nodes of a decoder's graph, and the tensors of a checkpoint that they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from interlock.engines.generate.convert.checkpoint import Checkpoint, Floats, SourceError
from interlock.engines.generate.convert.linear import (
    ACCURACY,
    BLOCK,
    NBits,
    joined,
    round_to_int8,
    transcode,
)
from interlock.engines.generate.spec import Weights

MICROSOFT = "com.microsoft"


class Nodes:
    """The nodes of a graph in the order in which they run, and its tensors by their names.

    Matrices are stored as `weights` says. Methods that add nodes return the name of what the
    last of them puts out. Raises SourceError where a tensor is missing, has the wrong shape, or
    holds numbers that are not finite.
    """

    def __init__(self, checkpoint: Checkpoint, weights: Weights) -> None:
        self._checkpoint = checkpoint
        self._weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, npt.NDArray[Any]] = {}

    def add(
        self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any
    ) -> str:
        """A node of one output, whose name it has."""
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes)
        )
        return output

    def store(self, name: str, array: npt.NDArray[Any]) -> str:
        """A tensor of the graph; returns its name."""
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SourceError(f"the weights of {name} hold numbers that are not finite")
        self.stored[name] = np.ascontiguousarray(array)
        return name

    def embedding(self, name: str, ids: str, rows: int, k: int) -> str:
        """Of the matrix (rows, k), the row of each of `ids`."""
        if self._weights == "fp32":
            matrix = self._matrix(name, rows, k)
            self.store("embedding", matrix)
            return self.add("Gather", ["embedding", ids], "embedded")
        quantized = self._checkpoint.quantized(name) if self._weights == "exact" else None
        if self._weights == "exact" and (quantized is None or quantized.kind != "Q8_0"):
            self.store("embedding", self._matrix(name, rows, k))
            return self.add("Gather", ["embedding", ids], "embedded")
        if quantized is None:
            packed = round_to_int8(self._matrix(name, rows, k))
        else:
            packed = transcode(quantized)
        self.store("embedding", packed.packed.reshape(rows, -1))
        self.store("embedding.scale", packed.scale)
        # Its own zero for bytes is that of four-bit levels.
        self.store("embedding.zero", np.full(packed.scale.shape, 128, np.uint8))
        self.add(
            "GatherBlockQuantized",
            ["embedding", ids, "embedding.scale", "embedding.zero"],
            "embedded",
            MICROSOFT,
            gather_axis=0,
            quantize_axis=1,
            block_size=BLOCK,
            bits=8,
        )
        if packed.packed.shape[1] * BLOCK != k:
            self.store("hidden_from", np.array([0], np.int64))
            self.store("hidden_to", np.array([k], np.int64))
            self.store("hidden_axis", np.array([2], np.int64))
            return self.add(
                "Slice", ["embedded", "hidden_from", "hidden_to", "hidden_axis"], "embedded_cut"
            )
        return "embedded"

    def linear(
        self,
        at: str,
        x: str,
        parts: Sequence[tuple[str, int]],
        k: int,
        *,
        bias: bool = False,
    ) -> str:
        """x Wᵀ with the rows of all `parts` (name, rows), each named without its `.weight`."""
        found = self._linear_without_bias(at, x, parts, k)
        if not bias:
            return found
        values = np.concatenate([self.vector(f"{name}.bias", n) for name, n in parts])
        self.store(f"{at}.bias", values)
        return self.add("Add", [found, f"{at}.bias"], f"{at}.biased")

    def _linear_without_bias(
        self, at: str, x: str, parts: Sequence[tuple[str, int]], k: int
    ) -> str:
        names = [(f"{name}.weight", n) for name, n in parts]
        if self._weights == "int8":
            return self._bits(at, x, joined([self._rounded(name, n, k) for name, n in names]))
        if self._weights == "exact":
            exact = [self._checkpoint.quantized(name) for name, _ in names]
            found = [transcode(matrix) for matrix in exact if matrix is not None]
            if len(found) == len(names):
                kinds = {(part.bits, part.zero) for part in found}
                if len(kinds) == 1:
                    return self._bits(at, x, joined(found))
                ends = [self._bits(f"{at}.{i}", x, part) for i, part in enumerate(found)]
                return self.add("Concat", ends, at, axis=-1)
        matrix = np.concatenate([self._matrix(name, n, k) for name, n in names])
        self.store(f"{at}.weight", matrix.T)
        return self.add("MatMul", [x, f"{at}.weight"], at)

    def _rounded(self, name: str, n: int, k: int) -> NBits:
        """Eight-bit blocks: the file's own where it has such, else rounded."""
        own = self._checkpoint.quantized(name)
        if own is not None and own.kind == "Q8_0":
            return transcode(own)
        return round_to_int8(self._matrix(name, n, k))

    def _bits(self, at: str, x: str, matrix: NBits) -> str:
        n, blocks, _ = matrix.packed.shape
        self.store(f"{at}.weight", matrix.packed)
        self.store(f"{at}.scale", matrix.scale)
        inputs = [x, f"{at}.weight", f"{at}.scale"]
        if matrix.zero is not None:
            width = (blocks * matrix.bits + 7) // 8
            value = matrix.zero if matrix.bits == 8 else matrix.zero * 0x11
            inputs.append(self.store(f"{at}.zero", np.full((n, width), value, np.uint8)))
        product = at if matrix.offset is None else f"{at}.levels"
        self.add(
            "MatMulNBits",
            inputs,
            product,
            MICROSOFT,
            K=matrix.k,
            N=n,
            bits=matrix.bits,
            block_size=BLOCK,
            accuracy_level=ACCURACY,
        )
        if matrix.offset is None:
            return product
        # What the offsets add is each block's sum of x times its offset.
        self.store(f"{at}.blocks", np.array([0, 0, blocks, BLOCK], np.int64))
        self.store(f"{at}.block_axis", np.array([3], np.int64))
        self.store(f"{at}.offset", matrix.offset.T)
        self.add("Reshape", [x, f"{at}.blocks"], f"{at}.x_blocks")
        self.add("ReduceSum", [f"{at}.x_blocks", f"{at}.block_axis"], f"{at}.sums", keepdims=0)
        self.add("MatMul", [f"{at}.sums", f"{at}.offset"], f"{at}.shift")
        return self.add("Add", [product, f"{at}.shift"], at)

    def _matrix(self, name: str, n: int, k: int) -> Floats:
        matrix = self._checkpoint.floats(name)
        if matrix.shape != (n, k):
            raise SourceError(f"{name} has shape {matrix.shape}, not ({n}, {k})")
        return matrix

    def vector(self, name: str, n: int) -> Floats:
        """The checkpoint's tensor (n,), float32."""
        vector = self._checkpoint.floats(name)
        if vector.shape != (n,):
            raise SourceError(f"{name} has shape {vector.shape}, not ({n},)")
        return vector
