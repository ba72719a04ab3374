"""Step 4, with the extra `sign`: a local key signs the bundle, another key does not verify it."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from interlock.errors import SignatureError


@dataclass(frozen=True)
class Signed:
    """What verifying said with the publisher's key and with somebody else's."""

    verified: bool
    other_key: str


def available() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("model_signing") is not None


def sign_and_verify(bundle: Path) -> Signed:
    """Make two keys, sign a copy of the bundle with one, verify it with both."""
    from interlock.bundle.sign import sign, verify

    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "bundle"
        shutil.copytree(bundle, copy)
        ours, _ = _key_pair(Path(scratch), "publisher")
        _, theirs = _key_pair(Path(scratch), "stranger")
        sign(copy, ours)
        verify(copy, ours.with_suffix(".pub"))
        try:
            verify(copy, theirs)
        except SignatureError as error:
            return Signed(True, error.message.replace(scratch, "…"))
    raise SignatureError("a stranger's key verified the bundle")


def _key_pair(directory: Path, name: str) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = directory / f"{name}.pem", directory / f"{name}.pub"
    private.touch(mode=0o600)
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public
