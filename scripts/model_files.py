"""Writes a shipped model's directory: graph, example input, held-out examples, card, slices."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from interlock.kernel.intervals import wilson_interval
from interlock.kernel.replace_file import replace_file
from interlock.verified.directory import Cuts, ModelDirectory, cut, write_slices
from interlock.verified.equality import fastest_equal
from interlock.verified.examples import sample_inputs

MODELS = Path(__file__).parents[1] / "models"


def write(
    directory: Path,
    model: bytes,
    examples: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    card: str,
) -> None:
    """Write `model.onnx`, `input.json`, `examples.npz`, `README.md` and the slices.

    examples  (n, C, H, W) float32, held out from training; the first one becomes `input.json`
    labels    (n,) int64
    """
    first = [float(value) for value in examples[0].ravel()]
    document = json.dumps({"input_data": [first], "input_shapes": [list(examples[0].shape)]})
    replace_file(directory / "model.onnx", model, parents=True)
    replace_file(directory / "input.json", document.encode() + b"\n")
    replace_file(directory / "examples.npz", _archive({"input": examples, "label": labels}))
    replace_file(directory / "README.md", card.encode())
    sliced = cut(model, Cuts())
    found = ModelDirectory.find(directory)
    write_slices(found, sliced, Cuts(), *fastest_equal(sliced, sample_inputs(found, sliced)))


def share(hits: int, n: int) -> str:
    """A share with its 95% interval and its n, as the cards say it."""
    low, high = wilson_interval(hits, n)
    return f"{hits / n:.2%} (n = {n:,}, 95% interval {low:.2%} to {high:.2%})"


def _archive(arrays: dict[str, npt.NDArray[np.generic]]) -> bytes:
    """A `.npz` whose bytes depend on the arrays alone: numpy's own carries the time of day."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_DEFLATED
            data = io.BytesIO()
            np.save(data, array, allow_pickle=False)
            archive.writestr(member, data.getvalue())
    return buffer.getvalue()
