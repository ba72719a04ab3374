"""Step 1: 10,000 requests to the arm through model, analytic solver and refusal."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.demo.judge import tip_velocity_error
from interlock.kernel.batch import BatchOutcome
from interlock.kernel.outcome import Status
from interlock.report.blocks import Tone
from interlock.strict.arm.kinematics import ARM
from interlock.strict.arm.requests import Requests, sample_requests
from interlock.strict.arm.route import TOLERANCE
from interlock.strict.arm.shipped import open_arm

REQUESTS = 10_000
SEED = 20_260
"""Seed of the demo's requests; training, validation and calibration use others."""


@dataclass(frozen=True)
class Masks:
    """The model behind its masks alone, before any re-check.

    bottom, gap  (n,) rows with any such element
    mean_error   of the rows that pass; NaN where none does
    """

    bottom: npt.NDArray[np.bool_]
    gap: npt.NDArray[np.bool_]
    unsafe: int
    mean_error: float
    q_abs: npt.NDArray[np.float64]
    error: npt.NDArray[np.float64]
    """(n,) relative error of P / Q as the judge finds it, whatever the masks say."""

    @property
    def accepted(self) -> int:
        """Requests that the masks let pass, those in the gap among them."""
        return int((~self.bottom).sum())

    @property
    def flagged(self) -> int:
        """Requests in the gap."""
        return int(self.gap.sum())


@dataclass(frozen=True)
class Timings:
    """Medians in microseconds of the whole route and of the bare session in the same run."""

    route_one: float
    session_one: float
    route_many: float
    session_many: float
    load_seconds: float


@dataclass(frozen=True)
class Served:
    """What came of the requests."""

    requests: Requests
    outcome: BatchOutcome
    error: npt.NDArray[np.float64]
    """(n,) the judge's relative error of the answer that was given; NaN where none was."""
    masks: Masks
    timings: Timings
    bundle: Any

    @property
    def unsafe(self) -> int:
        """Answers that the judge does not find within the tolerance, NaN among them."""
        return int((~(self.error[self.outcome.answered] <= TOLERANCE)).sum())

    @property
    def heeded(self) -> bool:
        """Whether no answer of the model is bottom, and exactly those in the gap are flagged."""
        model = self.outcome.answered & (self.outcome.step == 0)
        flagged = self.outcome.mask(Status.FLAGGED)
        return not self.masks.bottom[model].any() and bool(
            (flagged[model] == self.masks.gap[model]).all()
        )

    @property
    def answered(self) -> float:
        """Share of the requests with an answer."""
        return float(self.outcome.answered.mean())

    def counts(self) -> list[tuple[str, Tone, npt.NDArray[np.bool_]]]:
        """Name, tone and rows of each class a person wants to tell apart."""
        by_model = self.outcome.step == 0
        accepted = self.outcome.mask(Status.ACCEPTED)
        none = ~self.outcome.answered
        return [
            ("accepted from the model", "accepted", accepted & by_model),
            ("flagged", "flagged", self.outcome.mask(Status.FLAGGED)),
            ("routed to the analytic solver", "routed", accepted & ~by_model & ~none),
            ("refused", "refused", none),
        ]


def serve(n: int = REQUESTS, seed: int = SEED) -> Served:
    """Load the shipped bundle and run the requests; every figure is measured here."""
    started = time.perf_counter()
    runtime, route = open_arm()
    load_seconds = time.perf_counter() - started
    requests = sample_requests(n, seed)
    x = requests.x
    route.run_batch({"x": x[:64]})  # the first call pays for lazy imports and allocations
    outcome = route.run_batch({"x": x})
    links = (ARM.first, ARM.second)
    error = np.where(outcome.answered, tip_velocity_error(links, x, outcome.value), np.nan)
    return Served(
        requests=requests,
        outcome=outcome,
        error=error,
        masks=_masks(runtime, x, links),
        timings=_timings(runtime, route, x, load_seconds),
        bundle=runtime.bundle,
    )


def _masks(runtime: Any, x: npt.NDArray[np.float32], links: tuple[float, float]) -> Masks:
    p, q = _numerator_denominator(runtime.bundle, x)
    with np.errstate(all="ignore"):
        raw = tip_velocity_error(links, x, p / q)
    decoded, bottom, gap = runtime.run(x)
    refused = bottom.any(axis=1)
    error = tip_velocity_error(links, x, decoded)[~refused]
    return Masks(
        bottom=refused,
        gap=gap.any(axis=1),
        unsafe=int((~(error <= TOLERANCE)).sum()),
        mean_error=float(error.mean()) if len(error) else float("nan"),
        q_abs=np.abs(q[:, 0]).astype(np.float64),
        error=raw,
    )


def _numerator_denominator(bundle: Any, x: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
    """P and Q, which the bundle's graph keeps inside, for the report's picture."""
    import onnx
    from onnx import TensorProto, helper

    from interlock.engines.onnx import SessionConfig, create_session

    model = onnx.load_model_from_string(bundle.model)
    names = [bundle.metadata.strict.p, bundle.metadata.strict.q]
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    session = create_session(model.SerializeToString(), SessionConfig())
    found: list[npt.NDArray[Any]] = session.run(names, {"x": x})
    return found


def _timings(runtime: Any, route: Any, x: npt.NDArray[np.float32], load: float) -> Timings:
    one, many = {"x": x[:1]}, {"x": x}
    session_one, route_one = _interleaved(
        [lambda: runtime.session.run(one), lambda: route.run_batch(one)], rounds=200
    )
    session_many, route_many = _interleaved(
        [lambda: runtime.session.run(many), lambda: route.run_batch(many)], rounds=9
    )
    return Timings(route_one, session_one, route_many / len(x), session_many / len(x), load)


def _interleaved(calls: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Median microseconds of each call, taken in turn so that drift hits them alike."""
    times = np.empty((rounds, len(calls)))
    for round_ in range(rounds):
        for index, call in enumerate(calls):
            started = time.perf_counter()
            call()
            times[round_, index] = time.perf_counter() - started
    return [float(value) for value in np.median(times, axis=0) * 1e6]
