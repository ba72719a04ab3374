"""What can be found out about a strict bundle here and now, for its validation report."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import numpy as np

import interlock
from interlock.bundle import Bundle, SmokeVector
from interlock.bundle.contents import read_contents
from interlock.engines.onnx import OnnxSession, SessionConfig
from interlock.kernel.batch import Array
from interlock.kernel.errors import BundleContractError, BundleIntegrityError
from interlock.strict.calibration_record import Abstention, RiskCurve, read_abstention, read_curve
from interlock.strict.certificate import Certificate
from interlock.strict.runtime import StrictRuntime, load_onnx_runtime_bundle


@dataclass(frozen=True)
class SmokeResult:
    """One smoke vector, run again.

    rows                 rows of the vector
    accepted, gap,
    bottom               mask elements of the answer; `gap` counts among `accepted`
    mask_mismatches      mask elements that differ from those kept in the bundle
    largest_difference   largest absolute difference of accepted values
    tolerance_used       the largest difference as a share of the vector's tolerance there
    """

    rows: int
    accepted: int
    gap: int
    bottom: int
    mask_mismatches: int
    largest_difference: float
    tolerance_used: float


@dataclass(frozen=True)
class FileDigest:
    """A file of the bundle: name, size in bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Validation:
    """A strict bundle that passed its checks, and what was found.

    expected_digest  whether the digest was compared with one that the caller gave
    signature        `verified` with the key that was required, `unverified` where there is one
                     that nobody asked to verify, `none`
    files            every listed file
    smoke            the smoke vectors in order, all reproduced
    certificate      of the calibration, checked against the thresholds; None: there is none
    abstention       of a calibration that certified nothing
    curve            risk and coverage on the held-out rows, where the bundle keeps them
    environment      versions of what did the checking
    """

    bundle: Bundle
    expected_digest: bool
    signature: str
    files: tuple[FileDigest, ...]
    smoke: tuple[SmokeResult, ...]
    environment: Mapping[str, str]
    certificate: Certificate | None
    abstention: Abstention | None
    curve: RiskCurve | None

    @property
    def guarantee(self) -> str:
        """What the certificate says, in words, or that there is none, and why."""
        if self.certificate is not None:
            return _statement(self.certificate)
        if self.abstention is not None:
            return (
                f"The calibration abstained: {self.abstention.reason}. No threshold on |Q| is "
                "known to keep the unsafe share of the accepted answers at or below "
                f"{100 * self.abstention.alpha:g}%."
            )
        return (
            "Nothing in the bundle says how often an accepted answer is wrong. "
            "`interlock strict calibrate` makes a certificate from held-out rows."
        )

    @property
    def not_checked(self) -> tuple[str, ...]:
        """What this validation says nothing about, most important first."""
        found = []
        if self.signature != "verified" and not self.expected_digest:
            found.append(
                "Who made the bundle: no signature was required and no expected digest given, so "
                "the digests catch accidents only."
            )
        if self.signature == "unverified":
            found.append("The signature that the bundle carries: no key was given to verify it.")
        if self.certificate is not None:
            found.append(
                "The held-out rows behind the certificate: only its digest of them is here. Its "
                "numbers agree with one another and with the thresholds."
            )
        if self.curve is not None:
            found.append("The risk-coverage curve: it is what the exporter counted.")
        found += [
            "Whether the model is right: a smoke vector compares it with its own answers at "
            "export, not with the truth.",
            "What becomes of the refused rows: the route behind the bundle, its solver and its "
            "guards are not part of it.",
            "Inputs made by an adversary, and inputs unlike those that the model was made for.",
            "Processors, execution providers and releases of ONNX Runtime other than those named "
            "in this report; neither speed nor memory.",
            "The provenance: it is what the exporter wrote.",
        ]
        return tuple(found)


