"""Sign a bundle with a local EC key and verify it, in model-signing's format. Extra: `sign`.

The signature covers `manifest.json`, and through the digests in it every listed file. Nothing
here needs a network. A digest inside a bundle only catches accidents; a signature that is
required from a key which you trust catches everyone who does not hold its private half.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from interlock.bundle.contents import check_contents, read_contents
from interlock.bundle.limits import DEFAULT_LIMITS, BundleLimits
from interlock.bundle.manifest import MANIFEST, SIGNATURE
from interlock.bundle.publish import add_unlisted
from interlock.bundle.strict_json import decode_json
from interlock.kernel.errors import (
    BundleFormatError,
    ConfigError,
    MissingExtraError,
    SignatureError,
)

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"


class _Signature(msgspec.Struct, forbid_unknown_fields=True):
    sig: str
    keyid: str


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    payload: str
    payloadType: str
    signatures: tuple[_Signature]


class _Key(msgspec.Struct, forbid_unknown_fields=True):
    hint: str


class _Material(msgspec.Struct, forbid_unknown_fields=True):
    publicKey: _Key
    tlogEntries: tuple[()]


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    mediaType: str
    verificationMaterial: _Material
    dsseEnvelope: _Envelope


_DECODER = msgspec.json.Decoder(_Document)


def sign(directory: Path, private_key: Path, *, limits: BundleLimits = DEFAULT_LIMITS) -> str:
    """Write `signature.json` into the bundle in `directory`, in one step.

    private_key  PEM file of an unencrypted EC key: P-256, P-384 or P-521

    The bundle is checked as `load` does, without the probe, before it is signed. Returns the
    bundle's digest. Raises MissingExtraError, ConfigError for a key that cannot be used, and
    what `load` raises.
    """
    signing = _import("signing")
    contents = read_contents(directory, limits)
    check_contents(contents.listing, contents.files, limits)
    with _staged(contents.manifest) as stage:
        written = stage / SIGNATURE
        try:
            config = signing.Config().use_elliptic_key_signer(private_key=private_key)
        except Exception:  # noqa: BLE001 - foreign errors; their text could quote the key
            raise ConfigError(
                f"the private key {private_key} cannot be used",
                hint="an unencrypted EC key in PEM is needed, of P-256, P-384 or P-521",
            ) from None
        config.sign(stage / "bundle", written)
        add_unlisted(directory, {SIGNATURE: written.read_bytes()}, contents.manifest)
    return contents.digest


def verify(
    directory: Path, public_key: Path, *, limits: BundleLimits = DEFAULT_LIMITS
) -> tuple[str, str]:
    """Check the signature of the bundle in `directory`, and every file against its manifest.

    Returns the bundle's digest and the key's fingerprint. Raises SignatureError, the errors of
    `load` and MissingExtraError.
    """
    contents = read_contents(directory, limits)
    if contents.signature is None:
        raise SignatureError("the bundle is not signed")
    signer = verify_signature(contents.manifest, contents.signature, public_key)
    return contents.digest, signer


def verify_signature(manifest: bytes, signature: bytes, public_key: Path) -> str:
    """Check that `signature` was made over the bytes of `manifest` by the key's private half.

    public_key  PEM file of the EC public key

    Returns the key's fingerprint: `sha256:` and the hex SHA-256 of its PEM text. Raises
    SignatureError, ConfigError for a key that cannot be used, and MissingExtraError.
    """
    verifying = _import("verifying")
    document = _parse(signature)
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception:  # noqa: BLE001 - foreign errors
        raise ConfigError(
            f"the public key {public_key} cannot be used",
            hint="an EC public key in PEM is needed, of P-256, P-384 or P-521",
        ) from None
    hashing = _import("hashing")
    config.set_hashing_config(hashing.Config().use_file_serialization(hashing_algorithm="sha256"))
    with _staged(manifest) as stage:
        written = stage / SIGNATURE
        written.write_bytes(signature)
        try:
            config.verify(stage / "bundle", written)
        except Exception:  # noqa: BLE001 - whatever the library found, the signature is no good
            raise SignatureError(
                "the signature does not belong to this bundle and this key"
            ) from None
    _check_statement(base64.b64decode(document.dsseEnvelope.payload), manifest)
    return f"sha256:{document.verificationMaterial.publicKey.hint}"


def _parse(signature: bytes) -> _Document:
    """The signature's document, in the one encoding that it has."""
    try:
        document = decode_json(signature, _DECODER, SIGNATURE)
    except BundleFormatError as error:
        raise SignatureError(error.message) from None
    envelope = document.dsseEnvelope
    try:
        canonical = all(
            base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
            for text in (envelope.payload, envelope.signatures[0].sig)
        )
    except binascii.Error:
        canonical = False
    if (
        not canonical
        or document.mediaType != _MEDIA_TYPE
        or envelope.payloadType != _PAYLOAD_TYPE
        or envelope.signatures[0].keyid
        # Without it the library goes on, prints a warning to standard output, and no one is named.
        or not document.verificationMaterial.publicKey.hint
        or msgspec.json.encode(document) != signature
    ):
        raise SignatureError(f"{SIGNATURE} is not in the encoding that signing writes")
    return document


def _check_statement(payload: bytes, manifest: bytes) -> None:
    """The signed statement must be about the manifest's bytes and nothing else."""
    statement = msgspec.json.decode(payload)
    resource = {
        "name": MANIFEST,
        "algorithm": "sha256",
        "digest": hashlib.sha256(manifest).hexdigest(),
    }
    if statement.get("predicate", {}).get("resources") != [resource]:
        raise SignatureError("the signature is about something else than this bundle's manifest")


@contextmanager
def _staged(manifest: bytes) -> Iterator[Path]:
    """A private directory with the manifest's bytes in `bundle/`: the library reads paths only."""
    with tempfile.TemporaryDirectory(prefix="interlock-sign-") as name:
        stage = Path(name)
        (stage / "bundle").mkdir()
        (stage / "bundle" / MANIFEST).write_bytes(manifest)
        yield stage


def _import(module: str) -> Any:
    try:
        return importlib.import_module(f"model_signing.{module}")
    except ImportError:
        raise MissingExtraError("sign", "signing bundles") from None
