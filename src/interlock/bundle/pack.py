"""Pack a model and its metadata into a bundle."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import onnx

from interlock.bundle.contents import check_contents
from interlock.bundle.contract import signature_of
from interlock.bundle.limits import DEFAULT_LIMITS, BundleLimits
from interlock.bundle.load import Bundle, load
from interlock.bundle.manifest import MANIFEST, METADATA, MODEL, check_name, manifest_of
from interlock.bundle.metadata import Metadata
from interlock.bundle.publish import publish
from interlock.bundle.read import open_directory, read_file
from interlock.bundle.structure import check_structure, inline, parse_model
from interlock.kernel.errors import BundleFormatError, InputError


def pack(
    directory: str | os.PathLike[str],
    model: bytes | onnx.ModelProto | Path,
    metadata: Metadata,
    files: Mapping[str, bytes] = {},
    *,
    probe: bool = True,
    limits: BundleLimits = DEFAULT_LIMITS,
) -> Bundle:
    """Write a bundle and return it as loaded back from the disk.

    model   the ONNX model; external tensors of a path are taken from beside it and put into the
            model, those of bytes or a ModelProto must be in `files`
    files   name -> content of further files

    What loading would refuse is never published. A bundle that is there already is replaced in
    one step. Raises the errors of `load`, and ConfigError where `directory` is something else.
    """
    parts = {METADATA: metadata.encode(), MODEL: _model_bytes(model, limits)}
    for name, data in files.items():
        if name in parts:
            raise InputError(f"files: {name} is given twice")
        check_name(name)
        parts[name] = bytes(data)
    parts = dict(sorted(parts.items()))
    listing = manifest_of(parts)
    check_contents(listing, parts, limits)
    loaded: list[Bundle] = []

    def load_back(written: Path) -> None:
        loaded.append(load(written, probe=probe, limits=limits))

    path = publish(Path(directory), {**parts, MANIFEST: listing.encode()}, load_back)
    return dataclasses.replace(loaded[0], path=path)


def describe(
    model: bytes | onnx.ModelProto | Path, name: str, *, limits: BundleLimits = DEFAULT_LIMITS
) -> Metadata:
    """Metadata of kind `model` with the graph's own signature and no smoke vectors."""
    parsed = parse_model(_model_bytes(model, limits), limits)
    inputs, outputs = signature_of(parsed)
    return Metadata(name=name, kind="model", inputs=inputs, outputs=outputs)


def _model_bytes(model: bytes | onnx.ModelProto | Path, limits: BundleLimits) -> bytes:
    match model:
        case bytes():
            return model
        case onnx.ModelProto():
            try:
                return bytes(model.SerializeToString())
            except Exception as error:  # noqa: BLE001 - protobuf's own error differs by backend
                raise BundleFormatError(f"the model cannot be written: {error}") from None
    return read_model(Path(model), limits)


def read_model(path: Path, limits: BundleLimits) -> bytes:
    """The model at `path`, with the external tensors that lie beside it put in."""
    with open_directory(path.parent) as directory:
        # The caller named this file, link or not; what the model names in turn must be no link.
        data = read_file(directory, path.name, limit=limits.max_file_bytes, links=True)
        model = parse_model(data, limits)
        names = {
            entry.value
            for tensor in model.graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
            for entry in tensor.external_data
            if entry.key == "location"
        }
        if not names:
            return data
        files = {}
        for name in names:
            if "/" not in name and name not in (".", ".."):
                files[name] = read_file(directory, name, limit=limits.max_file_bytes)
    return inline(model, check_structure(model, files, limits), files)
