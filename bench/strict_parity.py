"""Strict decode on adversarial pairs against the peer and against exact arithmetic.

    python bench/strict_parity.py [pairs per dtype, default 1000000]

Counts, for every engine and dtype, elements whose masks differ, and accepted values whose bits
differ. Ends with 1 if any does. Needs the index once, for the peer, and the extras it finds.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import numpy as np
import numpy.typing as npt
import peer_venv
import peer_zeroproof
import strict_decode
from support import decode_oracle
from support.adversarial import CONFIGS, FORMATS, pairs, values

from interlock.strict import InferenceConfig, strict_inference
from interlock.strict.graph import append_decode

Array = npt.NDArray[Any]
Decoded = tuple[Array, Array, Array]

_COMPLEX = {"complex64": "float32", "complex128": "float64"}
_SHAPES = {"elements": ((-1,), (-1,)), "rows": ((-1, 4), (-1,)), "columns": ((-1, 4), (-1, 1))}


def main(n: int) -> int:
    """Compare at `n` pairs a dtype, print the counts, return the exit code."""
    print(
        "dtype       thresholds      shape     engine   against        pairs  accepted  masks  bits"
    )
    differing = 0
    python = peer_venv.interpreter("zeroproofml", peer_zeroproof.REQUIREMENTS)
    with peer_zeroproof.Peer(python) as peer:
        for dtype in (*FORMATS, *_COMPLEX):
            for index, config in enumerate(CONFIGS[_COMPLEX.get(dtype, dtype)]):
                p, q = _numbers(dtype, n, config, seed=index)
                for shape in _SHAPES:
                    differing += _compare(peer, dtype, config, shape, p, q)
                if index == 0 and dtype in FORMATS:
                    differing += _compare_exactly(dtype, config, p, q)
    print(f"{differing} differences")
    return 1 if differing else 0


def _numbers(dtype: str, n: int, config: InferenceConfig, seed: int) -> tuple[Array, Array]:
    """P and Q; bits where NumPy has no such dtype."""
    form = FORMATS[_COMPLEX.get(dtype, dtype)]
    count = 2 * n if dtype in _COMPLEX else n
    p, q = pairs(form, count, config, np.random.default_rng(seed))
    return (p, q) if dtype == "bfloat16" else (p.view(dtype), q.view(dtype))


def _engines(
    dtype: str, p: Array, q: Array, config: InferenceConfig
) -> Iterator[tuple[str, Decoded]]:
    if dtype != "bfloat16":
        yield "numpy", strict_inference(p, q, config=config, engine="numpy")
    if dtype in ("float32", "float64"):
        if importlib.util.find_spec("numba") is not None:
            yield "numba", strict_inference(p, q, config=config, engine="numba")
        bare = strict_decode.bare(dtype, p.ndim, q.shape[1:])
        session = strict_decode.session(append_decode(bare, p="P", q="Q", config=config))
        yield "onnx", tuple(session.run(None, {"p": p, "q": q}))
    if importlib.util.find_spec("torch") is not None:
        import torch

        tensors = [torch.from_numpy(a.view(np.int16) if dtype == "bfloat16" else a) for a in (p, q)]
        if dtype == "bfloat16":
            tensors = [tensor.view(torch.bfloat16) for tensor in tensors]
        decoded, bottom, gap = strict_inference(*tensors, config=config)
        bits = decoded.view(torch.int16) if dtype == "bfloat16" else decoded
        yield "torch", (bits.numpy(), bottom.numpy(), gap.numpy())


def _compare(
    peer: peer_zeroproof.Peer,
    dtype: str,
    config: InferenceConfig,
    shape: str,
    p: Array,
    q: Array,
) -> int:
    p_shape, q_shape = _SHAPES[shape]
    p = p.reshape(p_shape)
    q = q[: len(p)].reshape(q_shape)
    answers = {}
    for backend in ("torch",) if dtype == "bfloat16" else ("numpy", "torch"):
        sent_as = "bfloat16" if dtype == "bfloat16" else backend
        peer.load(p, q, backend=sent_as, config=config)
        answers[backend] = peer.decode()
    differing = 0
    for engine, got in _engines(dtype, p, q, config):
        for backend, want in answers.items():
            # Quotients and magnitudes of complex numbers are the library's own.
            if dtype in _COMPLEX and backend != engine:
                continue
            differing += _report(dtype, config, shape, engine, f"peer {backend}", got, want)
    return differing


def _compare_exactly(dtype: str, config: InferenceConfig, p: Array, q: Array) -> int:
    form = FORMATS[dtype]
    p_bits, q_bits = (a.view(form.bits) for a in (p, q))
    exact = [
        decode_oracle.decode(a, b, dtype, config.tau_infer, config.tau_train)
        for a, b in zip(values(p_bits, form).tolist(), values(q_bits, form).tolist(), strict=True)
    ]
    numbers = np.array([item.value for item in exact])
    if dtype == "bfloat16":
        # Each is a bfloat16 number already, so the upper half of its float32 is all of it.
        decoded = (numbers.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.int16)
    else:
        decoded = numbers.astype(dtype)
    want = (
        decoded,
        np.array([item.bottom for item in exact]),
        np.array([item.gap for item in exact]),
    )
    return sum(
        _report(dtype, config, "elements", engine, "exact", got, want)
        for engine, got in _engines(dtype, p, q, config)
    )


def _report(
    dtype: str,
    config: InferenceConfig,
    shape: str,
    engine: str,
    against: str,
    got: Decoded,
    want: Decoded,
) -> int:
    masks = sum(int(np.count_nonzero(got[i] != want[i])) for i in (1, 2))
    accepted = ~(got[1] | want[1])
    size = got[0].dtype.itemsize
    bits = [
        np.frombuffer(item[0][accepted].tobytes(), np.uint8).reshape(-1, size)
        for item in (got, want)
    ]
    values_differing = int(np.count_nonzero((bits[0] != bits[1]).any(axis=1)))
    thresholds = f"{config.tau_infer:g}, {config.tau_train or 0:g}"
    print(
        f"{dtype:11} {thresholds:15} {shape:9} {engine:8} {against:11} "
        f"{got[0].size:>8}  {1 - got[1].mean():8.1%}  {masks:>5}  {values_differing:>4}"
    )
    return masks + values_differing


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
