"""One small detector for all tests of this directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.detectors import write_bundle

from interlock.detect import Detector


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("detector") / "bundle")


@pytest.fixture(scope="session")
def detector(bundle: Path) -> Detector:
    return Detector.open(bundle=bundle, remember=False)
