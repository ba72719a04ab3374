"""Scores kept in a file as they come, so that a long evaluation that was stopped goes on.

One JSON object a line. A line stands for a text by a digest over everything that its answer depends
on, so answers of another bundle, policy, threshold or release are never taken. A line that a killed
process left half-written is passed over.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec

from interlock import __version__
from interlock.detect.detector import Detector
from interlock.detect.labelled import Labelled
from interlock.detect.results import Detection
from interlock.kernel.errors import InputError, StorageError

_START = b'{"key":"'


def _is_ours(line: bytes) -> bool:
    return line.startswith(_START) or _START.startswith(line)


class Kept(msgspec.Struct, frozen=True):
    """What is kept of an answer."""

    key: str
    score: float | None
    action: str
    cut: bool
    anomaly: bool


class KeptScores:
    """The scores in `path`; a context manager, since it holds the file open for appending."""

    def __init__(self, path: Path, detector: Detector) -> None:
        """Read what is there; raises StorageError where that fails, InputError for another file."""
        facts = {**detector.model_info, "init_ms": None, "release": __version__}
        self._base = hashlib.sha256(msgspec.json.encode(facts, order="sorted"))
        self._known: dict[str, Kept] = {}
        try:
            if path.exists():
                data = path.read_bytes()
                # Appending to somebody's data would spoil it. Even a torn line begins like this,
                # and so does what follows one.
                first, _, rest = data.partition(b"\n")
                if not (_is_ours(first) and _is_ours(rest.split(b"\n", 1)[0])):
                    raise InputError(f"{path} holds no scores", hint="choose another file")
                self._read(data)
            self._file: BinaryIO = path.open("ab")
            if self._file.tell() and path.read_bytes()[-1:] != b"\n":
                self._file.write(b"\n")
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}", hint="choose another file") from None

    def __enter__(self) -> KeptScores:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def known(self, row: Labelled) -> Kept | None:
        """What is kept of this text's answer, None where there is nothing."""
        return self._known.get(self._key(row))

    def keep(self, row: Labelled, found: Detection) -> Kept:
        """Keep an answer; raises StorageError where the file cannot be written."""
        kept = Kept(
            self._key(row), found.score, found.action.value, "cut" in found.faults, found.anomaly
        )
        try:
            # One write a line, so that a kill leaves at most one of them torn.
            self._file.write(msgspec.json.encode(kept) + b"\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(f"the scores cannot be written: {error.strerror}") from None
        return kept

    def _read(self, data: bytes) -> None:
        for line in data.splitlines():
            try:
                kept = msgspec.json.decode(line, type=Kept)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            self._known[kept.key] = kept

    def _key(self, row: Labelled) -> str:
        state = self._base.copy()
        state.update(f"{row.place}\n".encode())
        state.update(row.text.encode("utf-8", "surrogatepass"))
        return state.hexdigest()
