"""Size and digest of a file, as the product's manifest has them."""

from __future__ import annotations

from pathlib import Path

from interlock.bundle.manifest import METADATA, MODEL, manifest_of


def compute_file_sha256(path: Path) -> tuple[int, str]:
    """Bytes, and the SHA-256 in hex."""
    entry = manifest_of({METADATA: b"", MODEL: path.read_bytes()}).files[1]
    return entry.size, entry.sha256
