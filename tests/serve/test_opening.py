"""What is looked at of a version's files before it is promoted."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import msgspec
import pytest
from support.text_models import tiny_directory

from interlock.bundle.limits import DEFAULT_LIMITS
from interlock.bundle.manifest import MANIFEST, manifest_of, parse_manifest
from interlock.errors import BundleIntegrityError, InterlockError
from interlock.serve.opening import check_files
from interlock.serve.settings import ModelSettings


def test_a_text_models_files_may_be_as_large_as_those_that_are_served(tmp_path: Path) -> None:
    tiny_directory(tmp_path / "tiny")
    check_files(ModelSettings(path="tiny"), tmp_path)
    file = tmp_path / "tiny" / MANIFEST
    listed = parse_manifest(file.read_bytes(), DEFAULT_LIMITS)
    first, *others = listed.files
    large = msgspec.structs.replace(first, size=5 << 30)
    file.write_bytes(msgspec.structs.replace(listed, files=(large, *others)).encode())
    # Nothing but its size is wrong, which is within what such a model may have.
    with pytest.raises(BundleIntegrityError, match=f"the manifest says {5 << 30}"):
        check_files(ModelSettings(path="tiny"), tmp_path)


def test_files_are_compared_without_room_for_them_in_memory(tmp_path: Path) -> None:
    """The server has the memory that it needs to answer, and the candidate's is its processes'."""
    files = {"metadata.json": b"{}", "model.onnx": bytes(48 << 20)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / MANIFEST).write_bytes(manifest_of(files).encode())
    del files, data
    own = ModelSettings(path=".", kind="bundle")
    tracemalloc.start()
    try:
        check_files(own, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    (tmp_path / "model.onnx").write_bytes(bytes(48 << 20)[:-1] + b"x")
    with pytest.raises(BundleIntegrityError, match=r"SHA-256 of model\.onnx"):
        check_files(own, tmp_path)


def test_what_the_system_says_of_a_path_is_an_error_of_ours(tmp_path: Path) -> None:
    """A mount that is gone is more than a file that is not there; a promotion is then held."""
    with pytest.raises(InterlockError, match="xxx"):
        check_files(ModelSettings(path=300 * "x"), tmp_path)
