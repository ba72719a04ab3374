"""Signatures: over every file through the manifest, by the key that was asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.bundles import plain_metadata, plain_model, strict_bundle

from interlock.bundle import load
from interlock.bundle.manifest import MANIFEST, METADATA, MODEL
from interlock.errors import (
    BundleFormatError,
    BundleIntegrityError,
    ConfigError,
    MissingExtraError,
    SignatureError,
)

pytest.importorskip("model_signing", reason="needs the extra `sign`")

from cryptography.hazmat.primitives.asymmetric import ec
from support.hostile import write_files
from support.keys import write_key_pair

from interlock.bundle.sign import sign, verify


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_a_signed_bundle_loads_with_its_key(curve: ec.EllipticCurve, tmp_path: Path) -> None:
    private, public = write_key_pair(tmp_path, curve=curve)
    bundle = strict_bundle(tmp_path / "b")
    assert sign(tmp_path / "b", private) == bundle.digest
    loaded = load(tmp_path / "b", require_signature=public, probe=False)
    assert verify(tmp_path / "b", public) == (bundle.digest, loaded.signed_by)
    assert loaded.evidence().detail["signed_by"] == loaded.signed_by
    # Without a key the signature is not looked at, and nothing is claimed about it.
    assert load(tmp_path / "b", probe=False).signed_by is None


def test_signing_again_replaces_the_signature(tmp_path: Path) -> None:
    strict_bundle(tmp_path / "b")
    one, other = write_key_pair(tmp_path, "one"), write_key_pair(tmp_path, "other")
    sign(tmp_path / "b", one[0])
    sign(tmp_path / "b", other[0])
    verify(tmp_path / "b", other[1])
    with pytest.raises(SignatureError):
        verify(tmp_path / "b", one[1])
    assert {entry.name for entry in tmp_path.iterdir() if entry.is_dir()} == {"b"}


def test_an_unsigned_bundle_and_a_wrong_key_are_refused(tmp_path: Path) -> None:
    private, public = write_key_pair(tmp_path)
    _, stranger = write_key_pair(tmp_path, "stranger")
    strict_bundle(tmp_path / "b")
    for check in (verify, lambda path, key: load(path, require_signature=key, probe=False)):
        with pytest.raises(SignatureError, match="not signed"):
            check(tmp_path / "b", public)
    sign(tmp_path / "b", private)
    with pytest.raises(SignatureError, match="does not belong"):
        load(tmp_path / "b", require_signature=stranger, probe=False)


def test_an_attacker_who_rewrites_the_manifest_is_refused(tmp_path: Path) -> None:
    private, public = write_key_pair(tmp_path)
    strict_bundle(tmp_path / "b")
    sign(tmp_path / "b", private)
    model = plain_model()
    parts = {METADATA: plain_metadata(model).encode(), MODEL: model.SerializeToString()}
    forged = write_files(tmp_path / "forged", parts)
    (forged / "signature.json").write_bytes((tmp_path / "b" / "signature.json").read_bytes())
    assert load(forged, probe=False).metadata.name == "plain-test"
    with pytest.raises(SignatureError):
        load(forged, require_signature=public, probe=False)


def test_a_changed_file_is_refused_whatever_the_signature_says(tmp_path: Path) -> None:
    private, public = write_key_pair(tmp_path)
    strict_bundle(tmp_path / "b")
    sign(tmp_path / "b", private)
    file = tmp_path / "b" / METADATA
    file.write_bytes(file.read_bytes().replace(b"strict-test", b"strict-tess"))
    with pytest.raises(BundleIntegrityError):
        verify(tmp_path / "b", public)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: json.dumps(json.loads(text)),
        lambda text: text.replace('"keyid":""', '"keyid":"x"'),
        lambda text: text.replace("v0.3", "v0.2"),
        lambda text: text.replace("in-toto+json", "in-toto+yaml"),
        lambda text: text.replace('"tlogEntries":[]', '"tlogEntries":[{}]'),
        lambda text: text.replace("{", '{"extra":1,', 1),
        lambda text: "",
        lambda text: "[" * 10_000,
    ],
)
def test_a_signature_in_another_encoding_is_refused(change: object, tmp_path: Path) -> None:
    assert callable(change)
    private, public = write_key_pair(tmp_path)
    strict_bundle(tmp_path / "b")
    sign(tmp_path / "b", private)
    file = tmp_path / "b" / "signature.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(SignatureError):
        verify(tmp_path / "b", public)


def test_a_signature_that_names_no_key_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = write_key_pair(tmp_path)
    strict_bundle(tmp_path / "b")
    sign(tmp_path / "b", private)
    file = tmp_path / "b" / "signature.json"
    named = json.loads(file.read_text())["verificationMaterial"]["publicKey"]["hint"]
    signature = file.read_text()
    for hint in ("", "0" * 64):
        file.write_text(signature.replace(named, hint))
        with pytest.raises(SignatureError):
            load(tmp_path / "b", require_signature=public, probe=False)
    assert capsys.readouterr().out == ""


def test_keys_that_cannot_be_used_say_so_and_are_not_shown(tmp_path: Path) -> None:
    private, public = write_key_pair(tmp_path)
    odd_private, odd_public = write_key_pair(tmp_path, "odd", ec.SECP256K1())
    strict_bundle(tmp_path / "b")
    (tmp_path / "nonsense.pem").write_text("-----BEGIN PRIVATE KEY-----\nsecret\n")
    for key in (public, odd_private, tmp_path / "nonsense.pem", tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match="cannot be used") as caught:
            sign(tmp_path / "b", key)
        assert "secret" not in str(caught.value)
    sign(tmp_path / "b", private)
    for key in (private, odd_public, tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match="cannot be used"):
            verify(tmp_path / "b", key)


def test_only_a_sound_bundle_is_signed(tmp_path: Path) -> None:
    private, _ = write_key_pair(tmp_path)
    strict_bundle(tmp_path / "b")
    (tmp_path / "b" / "more.txt").write_text("x")
    with pytest.raises(BundleFormatError):
        sign(tmp_path / "b", private)


def test_without_the_extra_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict_bundle(tmp_path / "b")
    monkeypatch.setitem(sys.modules, "model_signing.signing", None)
    with pytest.raises(MissingExtraError, match="extra 'sign'"):
        sign(tmp_path / "b", tmp_path / "key.pem")


def test_the_library_itself_verifies_what_we_signed(tmp_path: Path) -> None:
    from model_signing import verifying

    private, public = write_key_pair(tmp_path)
    strict_bundle(tmp_path / "b")
    sign(tmp_path / "b", private)
    signed = tmp_path / "signed"
    signed.mkdir()
    (signed / MANIFEST).write_bytes((tmp_path / "b" / MANIFEST).read_bytes())
    config = verifying.Config().use_elliptic_key_verifier(public_key=public)
    config.verify(signed, tmp_path / "b" / "signature.json")
