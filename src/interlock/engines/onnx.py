"""ONNX Runtime sessions from bytes, with checked inputs and errors of our own tree.

I/O binding is left out: on the CPU a freshly bound output took 1.02 to 1.6 times a plain run. Only
buffers that are bound once and overwritten by every call were faster, by 3 µs a call and only
for the smallest models, at the price of answers that change under the caller's hands.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from interlock.engines.termination import terminated_at
from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import (
    ConfigError,
    DeadlineError,
    EngineError,
    EngineUnavailableError,
    InputError,
    MemoryLimitError,
)
from interlock.kernel.route import BatchAnswer
from interlock.ort import onnxruntime

Optimization = Literal["none", "basic", "extended", "all"]
_LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
CPU = "CPUExecutionProvider"

_GPU = "onnxruntime-gpu, installed in place of onnxruntime, and NVIDIA's libraries"
_PACKAGES = {
    "CUDAExecutionProvider": _GPU,
    "TensorrtExecutionProvider": _GPU,
    "OpenVINOExecutionProvider": "onnxruntime-openvino, installed in place of onnxruntime",
    "DmlExecutionProvider": "onnxruntime-directml, on Windows",
    "CoreMLExecutionProvider": "onnxruntime, on macOS",
    "MIGraphXExecutionProvider": "onnxruntime-migraphx, and AMD's libraries",
    "QNNExecutionProvider": "onnxruntime-qnn, and Qualcomm's libraries",
}

# A protobuf message, and so a model in one piece, cannot be larger.
MODEL_LIMIT = (1 << 31) - 1

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
    **{
        f"tensor({sign}int{bits})": f"{sign}int{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
_MEMORY = re.compile(r"failed to allocate memory|bad.?alloc|std::bad_array_new_length", re.I)
_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : ([A-Z_]+)")
_NODE = re.compile(r"running (\w+) node\. Name:'([^']{0,200})'")


MOST_THREADS = 1024
"""Of one session; ONNX Runtime ends the process where the system has no room for so many."""


@dataclass(frozen=True)
class SessionConfig:
    """How ONNX Runtime runs a model.

    providers           execution providers by name, in order of preference; a node that none of
                        them can run is an error unless the CPU's is among them
    provider_options    options of a provider, by its name
    intra_op_threads    threads inside one node; 1 is best for several sessions or workers,
                        `interlock.engines.probe.probe_threads` measures whether more help
    inter_op_threads    nodes that may run at the same time; above 1 the order is not fixed
    allow_spinning      let idle threads burn a core to answer a little sooner
    optimization        of the graph: "none", "basic", "extended" or "all"
    deterministic       choose kernels that give the same bits on every run
    memory_arena        keep freed memory for later runs; grows in powers of two
    log_severity        0 (verbose) to 4 (fatal); ONNX Runtime logs to stderr
    """

    providers: tuple[str, ...] = (CPU,)
    provider_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    intra_op_threads: int = 1
    inter_op_threads: int = 1
    allow_spinning: bool = False
    optimization: Optimization = "all"
    deterministic: bool = True
    memory_arena: bool = True
    log_severity: int = 4

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        if not self.providers:
            raise ConfigError("providers is empty; name at least one, such as CPUExecutionProvider")
        for name in self.provider_options:
            if name not in self.providers:
                raise ConfigError(f"provider_options names '{name}', providers does not")
        for name in ("intra_op_threads", "inter_op_threads"):
            if not 1 <= getattr(self, name) <= MOST_THREADS:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it must lie in 1 … {MOST_THREADS}"
                )
        if self.optimization not in _LEVELS:
            raise ConfigError(
                f"optimization is {self.optimization!r}; it must be one of {', '.join(_LEVELS)}"
            )
        if not 0 <= self.log_severity <= 4:
            raise ConfigError(f"log_severity is {self.log_severity}; it must lie in 0 … 4")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A declared input or output: name, numpy dtype ("object" for text), dims.

    A dim is its size, its symbolic name, or None where the model leaves it open.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


def create_session(
    model: bytes, config: SessionConfig | None = None, *, tensors: Mapping[str, Array] = {}
) -> Any:
    """An `onnxruntime.InferenceSession` over exactly the given bytes; never reads another file.

    External tensors must have been inlined, or be given as `tensors`, by name. Optimizing the
    graph can run parts of it, without any limit: load what is not trusted in a worker
    (`interlock.engines.worker`). Raises EngineUnavailableError where a provider is absent, none
    can run a node, or the model is malformed, and MemoryLimitError.
    """
    ort = onnxruntime()

    config = config if config is not None else SessionConfig()
    if not isinstance(model, bytes):
        raise InputError(f"model is a {type(model).__name__}; it must be the model's bytes")
    if not 0 < len(model) <= MODEL_LIMIT:
        raise InputError(f"the model has {len(model)} bytes; it must have 1 to {MODEL_LIMIT}")
    available = ort.get_available_providers()
    absent = [name for name in config.providers if name not in available]
    if absent:
        raise EngineUnavailableError(
            f"execution provider '{absent[0][:80]}' is not available",
            hint=f"{_where_from(absent[0], ort.get_all_providers())}available here: "
            f"{', '.join(available)}",
        )
    providers = [(name, dict(config.provider_options.get(name, {}))) for name in config.providers]
    options = _session_options(config)
    if tensors:
        options.add_external_initializers(
            list(tensors), [ort.OrtValue.ortvalue_from_numpy(each) for each in tensors.values()]
        )
    try:
        session = ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:  # noqa: BLE001 - the runtime raises a dozen unrelated types
        raise _load_error(error) from None
    in_use = session.get_providers()
    refused = [name for name in config.providers if name not in in_use]
    if refused:
        raise EngineUnavailableError(
            f"execution provider '{refused[0]}' did not start",
            hint=f"in use would be: {', '.join(in_use)}",
        )
    # Kept by the binding for its own fallback, which is off: a second copy of all weights.
    session._model_bytes = None
    return session


def _where_from(provider: str, known: Sequence[str]) -> str:
    """What is missing for a provider that this build of ONNX Runtime lacks."""
    if provider in _PACKAGES:
        return f"it comes with the package {_PACKAGES[provider]}; "
    same = [name for name in known if name.lower() == provider.lower()]
    near = same or difflib.get_close_matches(provider, known, n=1)
    return f"did you mean {near[0]}? " if near else ""


def _session_options(config: SessionConfig) -> Any:
    ort = onnxruntime()

    options = ort.SessionOptions()
    options.intra_op_num_threads = config.intra_op_threads
    options.inter_op_num_threads = config.inter_op_threads
    if config.inter_op_threads > 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = getattr(
        ort.GraphOptimizationLevel, _LEVELS[config.optimization]
    )
    options.use_deterministic_compute = config.deterministic
    options.enable_cpu_mem_arena = config.memory_arena
    options.log_severity_level = config.log_severity
    spinning = "1" if config.allow_spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    if CPU not in config.providers:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # Sparse initializers in bytes are otherwise read from files in the working directory.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", f"{os.devnull}/none"
    )
    return options


class Runner(Protocol):
    """Runs a model: a session, a pool of sessions or of worker processes."""

    def run(
        self,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        deadline: Deadline = NO_DEADLINE,
    ) -> dict[str, Array]:
        """The named outputs (all, where None) for `inputs`."""
        ...

    def input_names(self, *, deadline: Deadline = NO_DEADLINE) -> tuple[str, ...]:
        """The names of the model's inputs."""
        ...


