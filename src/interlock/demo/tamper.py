"""Step 2: one byte of the bundle is flipped, and the bundle is refused."""

from __future__ import annotations

import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from interlock.errors import BundleError, BundleIntegrityError
from interlock.strict import load_onnx_runtime_bundle


@dataclass(frozen=True)
class Refusal:
    """What was changed, and what loading said."""

    file: str
    offset: int
    size: int
    code: str | None
    message: str

    @property
    def noticed(self) -> bool:
        """Whether the digests said so; any other refusal comes too late, or for another reason."""
        return self.code == BundleIntegrityError.code


def flip_one_byte(bundle: Path, seed: int) -> Refusal:
    """Flip one random byte of the model in a copy of the bundle and try to load the copy.

    `code` is None where the copy was loaded, which would be a defect.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "bundle"
        shutil.copytree(bundle, copy)
        model = copy / "model.onnx"
        content = bytearray(model.read_bytes())
        offset = random.Random(seed).randrange(len(content))
        content[offset] ^= 0xFF
        model.write_bytes(content)
        try:
            load_onnx_runtime_bundle(copy)
        except BundleError as error:
            message = error.message.replace(scratch, "…")
            return Refusal("model.onnx", offset, len(content), error.code, message)
    return Refusal("model.onnx", offset, len(content), None, "it was loaded")
