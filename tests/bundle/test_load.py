"""Loading: the bytes that were hashed are the ones that run, and nothing else is let in."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from support.bundles import (
    plain_metadata,
    plain_model,
    strict_bundle,
    strict_metadata,
    strict_model,
)
from support.hostile import external, write_files

from interlock.bundle import REPORTS, BundleLimits, load, pack
from interlock.bundle.contents import check_contents, read_contents
from interlock.bundle.manifest import MANIFEST, METADATA, MODEL
from interlock.errors import BundleError, BundleFormatError, BundleIntegrityError, ConfigError
from interlock.kernel.outcome import EvidenceKind


def test_a_bundle_is_what_was_packed(tmp_path: Path) -> None:
    model = strict_model()
    packed = pack(tmp_path / "b", model, strict_metadata(model), {"notes.txt": b"n"})
    bundle = load(tmp_path / "b", expected_digest=packed.digest)
    assert bundle.model == model.SerializeToString() == bundle.files[MODEL]
    assert bundle.files["notes.txt"] == b"n"
    assert bundle.metadata.encode() == strict_metadata(model).encode()
    evidence = bundle.evidence()
    assert evidence.kind is EvidenceKind.ATTESTED
    assert evidence.detail == {"bundle": packed.digest, "name": "strict-test"}
    with pytest.raises(TypeError):
        bundle.files["notes.txt"] = b"other"  # type: ignore[index]


def test_the_digest_names_the_content_and_not_the_place(tmp_path: Path) -> None:
    one, two = strict_bundle(tmp_path / "a"), strict_bundle(tmp_path / "b")
    assert one.digest == two.digest
    assert one.digest != strict_bundle(tmp_path / "c", name="other").digest


def test_another_digest_than_expected_is_refused(tmp_path: Path) -> None:
    bundle = strict_bundle(tmp_path / "b")
    with pytest.raises(BundleIntegrityError, match="expected"):
        load(tmp_path / "b", expected_digest="sha256:" + "0" * 64, probe=False)
    for malformed in (bundle.digest.upper(), "", bundle.digest[7:], bundle.digest + "0"):
        with pytest.raises(ConfigError, match="64 hexadecimal digits"):
            load(tmp_path / "b", expected_digest=malformed, probe=False)


def test_a_bundle_in_a_terminal_does_not_print_its_model(tmp_path: Path) -> None:
    bundle = strict_bundle(tmp_path / "b")
    assert bundle.digest in repr(bundle)
    assert len(repr(bundle)) < 4096


def test_reports_beside_the_files_are_not_read(tmp_path: Path) -> None:
    bundle = strict_bundle(tmp_path / "b")
    for name in REPORTS:
        (tmp_path / "b" / name).write_bytes(b"\x80\x04 anything")
        (tmp_path / "b" / name).chmod(0)
    assert load(tmp_path / "b", probe=False).digest == bundle.digest


def _symlink(bundle: Path) -> None:
    (bundle / MODEL).rename(bundle.parent / MODEL)
    (bundle / MODEL).symlink_to(bundle.parent / MODEL)


def _symlink_inside(bundle: Path) -> None:
    (bundle / MODEL).unlink()
    (bundle / MODEL).symlink_to(METADATA)


def _hard_link(bundle: Path) -> None:
    (bundle.parent / "other-name").hardlink_to(bundle / MODEL)


def _fifo(bundle: Path) -> None:
    (bundle / MODEL).unlink()
    os.mkfifo(bundle / MODEL)


def _socket(bundle: Path) -> None:
    (bundle / MODEL).unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(bundle)
        try:
            server.bind(MODEL)
        finally:
            os.chdir(here)


def _directory(bundle: Path) -> None:
    (bundle / MODEL).unlink()
    (bundle / MODEL).mkdir()


def _extra_directory(bundle: Path) -> None:
    (bundle / "more").mkdir()


def _extra_file(bundle: Path) -> None:
    (bundle / "more.txt").write_bytes(b"")


def _hidden_file(bundle: Path) -> None:
    (bundle / ".hidden").write_bytes(b"")


def _missing_file(bundle: Path) -> None:
    (bundle / METADATA).unlink()


def _missing_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()


def _longer_file(bundle: Path) -> None:
    with (bundle / MODEL).open("ab") as file:
        file.write(b"x")


def _huge_sparse_file(bundle: Path) -> None:
    os.truncate(bundle / MODEL, 1 << 40)


def _signature_link(bundle: Path) -> None:
    (bundle / "signature.json").symlink_to(MANIFEST)


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (_symlink, BundleFormatError, "model.onnx is a symbolic link"),
        (_symlink_inside, BundleFormatError, "model.onnx is a symbolic link"),
        (_hard_link, BundleFormatError, "model.onnx is a hard link"),
        (_fifo, BundleFormatError, "not a regular file"),
        (_socket, BundleFormatError, "cannot be opened|not a regular file"),
        (_directory, BundleFormatError, "not a regular file"),
        (_extra_directory, BundleFormatError, "does not list 'more'"),
        (_extra_file, BundleFormatError, "does not list 'more.txt'"),
        (_hidden_file, BundleFormatError, "does not list '.hidden'"),
        (_missing_file, BundleIntegrityError, "metadata.json is missing"),
        (_missing_manifest, BundleIntegrityError, "manifest.json is missing"),
        (_longer_file, BundleIntegrityError, "model.onnx has .* bytes; the manifest says"),
        (_huge_sparse_file, BundleFormatError, "the limit is"),
        (_signature_link, BundleFormatError, "signature.json is a symbolic link"),
    ],
)
def test_a_changed_directory_is_refused(
    change: Callable[[Path], None], error: type[BundleError], reason: str, tmp_path: Path
) -> None:
    strict_bundle(tmp_path / "b")
    change(tmp_path / "b")
    with pytest.raises(error, match=reason):
        load(tmp_path / "b", probe=False)


def test_the_path_itself_may_be_a_symlink(tmp_path: Path) -> None:
    bundle = strict_bundle(tmp_path / "v1")
    (tmp_path / "current").symlink_to("v1")
    assert load(tmp_path / "current", probe=False).digest == bundle.digest


@pytest.mark.parametrize("name", ["nowhere", "file.txt"])
def test_what_is_no_directory(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_bytes(b"")
    with pytest.raises(BundleFormatError, match=r"no bundle at|not a directory"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"model.onnx"', b'"../model.onnx"', "leaves the bundle"),
        (b'"model.onnx"', b'"/etc/model.onnx"', "leaves the bundle"),
        (b'"model.onnx"', b'"a\\\\model.onnx"', "leaves the bundle"),
        (b'"model.onnx"', b'".."', "leaves the bundle"),
        (b'"model.onnx"', b'"manifest.json"', "reserved"),
        (b'"model.onnx"', b'"mod\\u0000el.onnx"', "characters"),
        (b'"model.onnx"', b'"other.onnx"', "does not list model.onnx"),
        (b'"model.onnx"', b'"metadata.json"', "listed twice"),
        (b'"schema_version": 1', b'"schema_version": 9', "schema_version is 9"),
        (b'"schema_version": 1', b'"schema_version": true', "manifest.json"),
        (b'"size"', b'"size": 1, "size"', "given twice"),
        (b"  ", b"\t", "canonical"),
        (b'"size": ', b'"size": -', "bytes"),
        (b'"files": [', b'"more": 1, "files": [', "unknown field"),
    ],
)
def test_manifests_with_another_meaning(
    old: bytes, new: bytes, reason: str, tmp_path: Path
) -> None:
    strict_bundle(tmp_path / "b")
    manifest = tmp_path / "b" / MANIFEST
    changed = manifest.read_bytes().replace(old, new, 1)
    assert changed != manifest.read_bytes()
    manifest.write_bytes(changed)
    with pytest.raises(BundleFormatError, match=reason):
        load(tmp_path / "b", probe=False)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (BundleLimits(max_files=1), "lists 2 files"),
        (BundleLimits(max_file_bytes=100), "the limit is 100"),
        (BundleLimits(max_total_bytes=1000), "bytes together"),
        (BundleLimits(max_json_bytes=10), "the limit is 10"),
        (BundleLimits(max_nodes=3), "more than 3 nodes"),
        (BundleLimits(max_elements=5), "the limit is 5"),
        (BundleLimits(domains=frozenset({"ai.onnx.ml"})), "unknown domain"),
    ],
)
def test_limits(limits: BundleLimits, reason: str, tmp_path: Path) -> None:
    strict_bundle(tmp_path / "b")
    with pytest.raises(BundleFormatError, match=reason):
        load(tmp_path / "b", probe=False, limits=limits)


def test_a_second_load_under_tighter_limits_is_checked_again(tmp_path: Path) -> None:
    strict_bundle(tmp_path / "b")
    load(tmp_path / "b", probe=False)
    load(tmp_path / "b", probe=False)
    with pytest.raises(BundleFormatError, match="more than 3 nodes"):
        load(tmp_path / "b", probe=False, limits=BundleLimits(max_nodes=3))


def external_bundle(directory: Path, weights: bytes) -> Path:
    """A plain model whose weights lie in `w.bin` behind eight other bytes."""
    model = plain_model()
    stored = model.graph.initializer[0]
    stored.CopyFrom(external("W", "w.bin", [4, 3], offset="8", length="48"))
    parts = {
        METADATA: plain_metadata(model).encode(),
        MODEL: model.SerializeToString(),
        "w.bin": b"12345678" + weights,
    }
    return write_files(directory, parts)


def test_external_tensors_are_put_into_the_model(tmp_path: Path) -> None:
    weights = np.arange(12, dtype=np.float32)
    directory = external_bundle(tmp_path / "b", weights.tobytes())
    for _ in range(2):
        bundle = load(directory)
        tensor = onnx.load_from_string(bundle.model).graph.initializer[0]
        assert tensor.data_location == TensorProto.DEFAULT
        assert not tensor.external_data
        assert numpy_helper.to_array(tensor).tobytes() == weights.tobytes()
    (directory / "w.bin").write_bytes(bytes(56))
    with pytest.raises(BundleIntegrityError, match=r"w\.bin"):
        load(directory)


def test_packing_a_path_takes_its_external_tensors_along(tmp_path: Path) -> None:
    model = plain_model()
    metadata = plain_metadata(model)
    onnx.save_model(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    assert (tmp_path / "m.data").exists()
    bundle = pack(tmp_path / "b", tmp_path / "m.onnx", metadata)
    assert set(bundle.files) == {MODEL, METADATA}
    assert load(tmp_path / "b").model == bundle.model
    (tmp_path / "linked.onnx").symlink_to("m.onnx")
    assert pack(tmp_path / "c", tmp_path / "linked.onnx", metadata).digest == bundle.digest
    (tmp_path / "m.data").rename(tmp_path / "secret")
    (tmp_path / "m.data").symlink_to("secret")
    with pytest.raises(BundleFormatError, match=r"m\.data is a symbolic link"):
        pack(tmp_path / "d", tmp_path / "m.onnx", metadata)


def test_a_replaced_directory_is_read_again_and_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = strict_bundle(tmp_path / "b")

    module = importlib.import_module("interlock.bundle.contents")
    real, turns = module.read_file, list[str]()

    def replace_after_the_manifest(directory: int, name: str, *, limit: int) -> bytes:
        data: bytes = real(directory, name, limit=limit)
        if name == MANIFEST and not turns:
            turns.append(name)
            strict_bundle(tmp_path / "b", name="second")
        return data

    monkeypatch.setattr(module, "read_file", replace_after_the_manifest)
    contents = read_contents(tmp_path / "b")
    assert turns
    assert contents.digest != first.digest
    metadata, _, _ = check_contents(contents.listing, contents.files, BundleLimits())
    assert metadata.name == "second"


def test_what_a_caller_does_to_the_metadata_does_not_reach_the_next_load(tmp_path: Path) -> None:
    strict_bundle(tmp_path / "b", extensions={"card": {"rows": [1, 2]}})
    sound = load(tmp_path / "b", probe=False).metadata.encode()
    for _ in range(2):
        mine = load(tmp_path / "b", probe=False).metadata
        assert mine.encode() == sound
        assert mine.strict is not None
        mine.provenance["test"] = "changed"
        mine.extensions["card"]["rows"].append(3)
        mine.strict.meaning["decoded"] = "anything"
        del mine.smoke[0].outputs["decoded"]
        with pytest.raises(ValueError, match="read-only"):
            mine.smoke[0].inputs["x"][:] = 0


def test_a_replaced_bundle_whose_signature_is_deleted_first_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict_bundle(tmp_path / "b")
    (tmp_path / "b" / "signature.json").write_text("{}")
    shutil.copytree(tmp_path / "b", tmp_path / "new")
    listdir = os.listdir

    def while_a_publisher_deletes(directory: int) -> list[str]:
        if (tmp_path / "new").exists():
            (tmp_path / "b").rename(tmp_path / "old")
            (tmp_path / "new").rename(tmp_path / "b")
            (tmp_path / "old" / "signature.json").unlink()
        return listdir(directory)

    monkeypatch.setattr(os, "listdir", while_a_publisher_deletes)
    assert read_contents(tmp_path / "b").signature == b"{}"
