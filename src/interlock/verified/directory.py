"""A model's directory: `model.onnx`, `input.json`, its slices, and what the runner keeps there.

    models/net/
      model.onnx
      input.json                  an example input
      examples.npz                optional: held-out inputs ("input") and labels ("label")
      slices/slices.json          how it was sliced, with digests
      slices/slice_0.onnx         and so on
      net_Runner_Metadata.json

Two models ship with the package, `net` and `doom`; their home is `models/` of the repository.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from interlock.bundle.limits import PROTOBUF_LIMIT
from interlock.engines.onnx import Optimization
from interlock.kernel.errors import (
    BundleFormatError,
    BundleIntegrityError,
    InputError,
    StorageError,
)
from interlock.kernel.replace_file import replace_file
from interlock.verified.slices import SlicedModel
from interlock.verified.slicing import slice_model

SHIPPED_NAMES = ("doom", "net")


class VerifiedWarning(UserWarning):
    """What a user of the verified runner should know, and need not stop for."""


def shipped_models() -> Path:
    """Where the models that ship are: in the installed package, or in a checkout's `models/`."""
    installed = Path(__file__).parent / "models"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "models"


@dataclass(frozen=True)
class ModelDirectory:
    """The files of one model; `name` is the directory's, and part of the metadata's file name."""

    path: Path

    @classmethod
    def find(cls, path: str | os.PathLike[str]) -> ModelDirectory:
        """The directory at `path`.

        Where there is none, and the path is `models/net` or `models/doom`, the model that ships is
        copied there. Raises InputError where there is none.
        """
        place = Path(path)
        if not place.exists() and place.name in SHIPPED_NAMES and place.parent.name == "models":
            _copy_shipped(place)
        if not place.is_dir():
            raise InputError(
                f"there is no model directory {place}",
                hint="name a directory that holds model.onnx, or one of the models that ship: "
                + ", ".join(f"models/{name}" for name in SHIPPED_NAMES),
            )
        return cls(place.resolve())

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def metadata(self) -> Path:
        """Where the runner's metadata are."""
        return self.path / f"{self.name}_Runner_Metadata.json"

    @property
    def example(self) -> Path:
        """The example input."""
        return self.path / "input.json"

    @property
    def slices(self) -> Path:
        """Where the slices are."""
        return self.path / "slices"

    def read_model(self) -> bytes:
        """The bytes of `model.onnx`; raises InputError or BundleFormatError."""
        return _read(self.path / "model.onnx")


class Cuts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `slice_model` that were used."""

    at: list[list[str]] | None = None
    crossing: int | None = 1
    shapes: dict[str, list[int]] = {}


class SliceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One slice on disk."""

    file: str
    sha256: str
    inputs: list[str]
    outputs: list[str]
    parameterised: list[str]


class SlicesFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`slices.json`.

    optimization  level of ONNX Runtime at which the chain gives the whole model's bits
    compared      inputs on which that was measured; at level "none" it holds by construction
    """

    model_sha256: str
    cuts: Cuts
    slices: list[SliceFile]
    optimization: Optimization = "all"
    compared: int = 0
    schema: int = 1


def cut(model: bytes, cuts: Cuts) -> SlicedModel:
    """The model, sliced as `cuts` say; raises as `slice_model` does."""
    return slice_model(model, at=cuts.at, crossing=cuts.crossing, shapes=cuts.shapes)


def write_slices(
    directory: ModelDirectory,
    sliced: SlicedModel,
    cuts: Cuts,
    optimization: Optimization,
    compared: int,
) -> None:
    """Write every slice, then `slices.json`, without which they do not count.

    Slices of an earlier cut are taken away. Raises StorageError.
    """
    listing = directory.slices / "slices.json"
    try:
        listing.unlink(missing_ok=True)
        for old in directory.slices.glob("slice_*.onnx"):
            old.unlink()
    except OSError as error:
        raise StorageError(f"cannot replace {directory.slices}: {error.strerror}") from None
    listed = []
    for part in sliced.slices:
        file = f"{part.name}.onnx"
        replace_file(directory.slices / file, part.model, parents=True)
        names = ([spec.name for spec in part.inputs], [spec.name for spec in part.outputs])
        listed.append(SliceFile(file, part.sha256, *names, list(part.parameterised)))
    document = SlicesFile(sliced.sha256, cuts, listed, optimization, compared)
    encoded = msgspec.json.format(msgspec.json.encode(document), indent=2)
    replace_file(listing, encoded + b"\n")


def read_slices(directory: ModelDirectory, model: bytes) -> tuple[SlicedModel, SlicesFile] | None:
    """The slices on disk; None where the model is not sliced, or was replaced since.

    The model is cut again as `slices.json` says, and every file must be what comes out: a slice
    that was replaced is found even where its digest was replaced too. Raises
    BundleIntegrityError, naming the file.
    """
    listing = directory.slices / "slices.json"
    if not listing.is_file():
        return None
    try:
        found = msgspec.json.decode(_read(listing), type=SlicesFile)
    except msgspec.DecodeError as error:
        raise BundleFormatError(f"{listing}: {error}", hint=_AGAIN) from None
    # Before it is cut: another model may not have the tensors that this one was cut at.
    if found.model_sha256 != hashlib.sha256(model).hexdigest():
        return None
    sliced = cut(model, found.cuts)
    if len(found.slices) != len(sliced.slices):
        raise BundleIntegrityError(
            f"{listing} names {len(found.slices)} slices; its cuts give {len(sliced.slices)}",
            hint=_AGAIN,
        )
    for part, listed in zip(sliced.slices, found.slices, strict=True):
        file = directory.slices / f"{part.name}.onnx"
        if listed.file != file.name or listed.sha256 != part.sha256:
            raise BundleIntegrityError(
                f"{listing}: the entry of {part.name} is not what the model gives", hint=_AGAIN
            )
        if not file.is_file() or _read(file) != part.model:
            raise BundleIntegrityError(
                f"{file.name} is missing, or not what the model gives", hint=_AGAIN
            )
    return sliced, found


_AGAIN = "slice the model again with `interlock verified slice`"


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > PROTOBUF_LIMIT:
            raise BundleFormatError(f"{path} has more than {PROTOBUF_LIMIT} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _copy_shipped(place: Path) -> None:
    """Copy a model that ships to `place`, whole or not at all."""
    source = shipped_models() / place.name
    if not source.is_dir():
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as scratch:
            copy = Path(scratch) / place.name
            shutil.copytree(source, copy, copy_function=shutil.copyfile, ignore=_state)
            copy.rename(place)
    except OSError as error:
        if (place / "model.onnx").is_file():  # another process was faster
            return
        raise StorageError(
            f"cannot copy the shipped model to {place}: {error.strerror or error}",
            hint="name a directory that can be written to",
        ) from None


def _state(directory: str, names: list[str]) -> list[str]:
    """What a runner left in a checkout's models is no part of them."""
    return [name for name in names if name.endswith("_Runner_Metadata.json")]