class OnnxSession:
    """A model in this process. Safe across threads; concurrent runs share the weights.

    `inputs` and `outputs` are what the model declares, outputs that are no tensors left out.
    """

    def __init__(self, model: bytes, config: SessionConfig | None = None) -> None:
        self.config = config if config is not None else SessionConfig()
        self._session = create_session(model, self.config)
        self.inputs = tuple(_spec(found) for found in self._session.get_inputs())
        self.outputs = tuple(
            _spec(found) for found in self._session.get_outputs() if found.type in _DTYPES
        )
        self._specs = {spec.name: spec for spec in self.inputs}
        self._outputs = [spec.name for spec in self.outputs]

    def input_names(self, *, deadline: Deadline = NO_DEADLINE) -> tuple[str, ...]:
        """The names of the model's inputs."""
        return tuple(self._specs)

    def check(self, inputs: Mapping[str, Array]) -> None:
        """Raise InputError, naming the input, for a wrong name, dtype, rank or fixed dim."""
        for name in inputs:
            if name not in self._specs:
                raise InputError(
                    f"input '{name}' is unknown", hint=f"the model takes {', '.join(self._specs)}"
                )
        for spec in self.inputs:
            if spec.name not in inputs:
                raise InputError(f"input '{spec.name}' is missing")
            _check(spec, inputs[spec.name])

    def run(
        self,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        deadline: Deadline = NO_DEADLINE,
    ) -> dict[str, Array]:
        """The named outputs (all, where None) for `inputs`.

        The deadline is soft: it is looked at between two nodes, so one long node runs to its
        end. Raises InputError, DeadlineError, MemoryLimitError, or EngineError naming the node
        that failed.
        """
        self.check(inputs)
        names = self._outputs if outputs is None else list(outputs)
        unknown = [name for name in names if name not in self._outputs]
        if unknown:
            raise InputError(
                f"output '{unknown[0]}' is unknown",
                hint=f"the model gives {', '.join(self._outputs)}",
            )
        if not names:
            return {}  # the runtime would take an empty list for all of them
        try:
            if deadline.at is None:
                values = self._session.run(names, dict(inputs))
            else:
                values = self._run_until(deadline, names, dict(inputs))
        except EngineError:
            raise
        except Exception as error:  # noqa: BLE001 - the runtime raises a dozen unrelated types
            raise run_error(error) from None
        return dict(zip(names, values, strict=True))

    def _run_until(
        self, deadline: Deadline, names: list[str], inputs: dict[str, Array]
    ) -> list[Array]:
        ort = onnxruntime()

        deadline.check("onnx")
        options = ort.RunOptions()
        with terminated_at(deadline, options) as watch:
            try:
                values: list[Array] = self._session.run(names, inputs, options)
            except Exception:
                if watch.fired:
                    raise DeadlineError("onnx: stopped at the deadline") from None
                raise
        return values

    def warm_up(self, inputs: Mapping[str, Array] | None = None) -> None:
        """Run once, so that the first real call does not pay for first allocations.

        Without `inputs`, zeros are given with 1 for every open dim.
        """
        if inputs is None:
            inputs = {spec.name: _zeros(spec) for spec in self.inputs}
        self.run(inputs)


