"""Model directories of one's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.networks import MODELS

from interlock.verified.directory import Cuts, ModelDirectory, cut, write_slices


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A copy of the shipped `net`, sliced, without metadata."""
    return _copy("net", tmp_path)


@pytest.fixture
def doom(tmp_path: Path) -> Path:
    """A copy of the shipped `doom`, sliced, without metadata."""
    return _copy("doom", tmp_path)


@pytest.fixture
def unsliced(tmp_path: Path) -> Path:
    """A copy of `net` without its slices."""
    directory = _copy("net", tmp_path)
    shutil.rmtree(directory / "slices")
    return directory


def _copy(name: str, tmp_path: Path) -> Path:
    directory = tmp_path / "models" / name
    shutil.copytree(
        MODELS / name, directory, ignore=shutil.ignore_patterns("*_Runner_Metadata.json")
    )
    return directory


def slice_again(directory: Path, cuts: Cuts) -> None:
    """Slice a model in another way."""
    found = ModelDirectory.find(directory)
    write_slices(found, cut(found.read_model(), cuts), cuts, "none", 0)
