"""The prompts of a run, kept beside its journal: one a line, found by id without being in memory.

`prompts_<run_id>.jsonl` holds exactly what was asked, in the benchmark's schema, so that a run
directory explains itself after the benchmark's file has changed.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from interlock.experiment.prompts import Prompt, iter_prompts, prompt_from_dict
from interlock.experiment.subset import stratified
from interlock.kernel.errors import InputError, StorageError


class _Line(msgspec.Struct):
    id: str
    prompt: msgspec.Raw


def prompts_path(directory: Path, run_id: str) -> Path:
    """Where a run's prompts are."""
    return directory / f"prompts_{run_id}.jsonl"


def file_sha256(path: Path | str) -> str:
    """The SHA-256 of a file, in hex; raises InputError where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"prompts_file {path} cannot be read: {error.strerror or error}",
            hint="give the path of a JSON file with prompts",
        ) from None


def copy_prompts(source: Path, target: Path, wanted: int | None, seed: int) -> tuple[int, int]:
    """Write the prompts of `source`, or a stratified subset, to `target`; how many, of how many.

    Raises InputError that lists what is malformed, StorageError where `target` cannot be written;
    then nothing is at `target`.
    """
    chosen = None
    if wanted is not None:
        chosen, _ = stratified(iter_prompts(source), wanted, seed)
    encoder = msgspec.json.Encoder()
    written = total = 0

    def counted() -> Iterator[Prompt]:
        nonlocal total
        for prompt in iter_prompts(source):
            total += 1
            yield prompt

    prompts = counted() if chosen is None else compress(counted(), chosen)
    partial = target.with_name(f".{target.name}.partial")
    try:
        try:
            with partial.open("wb") as file:
                for prompt in prompts:
                    file.write(encoder.encode(prompt.to_dict()) + b"\n")
                    written += 1
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}",
            hint="choose a directory that can be written to and has space",
        ) from None
    return written, len(chosen) if chosen is not None else total


class AskedPrompts:
    """The prompts of a run, by id and in order. 16 bytes a prompt are in memory. Not for threads.

    `bytes` counts those of all texts as JSON, `longest` those of the longest one. Raises
    InputError where the file is missing or not what `copy_prompts` wrote.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        keys, starts, position = array("q"), array("Q"), 0
        decoder = msgspec.json.Decoder(_Line)
        self.bytes = self.longest = 0
        try:
            self._file = path.open("rb")
            for line in self._file:
                found = decoder.decode(line)
                keys.append(hash(found.id))
                size = len(bytes(found.prompt)) - 2
                self.bytes += size
                self.longest = max(self.longest, size)
                starts.append(position)
                position += len(line)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {type(error).__name__}") from None
        except ValueError:
            self._file.close()
            raise InputError(f"{path} is not what was written there") from None
        hashes = np.array(keys, np.int64)
        order = np.argsort(hashes)
        self._keys = hashes[order]
        self._starts = np.array(starts, np.uint64)[order]

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Prompt]:
        with self._path.open("rb") as file:
            for line in file:
                yield prompt_from_dict(msgspec.json.decode(line))

    def __getitem__(self, prompt_id: str) -> Prompt:
        """The prompt with this id; raises KeyError."""
        wanted = hash(prompt_id)
        at = int(np.searchsorted(self._keys, np.int64(wanted)))
        # Two ids may share a hash, though hardly ever do.
        while at < len(self._keys) and int(self._keys[at]) == wanted:
            self._file.seek(int(self._starts[at]))
            found: dict[str, Any] = msgspec.json.decode(self._file.readline())
            if found["id"] == prompt_id:
                return prompt_from_dict(found)
            at += 1
        raise KeyError(prompt_id)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
