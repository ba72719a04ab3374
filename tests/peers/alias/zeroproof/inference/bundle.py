"""The peer's bundles, told to the product: what its metadata declares goes into a bundle of the
product's form around the same model file, and the product judges it.

Only refusals can be compared: the model file of the peer's tests is no ONNX model.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from interlock import strict
from interlock.bundle.manifest import MANIFEST, MANIFEST_SCHEMA, METADATA, MODEL, manifest_of
from interlock.bundle.metadata import SCHEMA_VERSION
from interlock.errors import BundleError

BUNDLE_FORMAT = BUNDLE_METADATA_SCHEMA_NAME = "not offered"
BUNDLE_FORMAT_VERSION = BUNDLE_METADATA_SCHEMA_VERSION = 2

WORDING = {
    "outputs of a strict bundle must start": "Unexpected bundle output names/order",
    "output_order must be": "Unexpected strict inference fields",
    "schema_version is": "Unsupported bundle metadata schema_version",
    "strict: tau_train is": "tau_train",
    "is not a JSON number": "tau_train",
    "missing required field": "Bundle metadata schema v2 requires model_bytes and model_sha256",
    "model.onnx has": "Bundle model byte size mismatch",
    "SHA-256 of model.onnx differs": "Bundle model SHA-256 integrity check failed",
    "sha256 of model.onnx is malformed": "Invalid model_sha256",
    "at `$.files[1].size`": "Invalid model_bytes",
}
"""What the product says where it refuses, and the words that the tests look for."""


def validate_bundle(directory: Path) -> Any:
    """What the product finds; ValueError where it refuses for a reason that the tests name."""
    metadata = json.loads((directory / METADATA).read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        _write(Path(scratch), (directory / MODEL).read_bytes(), metadata)
        try:
            return strict.validate_bundle(scratch, probe=False)
        except BundleError as error:
            for ours, theirs in WORDING.items():
                if ours in error.message:
                    raise ValueError(f"{theirs}: {error.message}") from error
            raise


def _write(place: Path, model: bytes, metadata: dict[str, Any]) -> None:
    """A bundle of the product's form that claims what the peer's metadata claims."""
    order = metadata.get("strict_inference_fields") or list(strict.StrictResult._fields)
    declared = metadata.get("schema_version", BUNDLE_METADATA_SCHEMA_VERSION)
    current = declared == BUNDLE_METADATA_SCHEMA_VERSION
    contract = {
        "p": "P",
        "q": "Q",
        "dtype": "float32",
        "tau_infer": metadata["tau_infer"],
        "tau_train": metadata.get("tau_train"),
        "output_order": order,
    }
    document = {
        "name": "the peer's",
        "kind": "strict",
        "inputs": [{"name": name, "dtype": "float32", "shape": []} for name in _inputs(metadata)],
        "outputs": [
            {"name": name, "dtype": "float32" if name == "decoded" else "bool", "shape": []}
            for name in metadata["output_names"]
        ],
        "strict": contract,
        "schema_version": SCHEMA_VERSION if current else declared,
    }
    described = json.dumps(document).encode()
    entries = [*msgspec.to_builtins(manifest_of({METADATA: described, MODEL: model}).files)]
    if current:
        entries[1] = {"name": MODEL} | {
            ours: metadata[theirs]
            for ours, theirs in (("size", "model_bytes"), ("sha256", "model_sha256"))
            if theirs in metadata
        }
    listing = msgspec.json.encode({"schema_version": MANIFEST_SCHEMA, "files": entries})
    (place / MODEL).write_bytes(model)
    (place / METADATA).write_bytes(described)
    (place / MANIFEST).write_bytes(msgspec.json.format(listing, indent=2) + b"\n")


def _inputs(metadata: dict[str, Any]) -> list[str]:
    specs = metadata.get("inputs")
    return metadata["input_names"] if specs is None else [spec["name"] for spec in specs]