def validate(
    directory: str | os.PathLike[str],
    *,
    expected_digest: str | None = None,
    require_signature: Path | None = None,
) -> Validation:
    """Check, probe and load the strict bundle in `directory`, and run its smoke vectors again.

    The options and errors are those of `interlock.strict.load_onnx_runtime_bundle`; a smoke
    vector that does not come out in this process is a BundleContractError.
    """
    runtime = load_onnx_runtime_bundle(
        directory, expected_digest=expected_digest, require_signature=require_signature
    )
    bundle = runtime.bundle
    contents = read_contents(Path(directory))
    if contents.digest != bundle.digest:
        raise BundleIntegrityError(
            f"the bundle at {directory} was replaced while it was validated",
            hint="validate it again",
        )
    signature = "none" if contents.signature is None else "unverified"
    if bundle.signed_by is not None:
        signature = "verified"
    return Validation(
        bundle=bundle,
        expected_digest=expected_digest is not None,
        signature=signature,
        files=tuple(
            FileDigest(name, len(data), hashlib.sha256(data).hexdigest())
            for name, data in sorted(bundle.files.items())
        ),
        smoke=_smoke(runtime),
        environment={
            "interlock": interlock.__version__,
            "onnxruntime": packages.version("onnxruntime"),
            "providers": ", ".join(SessionConfig().providers),
            "numpy": np.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        certificate=runtime.certificate,
        abstention=read_abstention(bundle.metadata),
        curve=read_curve(bundle.metadata),
    )


def _statement(certificate: Certificate) -> str:
    alpha = f"{100 * certificate.alpha:g}%"
    claim = {
        "accepted": f"at most {alpha} of the accepted answers are unsafe",
        "all": f"at most {alpha} of all rows are accepted and unsafe",
    }[certificate.rate]
    return (
        f"With confidence {100 * (1 - certificate.delta):.6g}%, {claim}, on rows drawn like those "
        f"called {certificate.split!r}. Of {certificate.n:,} of these, tau {certificate.tau:.6g} "
        f"accepted {certificate.accepted:,} ({certificate.coverage:.1%}), and "
        f"{certificate.unsafe:,} of them were unsafe."
    )


def _smoke(runtime: StrictRuntime) -> tuple[SmokeResult, ...]:
    results = []
    for index, vector in enumerate(runtime.bundle.metadata.smoke):
        result = run_again(runtime.session, vector)
        if result.mask_mismatches or not result.tolerance_used <= 1:
            raise BundleContractError(
                f"smoke vector {index} does not come out: {result.mask_mismatches} mask elements "
                f"differ, values by up to {result.largest_difference:.3g}"
            )
        results.append(result)
    return tuple(results)


def run_again(session: OnnxSession, vector: SmokeVector) -> SmokeResult:
    """Run a smoke vector of a strict bundle and compare; mismatches are counted, not raised."""
    found = session.run(vector.inputs, outputs=tuple(vector.outputs))
    masks = ("bottom_mask", "gap_mask")
    differences, used = [0.0], [0.0]
    for name, expected in vector.outputs.items():
        if name not in masks:
            difference, share = _differences(found[name], expected, vector)
            differences.append(difference)
            used.append(share)
    bottom = found["bottom_mask"]
    return SmokeResult(
        rows=len(bottom),
        accepted=int((~bottom).sum()),
        gap=int(found["gap_mask"].sum()),
        bottom=int(bottom.sum()),
        mask_mismatches=sum(int((found[name] != vector.outputs[name]).sum()) for name in masks),
        largest_difference=max(differences),
        tolerance_used=max(used),
    )


def _differences(found: Array, expected: Array, vector: SmokeVector) -> tuple[float, float]:
    """The largest absolute difference, and the largest as a share of what is allowed there.

    Both are infinite where only one side is a number.
    """
    if expected.dtype.kind not in "fc":
        wrong = float(np.inf) if (found != expected).any() else 0.0
        return wrong, wrong
    one, other = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(all="ignore"):
        difference = np.abs(one - other)
        share = difference / (vector.atol + vector.rtol * np.abs(other))
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    for values in (difference, share):
        values[np.isnan(values)] = np.inf
        values[same] = 0.0
    return float(difference.max(initial=0.0)), float(share.max(initial=0.0))


def plain(value: Any) -> str:
    """A value of the provenance or of an extension in one line."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
