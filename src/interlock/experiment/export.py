"""Result files in the pilot's schema, written from the journal one result at a time.

`pilot_<model>_<time>.json` for each model and `pilot_results_<time>.json` for all of them have the
same form: `metadata` and `runs`, each with `model_config`, `results` and `completed_at`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

import msgspec

from interlock.experiment.plan import Plan, Variant, variants
from interlock.experiment.recorded import run_results, timestamp
from interlock.kernel.errors import StorageError
from interlock.kernel.journal import Journal

_UNSAFE = re.compile(r"[^A-Za-z0-9._+=@-]")
_LONGEST = 200
"""Of 255 bytes that file systems take, with what stands before and after."""


def export_run(
    journal: Journal, plan: Plan, directory: Path, *, target: Path | None = None
) -> list[Path]:
    """Write the result files of a run into `target`, the run's directory by default.

    Each file appears whole or not at all. The models' files come first, the combined one last.
    Raises StorageError.
    """
    target = directory if target is None else target
    info = journal.info(plan.run_id)
    ended = info.finished or datetime.now().astimezone()
    chosen = variants(plan.parsed())
    metadata = {
        "start_time": plan.started,
        "end_time": timestamp(ended),
        "config": plan.config,
        "total_prompts": plan.num_prompts,
        "prompts_file": plan.prompts_file,
        "resumed": plan.resumed,
        "run_id": plan.run_id,
        "complete": info.pending == 0,
    }
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(target, error) from None
    groups = {**_by_file(chosen), "results": list(chosen)}
    moment = ended.astimezone()
    while any(_of_another_run(_path(target, name, moment), plan.run_id) for name in groups):
        # Two runs may end in one second, and neither's files replace the other's.
        moment += timedelta(seconds=1)
    files = []
    for name, group in groups.items():
        path = _path(target, name, moment)
        with _whole(path) as file:
            _write(file, metadata, group, journal, plan, directory)
        files.append(path)
    return files


def _path(target: Path, name: str, moment: datetime) -> Path:
    return target / f"pilot_{name}_{moment:%Y%m%d_%H%M%S}.json"


def _of_another_run(path: Path, run_id: str) -> bool:
    """Whether a result file is there and not this run's, by the line of its metadata."""
    try:
        with path.open("rb") as file:
            file.readline()
            return f'"run_id":"{run_id}"'.encode() not in file.readline()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _cannot_write(path, error) from None


def file_name(label: str) -> str:
    """A model's name as part of a file's: `/` and what file systems refuse become `_`.

    Of a long one the end is kept, where models in one directory differ, after a digest of it all.
    """
    safe = _UNSAFE.sub("_", label)
    if len(safe) <= _LONGEST:
        return safe
    return hashlib.sha256(label.encode()).hexdigest()[:8] + safe[8 - _LONGEST :]


def _by_file(chosen: Sequence[Variant]) -> dict[str, list[Variant]]:
    """The variants of each file: one a model, or one a temperature where it has several."""
    found: dict[str, list[Variant]] = {}
    for variant in chosen:
        several = len(variant.model.temperatures) > 1
        name = file_name(variant.label if several else variant.model.label)
        while name in found or name == "results":
            name += "_"
        found[name] = [variant]
    return found


def _write(
    file: IO[bytes],
    metadata: dict[str, Any],
    chosen: Sequence[Variant],
    journal: Journal,
    plan: Plan,
    directory: Path,
) -> None:
    file.write(b'{\n"metadata": ' + msgspec.json.encode(metadata) + b',\n"runs": [')
    for at, variant in enumerate(chosen):
        file.write(b",\n" if at else b"\n")
        config = msgspec.json.encode(_model_config(variant))
        file.write(b'{"model_config": ' + config + b',\n"results": [')
        last = None
        separator = b"\n"
        for result in run_results(journal, plan, directory, variant):
            file.write(separator + msgspec.json.encode(result.to_dict()))
            separator = b",\n"
            last = result.timestamp if last is None else max(last, result.timestamp)
        file.write(b'\n],\n"completed_at": ' + msgspec.json.encode(last) + b"}")
    file.write(b"\n]\n}\n")


def _model_config(variant: Variant) -> dict[str, Any]:
    """The model's entry as it stands in the configuration, with this run's temperature."""
    entry = dict(variant.model.entry)
    if isinstance(entry.get("temperature"), list):
        entry["temperature"] = variant.temperature
    return entry


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that is put in its place when the block ends without an error."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot write {path}: {error.strerror or error}",
        hint="the answers are in the journal; `interlock experiment export` writes them again",
    )
