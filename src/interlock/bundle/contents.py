"""What a bundle's files hold: each listed file read once, compared with the manifest, and checked.

Nothing here runs a model.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from interlock.bundle.contract import check_contract
from interlock.bundle.limits import DEFAULT_LIMITS, BundleLimits
from interlock.bundle.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    METADATA,
    MODEL,
    SIGNATURE,
    UNLISTED,
    FileEntry,
    Manifest,
    check_name,
    digest_of,
    parse_manifest,
)
from interlock.bundle.metadata import Metadata, copied, parse_metadata
from interlock.bundle.pickles import refuse_pickle
from interlock.bundle.probe import Identity
from interlock.bundle.read import VanishedFileError, hash_file, open_directory, read_file
from interlock.bundle.structure import beside, check_structure, in_one_piece, inline, parse_model
from interlock.kernel.batch import Array
from interlock.kernel.errors import BundleFormatError, BundleIntegrityError

_ATTEMPTS = 8


@dataclass(frozen=True)
class Contents:
    """The bytes of a bundle that agree with its manifest; nothing else is known of them yet."""

    manifest: bytes
    listing: Manifest
    files: Mapping[str, bytes]
    signature: bytes | None

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the manifest."""
        return digest_of(self.manifest)


def read_contents(path: Path, limits: BundleLimits = DEFAULT_LIMITS) -> Contents:
    """Every listed file, read once and compared with the manifest.

    A bundle that a publisher replaces in the meantime is read again: what is returned is the old
    one or the new one. Raises BundleIntegrityError and BundleFormatError.
    """
    for attempt in range(_ATTEMPTS):
        with open_directory(path) as directory:
            last = attempt == _ATTEMPTS - 1
            try:
                contents = _read_contents(directory, limits)
            except VanishedFileError:
                if last or not _replaced(path, directory):
                    raise
                continue
            # Of a directory that was replaced, the signature may be deleted before the rest.
            if contents.signature is not None or last or not _replaced(path, directory):
                return contents
    raise AssertionError("unreachable")


def _replaced(path: Path, directory: int) -> bool:
    """Whether `path` has come to name another directory than the opened one."""
    try:
        current = path.stat()
    except FileNotFoundError:
        return True
    return not os.path.samestat(current, os.fstat(directory))


def compare_files(path: Path, limits: BundleLimits = DEFAULT_LIMITS) -> str:
    """The bundle's digest, where every listed file agrees with the manifest; keeps none of them.

    Raises BundleIntegrityError and BundleFormatError.
    """
    with open_directory(path) as directory:
        _, manifest, listing = _read_listing(directory, limits)
        for entry in listing.files:
            _agree(entry, *hash_file(directory, entry.name, limit=limits.max_file_bytes))
    return digest_of(manifest)


def _read_listing(directory: int, limits: BundleLimits) -> tuple[set[str], bytes, Manifest]:
    """The names in the directory, and the manifest that lists all of them."""
    names = set(os.listdir(directory))
    manifest = read_file(directory, MANIFEST, limit=MAX_MANIFEST_BYTES)
    listing = parse_manifest(manifest, limits)
    listed = {entry.name for entry in listing.files}
    missing = sorted(listed - names)
    if missing:
        raise VanishedFileError(f"{missing[0]} is missing")
    extra = sorted(names - listed - UNLISTED)
    if extra:
        raise BundleFormatError(f"the manifest does not list {extra[0][:80]!r}")
    return names, manifest, listing


def _agree(entry: FileEntry, size: int, sha256: str) -> None:
    if size != entry.size:
        raise BundleIntegrityError(f"{entry.name} has {size} bytes; the manifest says {entry.size}")
    if sha256 != entry.sha256:
        raise BundleIntegrityError(f"the SHA-256 of {entry.name} differs from the manifest's")


def _read_contents(directory: int, limits: BundleLimits) -> Contents:
    names, manifest, listing = _read_listing(directory, limits)
    files: dict[str, bytes] = {}
    for entry in listing.files:
        data = read_file(directory, entry.name, limit=limits.max_file_bytes)
        _agree(entry, len(data), hashlib.sha256(data).hexdigest())
        files[entry.name] = data
    signature = None
    if SIGNATURE in names:
        signature = read_file(directory, SIGNATURE, limit=MAX_MANIFEST_BYTES)
        refuse_pickle(SIGNATURE, signature)
    return Contents(manifest, listing, files, signature)


# The SHA-256 of every file, and the limits, of what was sound and needs no external tensors put in.
# Equal bytes under equal limits are equally sound, so a bundle that is loaded again is only read
# and hashed. Parsing its metadata again would take a fifth of the time of a small bundle's load.
_checked: dict[tuple[Identity, BundleLimits], Metadata] = {}
_checked_lock = threading.Lock()
_CHECKED_MOST = 64


def check_contents(
    listing: Manifest, files: Mapping[str, bytes], limits: BundleLimits
) -> tuple[Metadata, bytes, dict[str, Array]]:
    """The metadata, and the model with its external tensors put in, of files that are sound.

    The tensors stand beside a model that they make too large, where `limits.beside` allows it.

    `listing` must be the manifest of `files`. Raises BundleFormatError and BundleContractError.
    """
    key = (listing.identity, limits)
    with _checked_lock:
        known = _checked.get(key)
    if known is not None:
        return copied(known), files[MODEL], {}
    for name, data in files.items():
        check_name(name)
        refuse_pickle(name, data)
    if len(files[METADATA]) > limits.max_json_bytes:
        raise BundleFormatError(
            f"{METADATA} has {len(files[METADATA])} bytes; the limit is {limits.max_json_bytes}"
        )
    metadata = parse_metadata(files[METADATA])
    model = parse_model(files[MODEL], limits)
    tensors = {name: data for name, data in files.items() if name not in (MODEL, METADATA)}
    external = check_structure(model, tensors, limits)
    check_contract(model, metadata)
    if external:
        if limits.beside and not in_one_piece(model, external):
            return metadata, files[MODEL], beside(external, files)
        return metadata, inline(model, external, files), {}
    with _checked_lock:
        while len(_checked) >= _CHECKED_MOST:
            _checked.pop(next(iter(_checked)))
        _checked[key] = copied(metadata)
    return metadata, files[MODEL], {}
