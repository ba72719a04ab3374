"""Load a bundle: read each file once, check those bytes, probe them, hand out exactly them.

A digest inside the bundle only catches accidents: whoever can change the files can change the
manifest as well. `expected_digest` and `require_signature` are the root of trust.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from interlock.bundle.contents import check_contents, read_contents
from interlock.bundle.limits import DEFAULT_LIMITS, BundleLimits
from interlock.bundle.manifest import METADATA, model_digest_of
from interlock.bundle.metadata import Metadata
from interlock.bundle.probe import probe_model
from interlock.kernel.batch import Array
from interlock.kernel.errors import BundleIntegrityError, ConfigError, SignatureError
from interlock.kernel.outcome import Evidence, EvidenceKind

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, all of it in memory; nothing is read from its directory afterwards.

    path          where it was read
    digest        `sha256:<hex>` of `manifest.json`, which names the whole content
    model_digest  `sha256:<hex>` of the same without `metadata.json`: it stays when only what is
                  said about the model changes
    metadata      the content of `metadata.json`
    model         the verified bytes of the model, external tensors put in
    tensors       name -> external tensor of a model that is too large for one piece, over the
                  verified bytes; empty for all others. A session without them does not open
    files         name -> verified bytes of every listed file, as they lie on the disk
    signed_by     `sha256:<hex>` of the public key whose signature was required and verified
    """

    path: Path
    digest: str
    model_digest: str
    metadata: Metadata
    model: bytes = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)
    signed_by: str | None = None
    tensors: Mapping[str, Array] = field(default_factory=dict, repr=False)

    def evidence(self) -> Evidence:
        """What this bundle attests: its digest, and who signed it where that was verified."""
        detail: dict[str, str | int | float | bool | None] = {
            "bundle": self.digest,
            "name": self.metadata.name,
        }
        if self.signed_by is not None:
            detail["signed_by"] = self.signed_by
        return Evidence(EvidenceKind.ATTESTED, "bundle", detail)


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
    signature, ConfigError for an expected digest that is none or a key that cannot be used,
    MissingExtraError where checking a signature needs the extra `sign`, and
    EngineUnavailableError where no process can be started.
    """
    if expected_digest is not None and not _DIGEST.fullmatch(expected_digest):
        raise ConfigError(
            f"the expected digest is {expected_digest!r}; "
            "it must be sha256: and 64 hexadecimal digits in lower case"
        )
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
    metadata, model, tensors = check_contents(contents.listing, contents.files, limits)
    if probe:
        described = contents.files[METADATA]
        probe_model(contents.listing.identity, model, described, limits, tensors)
    return Bundle(
        path=path,
        digest=contents.digest,
        model_digest=model_digest_of(contents.listing),
        metadata=metadata,
        model=model,
        files=MappingProxyType(dict(contents.files)),
        signed_by=signed_by,
        tensors=tensors,
    )
