"""The runner's metadata: `<name>_Runner_Metadata.json`, which its user may edit.

What the file claims is checked against what is there. An edit may lower a claim, never raise it,
and no result is computed from a claim.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import onnx

from interlock.kernel.errors import ConfigError
from interlock.kernel.replace_file import replace_file
from interlock.verified.directory import ModelDirectory, read_slices
from interlock.verified.prover import NO_LIMITS, Limits, Prover
from interlock.verified.slices import SlicedModel
from interlock.verified.slicing import parse

COMPILED = "circuits compiled and ready"
"""`precircuit` where circuits exist. That says nothing of proofs."""


class Link(msgspec.Struct, frozen=True):
    """One slice in the execution chain, and the name of the next one."""

    onnx: str
    sha256: str
    inputs: list[str]
    outputs: list[str]
    next: str | None


class Chain(msgspec.Struct, frozen=True):
    """The slices as a linked list: its head, and each slice by name."""

    head: str | None = None
    nodes: dict[str, Link] = {}


class Generated(msgspec.Struct, frozen=True):
    """What was written, so that an edit can be told from it."""

    verified_slices: dict[str, bool] = {}


class RunnerMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model before it runs, and how its user wants it run.

    Analyzer          whether this analysis is of this model; a missing one runs by itself
    Reconstruct       whether the model is sliced; if not, the runner warns and runs it whole
    precircuit        `COMPILED` where circuits are compiled, else false
    overall_security  percent of the slices that could be proved when this was written; an
                      inference computes its own from what ran
    verified_slices   which slices are to be proved; false keeps a slice with ONNX
    execution_chain   the slices as a linked list
    fallback_map      slice -> the ONNX file that answers where its circuit does not
    circuit_sizes     slice -> bytes of its compiled circuits, null where it has none
    time_limit        seconds that the circuit of a slice may take; null for no limit
    size_limit        bytes that the compiled circuits of a slice may have; null for no limit
    """

    model: str
    model_sha256: str
    parameters: int
    operators: dict[str, int]
    Analyzer: bool = True
    Reconstruct: bool = False
    precircuit: str | bool = False
    overall_security: float = 0.0
    verified_slices: dict[str, bool] = {}
    execution_chain: Chain = Chain()
    fallback_map: dict[str, str] = {}
    circuit_sizes: dict[str, int | None] = {}
    time_limit: float | None = None
    size_limit: float | None = None
    generated: Generated = Generated()
    schema: int = 1

    @staticmethod
    def generate_for_model(
        model_path: str | os.PathLike[str], *, prover: Prover | None = None
    ) -> Path:
        """Analyse a model and write its metadata; returns the file's path.

        Limits, and entries of `verified_slices` that were edited, are kept where the file is of
        the same model. Raises InputError, BundleError or StorageError.
        """
        from interlock.verified.default_prover import default_prover

        directory = ModelDirectory.find(model_path)
        model = directory.read_model()
        sliced = read_slices(directory, model)
        prover = default_prover() if prover is None else prover
        write(directory, analyse(directory, model, None if sliced is None else sliced[0], prover))
        return directory.metadata

    @property
    def excluded(self) -> frozenset[str]:
        """Slices that an edit keeps with ONNX, though they could be proved or may be later.

        A false that was written here only says that there is no key yet. An edit that sets any
        slice to true is a list of one's own, in which every false is meant.
        """
        told, written = self.verified_slices, self.generated.verified_slices
        own = any(wanted and not written.get(name, False) for name, wanted in told.items())
        return frozenset(
            name for name, wanted in told.items() if not wanted and (own or written.get(name, True))
        )


@dataclass(frozen=True)
class Wanted:
    """The slices that an edit keeps with ONNX, and the limits in the file."""

    excluded: frozenset[str]
    limits: Limits


