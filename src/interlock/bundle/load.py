"""Load a bundle: read each file once, check those bytes, probe them, hand out exactly them.

A digest inside the bundle only catches accidents: whoever can change the files can change the
manifest as well. `expected_digest` and `require_signature` are the root of trust.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from interlock.bundle.contract import check_contract
from interlock.bundle.limits import DEFAULT_LIMITS, BundleLimits
from interlock.bundle.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    METADATA,
    MODEL,
    SIGNATURE,
    UNLISTED,
    Manifest,
    check_name,
    digest_of,
    parse_manifest,
)
from interlock.bundle.metadata import Metadata, parse_metadata
from interlock.bundle.pickles import refuse_pickle
from interlock.bundle.probe import Identity, probe_model
from interlock.bundle.read import VanishedFileError, open_directory, read_file
from interlock.bundle.structure import check_structure, inline, parse_model
from interlock.kernel.errors import BundleFormatError, BundleIntegrityError, SignatureError
from interlock.kernel.outcome import Evidence, EvidenceKind

_ATTEMPTS = 8


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, all of it in memory; nothing is read from its directory afterwards.

    path       where it was read
    digest     `sha256:<hex>` of `manifest.json`, which names the whole content
    metadata   the content of `metadata.json`
    model      the verified bytes of the model, external tensors put in
    files      name -> verified bytes of every listed file, as they lie on the disk
    signed_by  `sha256:<hex>` of the public key whose signature was required and verified
    """

    path: Path
    digest: str
    metadata: Metadata
    model: bytes
    files: Mapping[str, bytes]
    signed_by: str | None = None

    def evidence(self) -> Evidence:
        """What this bundle attests: its digest, and who signed it where that was verified."""
        detail: dict[str, str | int | float | bool | None] = {
            "bundle": self.digest,
            "name": self.metadata.name,
        }
        if self.signed_by is not None:
            detail["signed_by"] = self.signed_by
        return Evidence(EvidenceKind.ATTESTED, "bundle", detail)


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


def load(
    directory: str | os.PathLike[str],
    *,
    expected_digest: str | None = None,
    require_signature: Path | None = None,
    probe: bool = True,
    limits: BundleLimits = DEFAULT_LIMITS,
) -> Bundle:
    """Read, check and probe the bundle in `directory`.

    expected_digest    `sha256:<hex>`, from a place that you trust; anything else is refused
    require_signature  PEM file of the EC public key that must have signed the bundle
    probe              run the smoke vectors and the decode's limits in a process of its own first

    Raises BundleIntegrityError for bytes that differ from the manifest or the expected digest,
    BundleFormatError for malformed or forbidden content, BundleContractError where the graph and
    the metadata disagree or the probe finds a wrong answer, SignatureError for a missing or wrong
    signature, ConfigError for a key that cannot be used, MissingExtraError where checking a
    signature needs the extra `sign`, and EngineUnavailableError where no process can be started.
    """
    path = Path(directory)
    contents = read_contents(path, limits)
    if expected_digest is not None and contents.digest != expected_digest:
        raise BundleIntegrityError(
            f"the bundle's digest is {contents.digest}, expected {expected_digest}"
        )
    signed_by = None
    if require_signature is not None:
        from interlock.bundle.sign import verify_signature

        if contents.signature is None:
            raise SignatureError("the bundle is not signed")
        signed_by = verify_signature(contents.manifest, contents.signature, require_signature)
    metadata, model = check_contents(contents.listing, contents.files, limits)
    if probe:
        probe_model(contents.listing.identity, model, contents.files[METADATA], limits)
    return Bundle(
        path=path,
        digest=contents.digest,
        metadata=metadata,
        model=model,
        files=MappingProxyType(dict(contents.files)),
        signed_by=signed_by,
    )


def read_contents(path: Path, limits: BundleLimits = DEFAULT_LIMITS) -> Contents:
    """Every listed file, read once and compared with the manifest.

    A bundle that a publisher replaces in the meantime is read again: what is returned is the old
    one or the new one. Raises BundleIntegrityError and BundleFormatError.
    """
    for attempt in range(_ATTEMPTS):
        with open_directory(path) as directory:
            try:
                return _read_contents(directory, limits)
            except VanishedFileError:
                if attempt == _ATTEMPTS - 1 or not _replaced(path, directory):
                    raise
    raise AssertionError("unreachable")


def _replaced(path: Path, directory: int) -> bool:
    """Whether `path` has come to name another directory than the opened one."""
    try:
        current = path.stat()
    except FileNotFoundError:
        return True
    return not os.path.samestat(current, os.fstat(directory))


def _read_contents(directory: int, limits: BundleLimits) -> Contents:
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
    files: dict[str, bytes] = {}
    for entry in listing.files:
        data = read_file(directory, entry.name, limit=limits.max_file_bytes)
        if len(data) != entry.size:
            raise BundleIntegrityError(
                f"{entry.name} has {len(data)} bytes; the manifest says {entry.size}"
            )
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleIntegrityError(f"the SHA-256 of {entry.name} differs from the manifest's")
        files[entry.name] = data
    signature = None
    if SIGNATURE in names:
        signature = read_file(directory, SIGNATURE, limit=MAX_MANIFEST_BYTES)
        refuse_pickle(SIGNATURE, signature)
    return Contents(manifest, listing, files, signature)


# (SHA-256 of every file, limits) -> what was found. Equal bytes under equal limits are equally
# sound, so a bundle that is loaded again is only read and hashed.
_Key = tuple[Identity, BundleLimits]
_checked: dict[_Key, tuple[Metadata, bool]] = {}
_checked_lock = threading.Lock()
_CHECKED_MOST = 64


def check_contents(
    listing: Manifest, files: Mapping[str, bytes], limits: BundleLimits
) -> tuple[Metadata, bytes]:
    """The metadata, and the model with its external tensors put in, of files that are sound.

    `listing` must be the manifest of `files`. Raises BundleFormatError and BundleContractError.
    """
    key = (listing.identity, limits)
    with _checked_lock:
        known = _checked.get(key)
    if known is not None and not known[1]:
        return known[0], files[MODEL]
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
    data = inline(model, external, files) if external else files[MODEL]
    with _checked_lock:
        while len(_checked) >= _CHECKED_MOST:
            _checked.pop(next(iter(_checked)))
        _checked[key] = (metadata, bool(external))
    return metadata, data
