"""ezkl behind the backend's interface. The only file that imports it, and only in a worker process.

ezkl panics on some inputs, prints, and starts threads; a panic ends at most the worker. Nothing
here lets it fetch anything: every path is given. `ignore_range_check_inputs_outputs` is on since
all inputs and outputs are public: whoever checks a proof sees them and checks their range
(`interlock.verified.field.integers_of`), which saves a fifth of the rows.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np

from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import (
    EngineError,
    EngineUnavailableError,
    InputError,
    MissingExtraError,
    StorageError,
)
from interlock.kernel.process import WorkerProcess
from interlock.verified.field import integers_of
from interlock.verified.proof_system import (
    COMPILED,
    GRAPH,
    PROVING_KEY,
    SETTINGS,
    VERIFYING_KEY,
    CircuitFacts,
    Statement,
)

DECOMPOSITION_BASE, DECOMPOSITION_LEGS, INNER_COLUMNS = 256, 4, 2
_PROOF_LIMIT = 256 << 20


@dataclass(frozen=True)
class CircuitSettings:
    """What all circuits of a chain share.

    scale  fractional bits of inputs, weights and outputs; 13 are the fewest that keep both shipped
           models within a thousandth of their largest logit
    """

    scale: int = 13

    def told(self) -> dict[str, int]:
        """All that decides a circuit's layout, by name."""
        return {
            "scale": self.scale,
            "decomposition_base": DECOMPOSITION_BASE,
            "decomposition_legs": DECOMPOSITION_LEGS,
            "inner_columns": INNER_COLUMNS,
        }


class EzklBackend:
    """ezkl in one killable worker process. Safe across threads; calls run one at a time.

    memory_limit  bytes of the worker; None for no limit
    threads       that ezkl may use
    """

    def __init__(
        self,
        settings: CircuitSettings | None = None,
        *,
        memory_limit: int | None = None,
        threads: int = 1,
    ) -> None:
        self.settings = settings if settings is not None else CircuitSettings()
        self.threads = threads
        self._scratch = tempfile.TemporaryDirectory(prefix="interlock-zk-")
        self._worker = WorkerProcess(
            f"{__name__}:serve",
            options={
                "threads": threads,
                "scale": self.settings.scale,
                "scratch": self._scratch.name,
            },
            memory_limit=memory_limit,
            name="ezkl",
        )

    @staticmethod
    def name() -> str:
        """`ezkl` and its version; raises MissingExtraError where it is not installed."""
        try:
            return f"ezkl {importlib.metadata.version('ezkl')}"
        except importlib.metadata.PackageNotFoundError:
            raise MissingExtraError("zk", "proving and verifying circuits") from None

    def measure(self, directory: Path, *, deadline: Deadline = NO_DEADLINE) -> CircuitFacts:
        """See `Backend.measure`."""
        found = self._call({"do": "measure", "at": _place(directory)}, deadline)
        return CircuitFacts(
            int(found["rows"]), int(found["constants"]), tuple(int(s) for s in found["scales"])
        )

    def compile(self, directory: Path, logrows: int, *, deadline: Deadline = NO_DEADLINE) -> None:
        """See `Backend.compile`."""
        self._call({"do": "compile", "at": _place(directory), "logrows": logrows}, deadline)

    def setup(self, directory: Path, srs: Path, *, deadline: Deadline = NO_DEADLINE) -> None:
        """See `Backend.setup`."""
        self._call({"do": "setup", "at": _place(directory), "srs": _place(srs)}, deadline)

    def witness(
        self, directory: Path, inputs: Sequence[Array], *, deadline: Deadline = NO_DEADLINE
    ) -> list[Array]:
        """See `Backend.witness`."""
        call = {"do": "witness", "at": _place(directory), "inputs": _flat(inputs)}
        return [np.asarray(value) for value in self._call(call, deadline)]

    def prove(
        self,
        directory: Path,
        srs: Path,
        inputs: Sequence[Array],
        *,
        deadline: Deadline = NO_DEADLINE,
    ) -> bytes:
        """See `Backend.prove`."""
        call = {
            "do": "prove",
            "at": _place(directory),
            "srs": _place(srs),
            "inputs": _flat(inputs),
        }
        return bytes(self._call(call, deadline))

    def verify(
        self, statements: Sequence[Statement], *, deadline: Deadline = NO_DEADLINE
    ) -> list[str | None]:
        """See `Backend.verify`."""
        # What statements share crosses once.
        places: dict[bytes, int] = {}
        listed = [
            [
                places.setdefault(data, len(places))
                for data in (s.proof, s.settings, s.verifying_key, s.srs)
            ]
            for s in statements
        ]
        call = {"do": "verify", "statements": listed, "files": list(places)}
        found = self._call(call, deadline)
        return [None if reason is None else str(reason) for reason in found]

    def make_srs(self, path: Path, logrows: int, *, deadline: Deadline = NO_DEADLINE) -> None:
        """See `Backend.make_srs`."""
        self._call({"do": "srs", "path": _place(path), "logrows": logrows}, deadline)

    def start(self) -> None:
        """Start the worker now rather than with the first call."""
        self.name()
        self._worker.start()

    @property
    def rss(self) -> int:
        """Resident bytes of the worker; 0 where none runs or the system does not tell."""
        return self._worker.rss or 0

    def kill(self) -> None:
        """End the worker at once; a call under way raises EngineCrashError."""
        self._worker.kill()

    def close(self) -> None:
        """End the worker and remove its scratch files."""
        self._worker.close()
        self._scratch.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, call: dict[str, Any], deadline: Deadline) -> Any:
        self.name()
        return self._worker.call(call, deadline=deadline)


