"""Checks of a proof bundle that look at the manifest alone, on claims that no honest one makes."""

from __future__ import annotations

import numpy as np

from interlock.verified.ezkl_backend import CircuitSettings
from interlock.verified.proof_checks import CheckedBundle, check_circuits, check_wiring
from interlock.verified.proof_manifest import Claims, ProofManifest, ProvedSlice, Tensor
from interlock.verified.tiling import Geometry

DIGEST = "0" * 64
MANY = (3,) * 500_000


def bundle(shape: tuple[int, ...] = (1, 4), in_shape: tuple[int, ...] = (1, 4)) -> CheckedBundle:
    """One dense slice from `x` to `y`, both of four values, without any proof."""
    geometry = Geometry("dense", in_shape, (1, 4))
    manifest = ProofManifest(
        schema_version=1,
        created_by="",
        backend="",
        model_sha256=DIGEST,
        layout=dict(CircuitSettings().told()),
        srs_origin="file",
        inputs=("x",),
        outputs=("y",),
        tensors=(Tensor("x", "float32", shape, "x.bin"), Tensor("y", "float32", (1, 4), "y.bin")),
        slices=(ProvedSlice("slice_0", DIGEST, ("x",), ("y",), geometry, ()),),
        circuits=(),
        claims=Claims(1, 1, 0, 100.0),
        files=(),
    )
    values = np.zeros(4, "<f4").tobytes()
    return CheckedBundle(manifest, {"x.bin": values, "y.bin": values})


def test_a_sound_manifest_passes_up_to_its_proofs() -> None:
    checked = bundle()
    check_wiring(checked)
    assert checked.findings == []
    check_circuits(checked)
    assert [str(finding) for finding in checked.findings] == [
        "pieces: slice_0: the pieces leave a part of the output out"
    ]


def test_a_shape_of_very_many_axes_is_refused_by_their_number() -> None:
    checked = bundle(shape=MANY)
    check_wiring(checked)
    assert "tensor: x: no array has its shape of 500000 axes" in map(str, checked.findings)


def test_an_axis_beyond_any_size_is_refused() -> None:
    checked = bundle(shape=(0, 10**4000))
    check_wiring(checked)
    assert checked.findings[0].text.startswith("dtype 'float32' with shape (0, 1000")


def test_a_geometry_of_very_many_axes_is_refused_by_their_number() -> None:
    checked = bundle(in_shape=MANY)
    check_wiring(checked)
    check_circuits(checked)
    assert [str(finding) for finding in checked.findings] == [
        "pieces: slice_0: the geometry's input has 500000 axes"
    ]