def analyse(
    directory: ModelDirectory, model: bytes, sliced: SlicedModel | None, prover: Prover
) -> RunnerMetadata:
    """The metadata of a model as it is now, with the user's part of the file that is there."""
    digest = hashlib.sha256(model).hexdigest()
    graph = parse(model).graph
    operators: dict[str, int] = {}
    for node in graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    slices = () if sliced is None else sliced.slices
    ready = {part.name: prover.unavailable(part) is None for part in slices}
    sizes = {part.name: prover.circuit_bytes(part) for part in slices}
    wanted = dict(ready)
    before = read(directory) if directory.metadata.is_file() else None
    if before is not None and before.model_sha256 != digest:
        before = None
    if before is not None:
        wanted |= dict.fromkeys(before.excluded & wanted.keys(), False)
    provable = sum(ready[name] and wanted[name] for name in ready)
    return RunnerMetadata(
        model=directory.name,
        model_sha256=digest,
        parameters=_parameters(graph),
        operators=operators,
        Reconstruct=sliced is not None,
        precircuit=COMPILED if any(size is not None for size in sizes.values()) else False,
        overall_security=100 * provable / len(slices) if slices else 0.0,
        verified_slices=wanted,
        execution_chain=_chain(sliced),
        fallback_map={part.name: f"slices/{part.name}.onnx" for part in slices},
        circuit_sizes=sizes,
        generated=Generated(ready),
        time_limit=None if before is None else before.time_limit,
        size_limit=None if before is None else before.size_limit,
    )


def lowered(found: RunnerMetadata, actual: RunnerMetadata) -> RunnerMetadata:
    """What the file claims, cut down to what is there; its limits and exclusions stay.

    found   from the file, of the same model
    actual  what `analyse` finds
    """
    return msgspec.structs.replace(
        actual,
        Reconstruct=found.Reconstruct and actual.Reconstruct,
        overall_security=min(found.overall_security, actual.overall_security),
        verified_slices={
            name: ready and found.verified_slices.get(name, ready)
            if name not in found.excluded
            else False
            for name, ready in actual.verified_slices.items()
        },
        time_limit=found.time_limit,
        size_limit=found.size_limit,
        generated=found.generated,
    )


def write(directory: ModelDirectory, metadata: RunnerMetadata) -> None:
    """Write the file, indented, for people to edit."""
    encoded = msgspec.json.format(msgspec.json.encode(metadata), indent=4)
    replace_file(directory.metadata, encoded + b"\n")


def read(directory: ModelDirectory) -> RunnerMetadata:
    """The file as it stands; raises ConfigError, naming the field, for what it cannot mean."""
    path = directory.metadata
    try:
        # Python's own reader says where a person's edit went wrong.
        document: Any = json.loads(path.read_bytes())
        found = msgspec.convert(document, RunnerMetadata)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name}: {error}", hint=_HINT) from None
    for name in ("time_limit", "size_limit"):
        limit = getattr(found, name)
        if limit is not None and not limit >= 0:
            raise ConfigError(f"{path.name}: {name} is {limit}; it must be 0 or more, or null")
    if not 0 <= found.overall_security <= 100:
        raise ConfigError(
            f"{path.name}: overall_security is {found.overall_security}; it must lie in 0 … 100"
        )
    unknown = found.verified_slices.keys() - found.execution_chain.nodes.keys()
    if unknown:
        raise ConfigError(
            f"{path.name}: verified_slices names '{min(unknown)}'; the slices are "
            f"{', '.join(found.execution_chain.nodes) or 'none'}"
        )
    return found


def read_of(directory: ModelDirectory, model_sha256: str) -> Wanted:
    """What the user wants of this model; nothing where the file is missing or of another model.

    Raises ConfigError as `read` does.
    """
    found = read(directory) if directory.metadata.is_file() else None
    if found is None or found.model_sha256 != model_sha256:
        return Wanted(frozenset(), NO_LIMITS)
    size = found.size_limit
    whole = None if size is None or math.isinf(size) else int(size)
    return Wanted(found.excluded, Limits(seconds=found.time_limit, circuit_bytes=whole))


_HINT = "correct the edit, or delete the file; it is written anew then"


def _chain(sliced: SlicedModel | None) -> Chain:
    if sliced is None:
        return Chain()
    names = [part.name for part in sliced.slices]
    nodes = {
        part.name: Link(
            onnx=f"slices/{part.name}.onnx",
            sha256=part.sha256,
            inputs=[spec.name for spec in part.inputs],
            outputs=[spec.name for spec in part.outputs],
            next=following,
        )
        for part, following in zip(sliced.slices, [*names[1:], None], strict=True)
    }
    return Chain(names[0], nodes)


def _parameters(graph: onnx.GraphProto) -> int:
    """Numbers held as floating-point weights."""
    floats = {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
    }
    total = 0
    for tensor in graph.initializer:
        if tensor.data_type in floats:
            size = 1
            for dim in tensor.dims:
                size *= dim
            total += size
    return total
