"""`manifest.json`: the list of a bundle's files with their sizes and SHA-256 digests.

The manifest has exactly one encoding, so its own digest names the bundle's whole content.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import msgspec

from interlock.bundle.limits import BundleLimits
from interlock.bundle.strict_json import decode_json
from interlock.kernel.errors import BundleFormatError

MODEL = "model.onnx"
METADATA = "metadata.json"
MANIFEST = "manifest.json"
SIGNATURE = "signature.json"

REPORTS = frozenset(
    {
        "VALIDATION_REPORT.md",
        "VALIDATION_REPORT.html",
        "VALIDATION_REPORT.summary.json",
        "VALIDATION_REPORT.summary.svg",
    }
)
"""Reports that may be written beside the files of a bundle. Loading never reads them."""

UNLISTED = REPORTS | {MANIFEST, SIGNATURE}
"""The only names that a bundle's directory may hold and its manifest does not list."""

EXTENSIONS = frozenset(
    [
        "bin",
        "csv",
        "data",
        "html",
        "jinja",
        "json",
        "license",
        "md",
        "model",
        "onnx",
        "onnx_data",
        "safetensors",
        "svg",
        "toml",
        "txt",
        "vocab",
        "weights",
        "yaml",
    ]
)
"""Extensions that a bundle's files may have. Formats that can hold pickles are not among them."""

MANIFEST_SCHEMA = 1
MAX_MANIFEST_BYTES = 4 << 20

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file: its name in the directory, its size in bytes, its SHA-256 in lower-case hex."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The files of a bundle, sorted by name."""

    schema_version: int
    files: tuple[FileEntry, ...]

    @property
    def identity(self) -> tuple[tuple[str, str], ...]:
        """(name, SHA-256) of every file."""
        return tuple((entry.name, entry.sha256) for entry in self.files)

    def encode(self) -> bytes:
        """The one encoding: two-space indent, a newline at the end."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


_DECODER = msgspec.json.Decoder(Manifest)


def digest_of(manifest: bytes) -> str:
    """The digest that names a bundle: `sha256:` and the hex SHA-256 of its manifest's bytes."""
    return "sha256:" + hashlib.sha256(manifest).hexdigest()


def model_digest_of(manifest: Manifest) -> str:
    """What names the model alone: the digest of the manifest without `metadata.json`."""
    rest = tuple(entry for entry in manifest.files if entry.name != METADATA)
    return digest_of(Manifest(MANIFEST_SCHEMA, rest).encode())


def manifest_of(files: Mapping[str, bytes]) -> Manifest:
    """The manifest of `files` (name -> content)."""
    entries = (
        FileEntry(name, len(data), hashlib.sha256(data).hexdigest())
        for name, data in sorted(files.items())
    )
    return Manifest(MANIFEST_SCHEMA, tuple(entries))


def parse_manifest(data: bytes, limits: BundleLimits) -> Manifest:
    """Read a manifest; BundleFormatError where it is not the one encoding of valid entries."""
    manifest = decode_json(data, _DECODER, MANIFEST)
    if manifest.schema_version != MANIFEST_SCHEMA:
        raise BundleFormatError(
            f"{MANIFEST}: schema_version is {manifest.schema_version}, "
            f"this release reads {MANIFEST_SCHEMA}"
        )
    if len(manifest.files) > limits.max_files:
        raise BundleFormatError(
            f"{MANIFEST} lists {len(manifest.files)} files; the limit is {limits.max_files}"
        )
    for entry in manifest.files:
        check_name(entry.name)
        if not _SHA256.fullmatch(entry.sha256):
            raise BundleFormatError(f"{MANIFEST}: the sha256 of {entry.name} is malformed")
        if not 0 <= entry.size <= limits.max_file_bytes:
            raise BundleFormatError(
                f"{MANIFEST}: {entry.name} has {entry.size} bytes; "
                f"the limit is {limits.max_file_bytes}"
            )
    check_names([entry.name for entry in manifest.files])
    total = sum(entry.size for entry in manifest.files)
    if total > limits.max_total_bytes:
        raise BundleFormatError(
            f"the files have {total} bytes together; the limit is {limits.max_total_bytes}"
        )
    if manifest.encode() != data:
        raise BundleFormatError(f"{MANIFEST} is not in the canonical encoding")
    return manifest


def check_names(names: list[str]) -> None:
    """Raise BundleFormatError unless `names` are sorted, distinct and complete."""
    if names != sorted(names) or len({name.casefold() for name in names}) < len(names):
        raise BundleFormatError(f"{MANIFEST}: the files are not sorted, or one is listed twice")
    for needed in (MODEL, METADATA):
        if needed not in names:
            raise BundleFormatError(f"{MANIFEST} does not list {needed}")


def check_name(name: str) -> None:
    """Raise BundleFormatError for a name that a bundle's file must not have."""
    shown = repr(name[:80])
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        raise BundleFormatError(f"the file name {shown} leaves the bundle's directory")
    if not _NAME.fullmatch(name):
        raise BundleFormatError(
            f"the file name {shown} has characters other than letters, digits, '.', '_' and '-'"
        )
    if name in UNLISTED:
        raise BundleFormatError(f"the file name {shown} is reserved")
    extension = name.rpartition(".")[2].lower() if "." in name else name.lower()
    if extension not in EXTENSIONS:
        raise BundleFormatError(
            f"{shown}: files with the extension '.{extension[:20]}' are not allowed in a bundle",
            hint="allowed: " + ", ".join(sorted(EXTENSIONS)),
        )
