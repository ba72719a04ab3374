"""Populations of rows whose unsafe-accept rate is known exactly, to draw held-out rows from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from support.arm_judge import relative_error

from interlock.engines.onnx import OnnxSession
from interlock.strict.arm.requests import sample_requests
from interlock.strict.arm.shipped import SHIPPED

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Population:
    """Rows that are drawn with equal probability: |Q|, and the probability of being unsafe."""

    q: Array
    risk: Array

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """|Q| and unsafe of `n` independent rows."""
        rows = rng.integers(0, len(self.q), n)
        return self.q[rows], rng.random(n) < self.risk[rows]

    def rate(self, tau: float, *, of_all: bool = False) -> float:
        """P(unsafe | |Q| >= tau), or P(unsafe and |Q| >= tau)."""
        accepted = self.q >= tau
        return float(self.risk[accepted].sum() / (len(self.q) if of_all else accepted.sum()))


def levels(risk: Any, dtype: str = "float32", n: int = 10_000) -> Population:
    """|Q| evenly spread over 0 … 1, with a risk that depends on it."""
    q = (np.arange(1, n + 1) / n).astype(dtype)
    return Population(q, np.asarray(risk(q.astype(np.float64)), dtype=np.float64))


def falling() -> Population:
    """The risk falls steeply as |Q| grows, as it should."""
    return levels(lambda q: np.minimum(0.6, 0.002 / q))


def just_too_risky() -> Population:
    """A risk of 0.0201 whatever |Q| is: at alpha = 0.02 any certificate is wrong."""
    return levels(lambda q: np.full_like(q, 0.0201))


def humps() -> Population:
    """Safe, then too risky, then safe enough, then too risky, as |Q| falls."""
    return levels(
        lambda q: np.select([q > 0.8, q > 0.65, q > 0.3], [0.018, 0.026, 0.012], 0.2),
    )


def few_levels() -> Population:
    """Twelve values of |Q| in float16, with a jump of the risk between two of them."""
    return levels(lambda q: np.where(q > 0.4, 0.01, 0.08), "float16", 12)


def arm() -> Population:
    """20,000 requests to the arm that ships, each safe or not as the independent judge says."""
    model = onnx.load(SHIPPED / "model.onnx")
    for name in ("P", "Q"):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    requests = sample_requests(20_000, seed=77)
    found = OnnxSession(model.SerializeToString()).run({"x": requests.x}, outputs=("P", "Q"))
    with np.errstate(all="ignore"):
        error = relative_error(requests.theta, requests.v, found["P"] / found["Q"])
    return Population(np.abs(found["Q"][:, 0]), (~(error <= 0.05)).astype(np.float64))
