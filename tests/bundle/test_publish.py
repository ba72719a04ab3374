"""Publishing: all or nothing, and only in a bundle's place."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.bundles import (
    plain_metadata,
    plain_model,
    strict_bundle,
    strict_metadata,
    strict_model,
)

from interlock.bundle import load, pack, publish
from interlock.bundle.manifest import MANIFEST
from interlock.errors import (
    BundleContractError,
    BundleError,
    BundleFormatError,
    ConfigError,
    InputError,
)


def names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def test_a_bundle_replaces_a_bundle_and_leaves_nothing_behind(tmp_path: Path) -> None:
    first = strict_bundle(tmp_path / "b")
    (tmp_path / "b" / "VALIDATION_REPORT.md").write_text("of the first")
    second = strict_bundle(tmp_path / "b", name="second")
    assert first.digest != second.digest == load(tmp_path / "b", probe=False).digest
    assert names(tmp_path) == {"b"}
    assert "VALIDATION_REPORT.md" not in names(tmp_path / "b")


def test_an_empty_directory_becomes_a_bundle_and_parents_are_made(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    strict_bundle(tmp_path / "b")
    assert strict_bundle(tmp_path / "x" / "y" / "b").path == tmp_path / "x" / "y" / "b"


def test_a_relative_path_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    strict_bundle(Path("b"))
    strict_bundle(Path("b"), name="second")
    assert load("b", probe=False).metadata.name == "second"


def test_behind_a_symlink_the_directory_itself_is_replaced(tmp_path: Path) -> None:
    strict_bundle(tmp_path / "v1")
    (tmp_path / "current").symlink_to("v1")
    strict_bundle(tmp_path / "current", name="second")
    assert (tmp_path / "current").is_symlink()
    assert load(tmp_path / "v1", probe=False).metadata.name == "second"


def test_what_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("ten years of work")
    (tmp_path / "file").write_text("a file")
    for name in ("home", "file"):
        with pytest.raises(ConfigError, match="exists and is"):
            strict_bundle(tmp_path / name)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "ten years of work"
    assert names(tmp_path) == {"home", "file"}


@pytest.mark.parametrize(
    "manifest",
    [
        '{"manifest_version": 3, "name": "a browser extension"}',
        "not JSON",
        None,
    ],
)
def test_a_manifest_alone_makes_no_bundle(manifest: str | None, tmp_path: Path) -> None:
    """Other programs keep a manifest.json too; and more files may lie beside a bundle's."""
    if manifest is None:
        strict_bundle(tmp_path / "b")
    else:
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "manifest.json").write_text(manifest)
    (tmp_path / "b" / "sources").mkdir()
    (tmp_path / "b" / "sources" / "app.js").write_text("ten years of work")
    with pytest.raises(ConfigError, match="it is left alone"):
        strict_bundle(tmp_path / "b", name="second")
    assert (tmp_path / "b" / "sources" / "app.js").read_text() == "ten years of work"
    assert names(tmp_path) == {"b"}


@pytest.mark.parametrize("files", [["model.onnx"], ["model.onnx", "metadata.json"], [MANIFEST]])
def test_files_with_names_of_a_bundle_make_none(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in files:
        (tmp_path / "b" / name).write_text("ten years of work")
    with pytest.raises(ConfigError, match="it is left alone"):
        strict_bundle(tmp_path / "b")
    assert names(tmp_path / "b") == set(files)
    assert all(path.read_text() == "ten years of work" for path in (tmp_path / "b").iterdir())


@pytest.mark.parametrize("manifest", [b"", b"{}", b"\xff", b"[" * 100_000])
def test_a_bundle_with_a_broken_manifest_is_replaced(manifest: bytes, tmp_path: Path) -> None:
    strict_bundle(tmp_path / "b")
    (tmp_path / "b" / MANIFEST).write_bytes(manifest)
    second = strict_bundle(tmp_path / "b", name="second")
    assert load(tmp_path / "b", probe=False).digest == second.digest


def test_what_loading_refuses_is_not_published(tmp_path: Path) -> None:
    sound = strict_bundle(tmp_path / "b")
    model = strict_model()
    model.graph.node[2].op_type = "Mul"
    with pytest.raises(BundleContractError):
        pack(tmp_path / "b", model, strict_metadata(strict_model()))
    assert load(tmp_path / "b", probe=False).digest == sound.digest
    assert names(tmp_path) == {"b"}


def test_the_nth_system_call_failing_leaves_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = strict_bundle(tmp_path / "b")
    real = os.fsync
    for fail_at in range(1, 20):
        calls = 0

        def fsync(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls == fail_at:  # noqa: B023 - used before the loop goes on
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        try:
            strict_bundle(tmp_path / "b", name=f"v{fail_at}")
        except BundleError:
            digest = load(tmp_path / "b", probe=False).digest
            # The last sync follows the rename: the new bundle is there, its durability is not.
            assert digest == sound.digest or fail_at == 5
            assert names(tmp_path) == {"b"}
            if digest != sound.digest:
                sound = load(tmp_path / "b", probe=False)
        else:
            assert fail_at == 6
            break
    else:
        pytest.fail("it never succeeded")


def test_without_an_exchange_replacing_is_refused_and_publishing_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish.sys, "platform", "other")  # type: ignore[attr-defined]
    sound = strict_bundle(tmp_path / "b")
    with pytest.raises(ConfigError, match="cannot replace a directory in one step"):
        strict_bundle(tmp_path / "b", name="second")
    assert load(tmp_path / "b", probe=False).digest == sound.digest
    assert names(tmp_path) == {"b"}


def test_a_signature_is_refused_for_a_bundle_that_was_replaced(tmp_path: Path) -> None:
    strict_bundle(tmp_path / "b")
    before = (tmp_path / "b" / MANIFEST).read_bytes()
    strict_bundle(tmp_path / "b", name="second")
    with pytest.raises(BundleFormatError, match="replaced in the meantime"):
        publish.add_unlisted(tmp_path / "b", {"signature.json": b"{}"}, before)
    assert "signature.json" not in names(tmp_path / "b")
    assert names(tmp_path) == {"b"}


def test_reports_replace_earlier_ones_and_a_link_in_their_place(tmp_path: Path) -> None:
    digest = strict_bundle(tmp_path / "b").digest
    manifest = (tmp_path / "b" / MANIFEST).read_bytes()
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "b" / "VALIDATION_REPORT.md").symlink_to(tmp_path / "elsewhere")
    for text in (b"first", b"second"):
        publish.add_unlisted(tmp_path / "b", {"VALIDATION_REPORT.md": text}, manifest)
        assert (tmp_path / "b" / "VALIDATION_REPORT.md").read_bytes() == text
    assert (tmp_path / "elsewhere").read_text() == "kept"
    assert load(tmp_path / "b", probe=False).digest == digest


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be written"):
        strict_bundle(tmp_path / "file" / "b")


def test_files_that_a_bundle_cannot_hold(tmp_path: Path) -> None:
    model = plain_model()
    for name, error in {
        "model.onnx": InputError,
        "../up.txt": BundleFormatError,
        "sub/file.txt": BundleFormatError,
        "signature.json": BundleFormatError,
        "run.py": BundleFormatError,
        "noextension": BundleFormatError,
    }.items():
        with pytest.raises(error):
            pack(tmp_path / "b", model, plain_metadata(model), {name: b""})
    assert names(tmp_path) == set()
