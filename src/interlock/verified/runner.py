"""The runner: one model, its slices and its prover behind one call."""

from __future__ import annotations

import os
import time
import warnings
from typing import Any, Literal

from interlock.engines.onnx import OnnxSession, Optimization, SessionConfig
from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import ConfigError, EngineUnavailableError
from interlock.verified import metadata as metadata_file
from interlock.verified import replay as replaying
from interlock.verified import result
from interlock.verified.chain import SliceChain
from interlock.verified.default_prover import default_prover
from interlock.verified.directory import Cuts, ModelDirectory, VerifiedWarning, cut, read_slices
from interlock.verified.equality import agreement, random_inputs
from interlock.verified.inputs import read_inputs
from interlock.verified.metadata import COMPILED, RunnerMetadata
from interlock.verified.prover import Prover
from interlock.verified.result import InferenceResult
from interlock.verified.slices import SlicedModel
from interlock.verified.steps import Circuits, Policy

Mode = Literal["auto", "onnx_only", "ezkl_only"]
MODES: tuple[Mode, ...] = ("auto", "onnx_only", "ezkl_only")

COMPARED = 4
"""Random inputs on which opening a runner compares the bits of slices and whole model."""

NOT_SLICED = "not sliced: the model ran whole"


class Runner:
    """Runs a model: slices proved where they can be, answered by ONNX where they cannot.

    time_limit  seconds that the circuit of one slice may take; None leaves it to the metadata
    size_limit  bytes that the compiled circuits of one slice may have; None likewise

    Both may be set at any time, and win over the metadata, whose file is read again when it has
    changed. Safe across threads.
    """

    def __init__(self, model_path: str | os.PathLike[str], *, prover: Prover | None = None) -> None:
        """Open a model's directory, its slices and its sessions.

        prover  the proof system; None for ezkl, where the extra `zk` is installed

        Compares the bits of slices and whole model on a few random inputs, and runs both without
        rewrites of their graphs where they differ on this machine.

        Writes the metadata where there are none of this model. Warns (VerifiedWarning) where the
        model is not sliced, and where circuits are compiled that nothing has proved yet. Raises
        InputError, ConfigError or BundleError for files that cannot be used.
        """
        self.directory = ModelDirectory.find(model_path)
        self.prover = default_prover() if prover is None else prover
        self.time_limit: float | None = None
        self.size_limit: float | None = None
        model = self.directory.read_model()
        found = read_slices(self.directory, model)
        self.sliced: SlicedModel | None = None if found is None else found[0]
        self.optimization: Optimization = "all" if found is None else found[1].optimization
        whole = cut(model, Cuts(at=[])) if self.sliced is None else self.sliced
        self.inputs = whole.inputs
        self._outputs = whole.outputs
        self._open(model)
        if self.optimization == "all" and not self._agrees():
            # `slices.json` says what was measured on another machine, whose kernels may differ.
            self.optimization = "none"
            self._open(model)
        self._model, self._digest = model, whole.sha256
        self._metadata_path = self.directory.metadata
        self._excluded = f"excluded: verified_slices says false in {self._metadata_path.name}"
        self._read_at: tuple[int, ...] | None = None
        self._kept: frozenset[str] = frozenset()
        self._metadata = self._analysed()
        self._warn(metadata_file.read(self.directory).precircuit)

    def _open(self, model: bytes) -> None:
        """Open the sessions of the whole model and of its slices."""
        level = self.optimization
        self._whole = OnnxSession(model, SessionConfig(optimization=level))
        self._chain = None if self.sliced is None else SliceChain(self.sliced, self.prover, level)

    def _agrees(self) -> bool:
        """Whether the slices give the whole model's bits here, on a few random inputs."""
        if self.sliced is None or self._chain is None:
            return True
        drawn = random_inputs(self.sliced, COMPARED)
        equal, total = agreement(self.sliced, self._whole, self._chain.bound, drawn)
        return equal == total

    @property
    def name(self) -> str:
        """The model's name: that of its directory."""
        return self.directory.name

    @property
    def metadata(self) -> RunnerMetadata:
        """The metadata as the file holds them now, what they claim cut down to what is there."""
        if self._stamp() != self._read_at:
            self._metadata = self._analysed()
        return self._metadata

    @staticmethod
    def run_inference(
        model_path: str | os.PathLike[str],
        mode: Mode = "auto",
        input: Any = None,
        *,
        prover: Prover | None = None,
    ) -> InferenceResult:
        """One inference: `Runner(model_path).infer(mode, input)`."""
        return Runner(model_path, prover=prover).infer(mode, input)

    def infer(
        self,
        mode: Mode = "auto",
        input: Any = None,
        *,
        circuits: Circuits = "prove",
        replay: bool = False,
        record: bool = False,
        deadline: Deadline = NO_DEADLINE,
    ) -> InferenceResult:
        """Answer one input.

        mode    "auto": each slice by its circuit, else by ONNX, with the reason on record;
                "onnx_only": the whole model on ONNX Runtime, the fastest, nothing verified;
                "ezkl_only": every slice proved, or no answer
        input   see `read_inputs`; None for the model's `input.json`
        circuits
                what "auto" asks of circuits: to "prove"; their "witness", the answer without a
                proof, which counts as unverified; or "none", for slices on ONNX alone
        replay  run slices that ONNX answered again, in another process, and compare the bits
        record  keep what enters and leaves every slice, as a proof bundle needs; a replay does

        Raises InputError before anything runs, EngineUnavailableError where "ezkl_only" cannot
        prove a slice, and EngineError, naming the slice, where one fails.
        """
        if mode not in MODES:
            raise ConfigError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}")
        if circuits not in ("prove", "witness", "none"):
            raise ConfigError(f"circuits is {circuits!r}; it must be prove, witness or none")
        if mode == "ezkl_only" and circuits != "prove":
            raise ConfigError(f"mode is 'ezkl_only' and circuits is '{circuits}'; it must be prove")
        given = read_inputs(self.directory.example if input is None else input, self.inputs)
        if record:  # the caller may fill its array anew before the record is written
            given = {name: array.copy() for name, array in given.items()}
        started = time.perf_counter()
        if mode == "onnx_only":
            return self._run_whole(given, None, deadline)
        told = self.metadata
        if self._chain is None or not told.Reconstruct:
            if mode == "ezkl_only":
                raise EngineUnavailableError(
                    f"{self.name} is not sliced, so no slice of it can be proved",
                    hint=f"interlock verified slice {self.directory.path}",
                )
            return self._run_whole(given, NOT_SLICED, deadline)
        policy = self._policy(told, mode, circuits, record or replay)
        run = self._chain.run(given, policy, deadline=deadline)
        if replay:
            run = replaying.replay(run, optimization=self.optimization, deadline=deadline)
        return result.of_chain(run, time.perf_counter() - started)

    def _run_whole(
        self, given: dict[str, Array], fallback: str | None, deadline: Deadline
    ) -> InferenceResult:
        started = time.perf_counter()
        outputs = self._whole.run(given, outputs=self._outputs, deadline=deadline)
        result.require_finite(outputs)
        return result.of_whole(outputs, time.perf_counter() - started, fallback)

    def _policy(self, told: RunnerMetadata, mode: Mode, circuits: Circuits, record: bool) -> Policy:
        return Policy(
            circuits=circuits,
            fallback=mode == "auto",
            time_limit=_limit("time_limit", self.time_limit, told.time_limit),
            size_limit=_limit("size_limit", self.size_limit, told.size_limit),
            excluded=dict.fromkeys(self._kept, self._excluded),
            record=record,
        )

    def _analysed(self) -> RunnerMetadata:
        """The file's metadata; written first where they are missing, or of another model."""
        path = self.directory.metadata
        found = metadata_file.read(self.directory) if path.is_file() else None
        actual = metadata_file.analyse(self.directory, self._model, self.sliced, self.prover)
        if found is None or found.model_sha256 != self._digest or not found.Analyzer:
            metadata_file.write(self.directory, actual)
            found = actual
        self._read_at = self._stamp()
        # By the file: in what is cut down, a slice whose key is gone is false as well.
        self._kept = found.excluded
        return metadata_file.lowered(found, actual)

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            status = self._metadata_path.stat()
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def _warn(self, claimed: str | bool) -> None:
        """Warn of what is missing; `claimed` is what the file says of compiled circuits."""
        told = self._metadata
        if not told.Reconstruct:
            warnings.warn(
                f"{self.name} is not sliced: it runs whole on ONNX Runtime and nothing is proved; "
                f"`interlock verified slice {self.directory.path}` slices it",
                VerifiedWarning,
                stacklevel=3,
            )
        parts = () if self.sliced is None else self.sliced.slices
        unproved = [
            part.name
            for part in parts
            if self.prover.circuit_bytes(part) is not None
            and self.prover.unavailable(part) is not None
        ]
        if unproved or (claimed and not told.precircuit):
            warnings.warn(
                f"{self.name}: {COMPILED}, but nothing shows that they are authentic "
                f"({', '.join(unproved) or 'all'}): `interlock verified setup "
                f"{self.directory.path}` makes their keys and proves them once",
                VerifiedWarning,
                stacklevel=3,
            )


def _limit(name: str, own: float | None, told: float | None) -> float | None:
    """The runner's own limit, or else the metadata's."""
    limit = told if own is None else own
    if limit is not None and not limit >= 0:
        raise ConfigError(f"{name} is {limit}; it must be 0 or more, or None")
    return limit