def _place(path: Path) -> str:
    """The path as the worker finds it, whose working directory is another one."""
    return str(path.absolute())


def _flat(inputs: Sequence[Array]) -> list[Array]:
    return [np.asarray(value, dtype=np.float32).reshape(-1) for value in inputs]


# What follows runs in the worker.


def serve(options: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """The worker's factory: a callable that does one call of `EzklBackend`."""
    os.environ["RAYON_NUM_THREADS"] = str(int(options["threads"]))
    os.environ["RUST_BACKTRACE"] = "0"
    scratch = Path(str(options["scratch"]))
    # Whatever a library writes beside its paths lands where it is removed.
    os.chdir(scratch)
    ezkl = importlib.import_module("ezkl")
    worker = _Worker(ezkl, scratch, int(options["scale"]))

    def handle(call: Mapping[str, Any]) -> Any:
        done: Callable[[Mapping[str, Any]], Any] = getattr(worker, str(call["do"]))
        with tempfile.TemporaryDirectory(dir=scratch) as private:
            worker.private = Path(private)
            return done(call)

    return handle


class _Worker:
    """ezkl's functions on the files of a circuit's directory."""

    def __init__(self, ezkl: Any, scratch: Path, scale: int) -> None:
        self._ezkl = ezkl
        self._scale = scale
        self.private = scratch

    def measure(self, call: Mapping[str, Any]) -> dict[str, Any]:
        at = Path(call["at"])
        arguments = self._ezkl.PyRunArgs()
        arguments.decomp_base = DECOMPOSITION_BASE
        arguments.decomp_legs = DECOMPOSITION_LEGS
        arguments.num_inner_cols = INNER_COLUMNS
        arguments.input_scale = self._scale
        arguments.param_scale = self._scale
        arguments.scale_rebase_multiplier = 1
        arguments.ignore_range_check_inputs_outputs = True
        arguments.input_visibility = "public"
        arguments.output_visibility = "public"
        arguments.param_visibility = "fixed"
        self._run(
            "settings", self._ezkl.gen_settings, str(at / GRAPH), str(at / SETTINGS), arguments
        )
        settings = json.loads((at / SETTINGS).read_bytes())
        return {
            "rows": settings["num_rows"],
            "constants": settings["total_const_size"],
            "scales": settings["model_output_scales"],
        }

    def compile(self, call: Mapping[str, Any]) -> None:
        at = Path(call["at"])
        settings = json.loads((at / SETTINGS).read_bytes())
        settings["run_args"]["logrows"] = int(call["logrows"])
        # ezkl's own defaults differ from run to run in these, and nothing reads them.
        settings["timestamp"] = 0
        settings["einsum_params"]["equations"] = sorted(
            ([text, dict(sorted(sizes.items()))] for text, sizes in _equations(settings)),
            key=json.dumps,
        )
        settings["required_range_checks"] = sorted(settings["required_range_checks"])
        (at / SETTINGS).write_text(json.dumps(settings, sort_keys=True))
        self._run(
            "compilation",
            self._ezkl.compile_circuit,
            str(at / GRAPH),
            str(at / COMPILED),
            str(at / SETTINGS),
        )

    def setup(self, call: Mapping[str, Any]) -> None:
        at = Path(call["at"])
        self._run(
            "setup",
            self._ezkl.setup,
            str(at / COMPILED),
            str(at / VERIFYING_KEY),
            str(at / PROVING_KEY),
            call["srs"],
        )

    def witness(self, call: Mapping[str, Any]) -> list[Array]:
        return [integers_of(elements) for elements in self._witness(call)["outputs"]]

    def prove(self, call: Mapping[str, Any]) -> bytes:
        at = Path(call["at"])
        self._witness(call)
        proof = self.private / "proof.json"
        self._run(
            "proof",
            self._ezkl.prove,
            str(self.private / "witness.json"),
            str(at / COMPILED),
            str(at / PROVING_KEY),
            str(proof),
            call["srs"],
        )
        return proof.read_bytes()

    def verify(self, call: Mapping[str, Any]) -> list[str | None]:
        for place, data in enumerate(call["files"]):
            (self.private / str(place)).write_bytes(data)
        return [self._verdict(*map(str, statement)) for statement in call["statements"]]

    def srs(self, call: Mapping[str, Any]) -> None:
        self._run("SRS", self._ezkl.gen_srs, call["path"], int(call["logrows"]))

    def _witness(self, call: Mapping[str, Any]) -> Any:
        inputs, witness = self.private / "input.json", self.private / "witness.json"
        data = {"input_data": [value.astype(np.float64).tolist() for value in call["inputs"]]}
        inputs.write_bytes(msgspec.json.encode(data))
        compiled = str(Path(call["at"]) / COMPILED)
        self._run("witness", self._ezkl.gen_witness, str(inputs), compiled, str(witness))
        return msgspec.json.decode(witness.read_bytes())

    def _verdict(self, *names: str) -> str | None:
        """What ezkl says of the files of a proof, settings, verifying key and SRS."""
        try:
            held = self._ezkl.verify(*(str(self.private / name) for name in names))
        except BaseException as error:  # noqa: BLE001 - ezkl raises for a proof that is wrong
            return _first_line(error)
        return None if held is True else "ezkl did not accept the proof"

    def _run(self, what: str, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            function(*arguments)
        except MemoryError:
            raise
        except BaseException as error:  # noqa: BLE001 - a Rust panic is a BaseException
            line = _first_line(error)
            if "No space left" in line or "os error 28" in line:
                raise StorageError(
                    f"no space is left for the {what} files",
                    hint="free some space, or name another cache directory",
                ) from None
            if what == "witness" and "ynthesis error" in line:
                raise InputError(
                    "an activation is outside the circuit's range",
                    hint=f"its numbers stay below 2^32, or ±{2**32 >> self._scale}, inside a slice",
                ) from None
            if what in ("settings", "compilation"):
                raise EngineUnavailableError(
                    f"ezkl cannot make a circuit of the slice: {line}"
                ) from None
            free = shutil.disk_usage(self.private).free
            hint = "little disk space is left" if free < 1 << 20 else None
            raise EngineError(f"ezkl's {what} failed: {line}", hint=hint) from None


def _equations(settings: Mapping[str, Any]) -> list[tuple[str, dict[str, int]]]:
    return [(text, sizes) for text, sizes in settings["einsum_params"]["equations"]]


def _first_line(error: BaseException) -> str:
    """What ezkl says, which names its own files and numbers of rows, in 200 characters at most."""
    lines = str(error).splitlines() or [type(error).__name__]
    return "".join(c if c.isprintable() else " " for c in lines[0][:200])
