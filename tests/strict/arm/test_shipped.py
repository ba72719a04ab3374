"""The arm that ships: its bars on held-out requests, and that its bundle is what it says.

The requests' seed is none of those that trained the model or chose its thresholds.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.arm_judge import relative_error
from support.counts import count

from interlock.errors import BundleError, BundleFormatError
from interlock.kernel.intervals import wilson_interval
from interlock.kernel.outcome import EvidenceKind
from interlock.strict.arm import shipped
from interlock.strict.arm.requests import sample_requests
from interlock.strict.arm.shipped import SHIPPED, open_arm

N = count(20_000, 200_000)
REQUESTS = sample_requests(N, 20_261_121)
UNSAFE = 0.05


def test_the_masks_accept_enough_and_what_they_accept_is_good() -> None:
    runtime, _ = open_arm()
    decoded, bottom, _ = runtime.run(REQUESTS.x)
    accepted = ~bottom.any(axis=1)
    error = relative_error(REQUESTS.theta, REQUESTS.v, decoded)[accepted]
    unsafe = int((~(error <= UNSAFE)).sum())

    assert wilson_interval(int(accepted.sum()), N)[0] >= 0.60
    assert wilson_interval(unsafe, len(error))[1] <= 0.01
    # Predicting zero is off by 1 in every row.
    assert error.mean() <= 1 / 20


def test_nothing_unsafe_leaves_the_route_and_nearly_everything_is_answered() -> None:
    _, route = open_arm()
    outcome = route.run_batch({"x": REQUESTS.x})
    error = relative_error(REQUESTS.theta, REQUESTS.v, outcome.value)[outcome.answered]
    assert int((~(error <= UNSAFE)).sum()) == 0
    assert wilson_interval(int(outcome.answered.sum()), N)[0] >= 0.95
    assert np.isnan(outcome.value[~outcome.answered]).all()
    assert sum(outcome.counts().values()) == N


def test_the_answers_are_checked_and_the_model_is_attested() -> None:
    runtime, route = open_arm()
    outcome = route.run_batch({"x": REQUESTS.x[:100]})
    kinds = [evidence.kind for evidence in outcome.steps[0].evidence]
    assert kinds == [EvidenceKind.CHECKED, EvidenceKind.ATTESTED]
    assert outcome.steps[0].evidence[1].detail["bundle"] == runtime.bundle.digest


def test_the_bundle_is_small_and_says_where_it_comes_from() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 1_000_000
    runtime, _ = open_arm()
    provenance = runtime.bundle.metadata.provenance
    assert provenance["training"] == "make train-arm"
    assert isinstance(provenance["seed"], int)


@pytest.mark.parametrize("name", ["model.onnx", "metadata.json", "manifest.json"])
def test_one_flipped_byte_is_refused(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "arm"
    shutil.copytree(SHIPPED, copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(bytes(data))
    with pytest.raises(BundleError):
        open_arm(copy)


def test_an_installer_may_hard_link_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some do from their cache; a bundle that is loaded directly must not have such links."""
    linked = tmp_path / "shipped"
    linked.mkdir()
    (tmp_path / "cache").mkdir()
    for file in shipped.SHIPPED.iterdir():
        cached = tmp_path / "cache" / file.name
        cached.write_bytes(file.read_bytes())
        (linked / file.name).hardlink_to(cached)
    monkeypatch.setattr(shipped, "SHIPPED", linked)
    runtime, _ = shipped.open_arm()
    assert runtime.bundle.metadata.name == "two-link-arm"
    with pytest.raises(BundleFormatError, match="hard link"):
        shipped.open_arm(linked)
