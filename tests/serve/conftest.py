"""One server with a model of every kind, shared by the tests that leave it as it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import models
from support.bundles import strict_bundle
from support.serving import Running, serving

from interlock.verified.directory import shipped_models

SECRET = "canary-7f3a9c-secret"
TOKEN = "token-of-the-tests-0001"


def write_models(place: Path) -> dict[str, dict[str, Any]]:
    """A model of every kind, and three that must not be served."""
    place.mkdir(exist_ok=True)
    for name in ("affine", "gather", "is_yes", "labelled", "stub"):
        (place / f"{name}.onnx").write_bytes(getattr(models, name)())
    strict_bundle(place / "strict")
    strict_bundle(place / "tampered")
    with (place / "tampered" / "model.onnx").open("r+b") as file:
        file.seek(-1, 2)
        byte = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([byte[0] ^ 1]))
    shutil.copytree(shipped_models() / "net", place / "net", ignore=_METADATA)
    return {
        "affine": {"path": str(place / "affine.onnx")},
        "gather": {"path": str(place / "gather.onnx")},
        "labelled": {"path": str(place / "labelled.onnx")},
        "is_yes": {"path": str(place / "is_yes.onnx")},
        "strict": {"path": str(place / "strict")},
        "net": {"path": str(place / "net"), "mode": "onnx_only"},
        "arm": {"path": "route:arm"},
        "stub": {"path": str(place / "stub.onnx")},
        "missing": {"path": str(place / "missing.onnx")},
        "tampered": {"path": str(place / "tampered")},
    }


_METADATA = shutil.ignore_patterns("*_Runner_Metadata.json")
RED = ("stub", "missing", "tampered")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("served")
    with serving(place, write_models(place / "models")) as running:
        yield running
