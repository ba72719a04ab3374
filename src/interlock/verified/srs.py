"""The structured reference string (SRS) of the commitments: a file of the user's, or made here.

Whoever knows the secret that an SRS was made from can prove anything. A ceremony's file has a
secret that nobody knows as long as one participant was honest; a development SRS has one that the
process that made it knew, so proofs under it convince nobody who distrusts that machine. Nothing
here fetches a file, and no file of the user's is written or removed.

    u32 logrows | 2^logrows points | 2^logrows points | 128 bytes | 128 bytes

Points of G1 take 64 bytes. A verifier needs the first point and the last 256 bytes alone:
`of_verifier` keeps those in the same format at logrows 1.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import ConfigError, StorageError
from interlock.verified.key_store import sync
from interlock.verified.proof_system import Backend

Origin = Literal["file", "development"]

DEVELOPMENT_WARNING = "development SRS: not sound against whoever made it"

_POINT, _TAIL = 64, 256
VERIFIER_BYTES = 4 + 4 * _POINT + _TAIL
LARGEST_LOGROWS = 26

# The curve's generators as they stand in a file: coordinates low byte first, times 2^256.
_PRIME = 0x30644E72E131A029B85045B68181585D97816A916871CA8D3C208C16D87CFD47
_G1 = (1, 2)
_G2 = (
    0x1800DEEF121F1E76426A00665E5C4479674322D4F75EDADD46DEBD5CD992F6ED,
    0x198E9393920D483A7260BFB731FB5D25F1AA493335A9E71297E485B7AEF312C2,
    0x12C85EA5DB8C6DEB4AAB71808DCB408FE3D1E7690C43D37B4CE6CC0166FA7DAA,
    0x090689D0585FF075EC9E99AD690C3395BC4B313370B38EF355ACDADCD122975B,
)


def _encoded(coordinates: tuple[int, ...]) -> bytes:
    return b"".join((c * 2**256 % _PRIME).to_bytes(32, "little") for c in coordinates)


def generators_fit(part: bytes) -> bool:
    """Whether a verifier's part starts from the curve's own generators.

    Under other ones a proof says something else, so they must not be a prover's choice.
    """
    first, second = _encoded(_G1), _encoded(_G2)
    return part[4 : 4 + _POINT] == first and part[-_TAIL:-128] == second


def same_secret(one: bytes, other: bytes) -> bool:
    """Whether two verifier's parts are of one SRS, whatever the sizes that they were cut from."""
    return one[4 : 4 + 2 * _POINT] + one[-_TAIL:] == other[4 : 4 + 2 * _POINT] + other[-_TAIL:]


@dataclass(frozen=True)
class Srs:
    """A file with an SRS of 2^logrows points, its SHA-256, and where it is from."""

    path: Path
    logrows: int
    sha256: str
    origin: Origin

    def of_verifier(self) -> bytes:
        """The part that verifying needs, as an SRS file of `VERIFIER_BYTES`."""
        points = 1 << self.logrows
        with self.path.open("rb") as file:
            file.seek(4)
            first = file.read(2 * _POINT)
            file.seek(4 + points * _POINT)
            second = file.read(2 * _POINT)
            file.seek(4 + 2 * points * _POINT)
            tail = file.read(_TAIL)
        return (1).to_bytes(4, "little") + first + second + tail


class SrsSource:
    """Where the SRS of a circuit's size comes from.

    files  a file, or a directory of files named `kzg<logrows>.srs` as ceremonies publish them.
           None makes development SRS below `cache` as they are needed
    sha256 that the file must have, in hex; not for a directory
    """

    def __init__(
        self, cache: Path, *, files: Path | None = None, sha256: str | None = None
    ) -> None:
        if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise ConfigError(f"srs sha256 is {sha256!r}; it must be 64 hex digits")
        if sha256 is not None and (files is None or files.is_dir()):
            raise ConfigError("an srs sha256 needs one SRS file, not a directory or none")
        if files is not None and not files.exists():
            raise ConfigError(f"there is no SRS at {files}", hint="nothing is fetched: name a file")
        self._cache = cache
        self._files = files
        self._sha256 = sha256
        self._known: dict[Path, tuple[tuple[int, int], Srs]] = {}

    @property
    def origin(self) -> Origin:
        """Whether the user gave files, or development SRS are made."""
        return "development" if self._files is None else "file"

    def find(self, logrows: int) -> Srs | None:
        """The SRS for a circuit of 2^logrows rows, if it is there. Raises as `provide` does."""
        if self._files is None:
            path = self._development(logrows)
            return self._read(path, "development") if path.exists() else None
        path = self._files / f"kzg{logrows}.srs" if self._files.is_dir() else self._files
        if not path.exists():
            raise ConfigError(
                f"there is no kzg{logrows}.srs in {self._files}",
                hint="a circuit of this size needs it; nothing is fetched",
            )
        srs = self._read(path, "file")
        if srs.logrows < logrows:
            raise ConfigError(
                f"the SRS {path} has 2^{srs.logrows} points; a circuit needs 2^{logrows}",
                hint="give a larger SRS, or limit the key size",
            )
        if self._sha256 is not None and srs.sha256 != self._sha256:
            raise ConfigError(f"the SRS {path} has the sha256 {srs.sha256}, not {self._sha256}")
        return srs

    def provide(self, logrows: int, backend: Backend, *, deadline: Deadline = NO_DEADLINE) -> Srs:
        """The SRS for a circuit of 2^logrows rows; a development SRS is made where missing.

        Raises ConfigError for a file that is missing, too small, malformed or has another digest,
        and StorageError.
        """
        found = self.find(logrows)
        if found is not None:
            return found
        path = self._development(logrows)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():
                    partial = path.with_suffix(".partial")
                    backend.make_srs(partial, logrows, deadline=deadline)
                    sync(partial)
                    partial.replace(path)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from None
        return self._read(path, "development")

    def _development(self, logrows: int) -> Path:
        return self._cache / f"development-{logrows}.srs"

    def _read(self, path: Path, origin: Origin) -> Srs:
        """The file's size and digest; read once, as long as it does not change."""
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        with path.open("rb") as file:
            logrows = int.from_bytes(file.read(4), "little")
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        expected = 4 + 2 * (_POINT << logrows) + _TAIL if logrows <= LARGEST_LOGROWS else -1
        if expected != status.st_size:
            raise ConfigError(
                f"{path} is no SRS file, or it is cut short",
                hint="an SRS of 2^k points has 128 · 2^k + 260 bytes",
            )
        srs = Srs(path, logrows, digest, origin)
        self._known[path] = (stamp, srs)
        return srs
