"""Slices on ONNX Runtime, one after another, without copies between them.

The sessions share buffers: what one slice writes, the next one reads. The buffers never leave this
file, so no answer changes under its holder's hands. Bound buffers save two thirds of what a chain
of plain calls takes beyond the whole model (`bench/verified.py`). What the slices give lies in one
stretch of memory, in their order, so that one look finds a value that is not finite.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from interlock.engines.onnx import OnnxSession, Optimization, SessionConfig
from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import EngineError
from interlock.verified.slices import SlicedModel

_LINE = 64
"""Bytes that a buffer's start is a multiple of: a processor's line of cache."""


@dataclass(frozen=True)
class _Crossing:
    """The buffers that enter a stretch of slices, those to hand out, and all floats it makes."""

    entering: list[tuple[str, Array]]
    leaving: list[tuple[str, Array]]
    floats: list[Array]


class BoundSlices:
    """The sessions of all slices, opened once from the bytes that were hashed.

    Safe across threads; runs over the shared buffers take turns.
    """

    def __init__(self, model: SlicedModel, optimization: Optimization = "all") -> None:
        config = SessionConfig(optimization=optimization)
        self.slices = slices = model.slices
        self._lasting = [model.lasting(index) for index in range(len(slices) + 1)]
        self.sessions = tuple(OnnxSession(part.model, config) for part in slices)
        specs = {spec.name: spec for part in slices for spec in (*part.inputs, *part.outputs)}
        plain = all(spec.dtype != "object" for spec in specs.values())
        self._buffers: dict[str, Array] = {}
        self._steps: list[tuple[Any, Any]] = []
        self._floats: dict[str, tuple[Array, list[int]]] = {}
        self._lock = threading.Lock()
        self._known: dict[tuple[int, int, bool], _Crossing] = {}
        if plain:
            self._bind(specs)

    def _bind(self, specs: Mapping[str, Any]) -> None:
        self._buffers = {name: np.zeros(spec.shape, spec.dtype) for name, spec in specs.items()}
        for dtype in {spec.dtype for spec in specs.values() if spec.dtype.startswith("float")}:
            self._gather(dtype)
        for part, session in zip(self.slices, self.sessions, strict=True):
            bare = session._session
            binding = bare.io_binding()
            for bind, tensors in (
                (binding.bind_input, part.inputs),
                (binding.bind_output, part.outputs),
            ):
                for spec in tensors:
                    buffer = self._buffers[spec.name]
                    bind(spec.name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
            # What the session's own method calls, which is as much again for a small slice.
            self._steps.append((bare._sess.run_with_iobinding, binding._iobinding))

    def _gather(self, dtype: str) -> None:
        """Put the slices' outputs of a dtype side by side, and keep where each slice's begin."""
        each = _LINE // np.dtype(dtype).itemsize
        begins, places, at = [], {}, 0
        for part in self.slices:
            begins.append(at)
            for spec in part.outputs:
                if spec.dtype == dtype:
                    places[spec.name] = at
                    at += -(-self._buffers[spec.name].size // each) * each
        room = np.zeros(at + each, dtype)
        first = -room.ctypes.data % _LINE // room.itemsize
        together = room[first : first + at]
        for name, begin in places.items():
            shape = self._buffers[name].shape
            flat = together[begin : begin + math.prod(shape)]
            self._buffers[name] = flat.reshape(shape)
        self._floats[dtype] = together, [*begins, at]

    def run_one(
        self, index: int, inputs: Mapping[str, Array], deadline: Deadline = NO_DEADLINE
    ) -> dict[str, Array]:
        """What slice `index` gives for its inputs; raises as `OnnxSession.run` does."""
        return self.sessions[index].run(inputs, deadline=deadline)

    def run(
        self,
        start: int,
        stop: int,
        tensors: dict[str, Array],
        *,
        record: bool = False,
        deadline: Deadline = NO_DEADLINE,
    ) -> list[float]:
        """Run slices `start` to `stop`; returns the seconds of each.

        tensors   name -> array: what enters is read from it; what is needed behind `stop` is
                  added, with `record` whatever the slices made

        Raises EngineError, naming the slice, where one fails, and no later one runs; where one
        gives a value that is not finite, and nothing is handed out; DeadlineError.
        """
        if deadline.at is not None or not self._steps:
            return self._run_apart(start, stop, tensors, deadline)
        crossing = self._crossing(start, stop, record)
        seconds: list[float] = []
        with self._lock:
            for name, buffer in crossing.entering:
                np.copyto(buffer, tensors[name], casting="no")
            before = time.perf_counter()
            for run, binding in self._steps[start:stop]:
                try:
                    run(binding, None)
                except Exception as error:  # noqa: BLE001 - a dozen unrelated types
                    raise self._failed(start + len(seconds), type(error).__name__) from None
                after = time.perf_counter()
                seconds.append(after - before)
                before = after
            for floats in crossing.floats:
                # The square overflows only where the values are near their type's limit. `dot`
                # itself would warn of that.
                if not math.isfinite(np.vdot(floats, floats)):
                    self._require_finite(start, stop)
            for name, buffer in crossing.leaving:
                tensors[name] = buffer.copy()
        return seconds

    def _require_finite(self, start: int, stop: int) -> None:
        """Raise EngineError, naming the first slice whose output is not finite."""
        for index in range(start, stop):
            for together, begins in self._floats.values():
                if not np.isfinite(together[begins[index] : begins[index + 1]]).all():
                    raise self._failed(index, "its output is not finite")

    def _crossing(self, start: int, stop: int, record: bool) -> _Crossing:
        """What crosses the ends of a stretch of slices."""
        known = self._known.get((start, stop, record))
        if known is not None:
            return known
        made: dict[str, None] = {}
        entering: dict[str, None] = {}
        for part in self.slices[start:stop]:
            entering |= {spec.name: None for spec in part.inputs if spec.name not in made}
            made |= dict.fromkeys(spec.name for spec in part.outputs)
        leaving = [name for name in made if record or name in self._lasting[stop]]
        found = self._known[start, stop, record] = _Crossing(
            [(name, self._buffers[name]) for name in entering],
            [(name, self._buffers[name]) for name in leaving],
            [together[begins[start] : begins[stop]] for together, begins in self._floats.values()],
        )
        return found

    def _run_apart(
        self, start: int, stop: int, tensors: dict[str, Array], deadline: Deadline
    ) -> list[float]:
        seconds = []
        for index in range(start, stop):
            part, before = self.slices[index], time.perf_counter()
            found = self.run_one(
                index, {spec.name: tensors[spec.name] for spec in part.inputs}, deadline
            )
            for array in found.values():
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise self._failed(index, "its output is not finite")
            tensors.update(found)
            seconds.append(time.perf_counter() - before)
        return seconds

    def _failed(self, index: int, why: str) -> EngineError:
        return EngineError(f"{self.slices[index].name} failed: {why}")