class OnnxEngine:
    """A batch engine of a route: one output is the value, further ones become fields.

    Arrays of the batch that the model does not take are left out, as they may be there for the
    route's other steps and guards.
    """

    def __init__(self, runner: Runner, *, value: str, fields: Sequence[str] = ()) -> None:
        names = [value, *fields]
        if len(set(names)) < len(names):
            raise ConfigError(f"an output is named twice in {names}")
        if isinstance(runner, OnnxSession):
            known = [spec.name for spec in runner.outputs]
            for name in names:
                if name not in known:
                    raise ConfigError(
                        f"output '{name}' is unknown", hint=f"the model gives {', '.join(known)}"
                    )
        self.runner = runner
        self.value = value
        self.fields = tuple(fields)

    def answer_batch(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> BatchAnswer:
        """Value (n, …) and fields (n, …) of the rows of `inputs`; raises as the runner does."""
        taken = self.runner.input_names(deadline=deadline)
        given = {name: inputs[name] for name in taken if name in inputs}
        found = self.runner.run(given, outputs=(self.value, *self.fields), deadline=deadline)
        return BatchAnswer(found[self.value], {name: found[name] for name in self.fields})


def _spec(found: Any) -> TensorSpec:
    dtype = _DTYPES.get(found.type)
    if dtype is None:
        raise EngineUnavailableError(f"input '{found.name}' is a {found.type}, not a numpy tensor")
    return TensorSpec(found.name, dtype, tuple(found.shape))


def _check(spec: TensorSpec, array: Array) -> None:
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise InputError(f"input '{spec.name}' is a {type(array).__name__}, not a plain array")
    fits = array.dtype.kind in "OU" if spec.dtype == "object" else array.dtype == spec.dtype
    if not fits:
        raise InputError(
            f"input '{spec.name}' has dtype {array.dtype}; the model takes {spec.dtype}"
        )
    wanted = spec.shape
    if array.ndim != len(wanted) or any(
        isinstance(dim, int) and dim >= 0 and dim != size
        for dim, size in zip(wanted, array.shape, strict=False)
    ):
        shown = ", ".join("?" if dim is None else str(dim) for dim in wanted)
        raise InputError(f"input '{spec.name}' has shape {array.shape}; the model takes ({shown})")


def _zeros(spec: TensorSpec) -> Array:
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else 1 for dim in spec.shape)
    if spec.dtype == "object":
        return np.full(shape, "", dtype=object)
    return np.zeros(shape, dtype=spec.dtype)


def _load_error(error: Exception) -> EngineError:
    text = str(error)
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        return MemoryLimitError("ONNX Runtime could not allocate memory to load the model")
    status = _STATUS.search(text)
    # What the runtime says here is about the model, never about an input.
    told = text[status.end() :].strip(" :") if status else text
    name = status[1] if status else type(error).__name__
    return EngineUnavailableError(f"the model cannot be loaded: {name}", hint=_one_line(told))


def run_error(error: Exception) -> EngineError:
    """What the runtime raised, as an error of ours that quotes no values of the input."""
    text = str(error)
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        return MemoryLimitError("ONNX Runtime could not allocate memory for the run")
    # The rest of the text may quote values of the input.
    status, node = _STATUS.search(text), _NODE.search(text)
    name = status[1] if status else type(error).__name__
    where = f" in node '{node[2]}' ({node[1]})" if node else ""
    return EngineError(f"ONNX Runtime failed{where}: {name}")


def _one_line(text: str) -> str:
    """The first 300 characters, made printable."""
    return "".join(c if c.isprintable() else " " for c in text[:300])
