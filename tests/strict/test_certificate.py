"""Certificates: their JSON, and that one which contradicts itself is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.populations import falling

from interlock.errors import InputError
from interlock.strict import Certificate, calibrate_tau

FOUND = calibrate_tau(*falling().draw(6_000, np.random.default_rng(3)), 0.01, 0.1)
OF_ALL = calibrate_tau(*falling().draw(6_000, np.random.default_rng(3)), 0.01, 0.1, rate="all")


def plain(certificate: Certificate | None = FOUND.certificate) -> dict[str, Any]:
    assert certificate is not None
    return certificate.to_plain()


@pytest.mark.parametrize("certificate", [FOUND.certificate, OF_ALL.certificate])
def test_a_certificate_survives_json(certificate: Certificate) -> None:
    assert Certificate.from_json(certificate.to_json()) == certificate
    assert Certificate.from_plain(certificate.to_plain()) == certificate
    assert certificate.to_json().endswith(b"}\n")


def test_what_it_says_fits_together() -> None:
    certificate = FOUND.certificate
    assert certificate is not None
    assert certificate.tested == certificate.accepted
    assert certificate.coverage == certificate.accepted / certificate.n
    assert certificate.bound <= certificate.alpha
    assert certificate.versions.keys() == {"interlock", "numpy"}
    assert OF_ALL.certificate is not None
    assert OF_ALL.certificate.tested == OF_ALL.certificate.n


def below(value: float) -> float:
    return float(np.nextafter(np.float64(value), 0))


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("alpha", 0.001, "bound is .* above alpha"),
        ("alpha", 1.0, "alpha is 1.0"),
        ("alpha", "0.02", "alpha"),
        ("delta", 0.05, "bound is .* the counts give"),
        ("delta", 0.0, "delta is 0.0"),
        ("tau", below(plain()["tau"]), "positive float32"),
        ("tau", 0.0, "positive float32"),
        ("tau", -0.5, "positive float32"),
        ("tau", float(np.float32(1.0)), "above start"),
        ("start", None, "start is given exactly"),
        ("start", 2.0**-30, "above start"),
        ("rate", "all", "start is given exactly"),
        ("rate", "most", "rate"),
        ("n", 10, "ascending order"),
        ("n", 1.5, "n"),
        ("pilot", -1, "0 or more"),
        ("accepted", plain()["accepted"] + 1, "the counts give"),
        ("accepted", 0, "ascending order"),
        ("unsafe", plain()["unsafe"] - 1, "the counts give"),
        ("unsafe", -1, "ascending order"),
        ("bound", plain()["bound"] * 0.999, "the counts give"),
        ("tolerance", "0.1", "tolerance"),
        ("dtype", "float16", "positive float16"),
        ("dtype", "int8", "dtype"),
        ("data", "sha256:00", "64 hex digits"),
        ("model", "sha256:00", "model must be"),
        ("split", "", "split"),
        ("split", "a\nb", "split"),
        ("created", "yesterday", "created"),
        ("created", "2026-01-01T00:00:00", "created"),
        ("versions", {"interlock": 1}, "versions"),
        ("method", "by eye", "method"),
        ("schema_version", 2, "schema_version"),
        ("note", "more", "note"),
    ],
)
def test_one_changed_field_is_refused(field: str, value: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        Certificate.from_plain({**plain(), field: value})


def test_counts_that_would_take_long_to_recompute_are_refused() -> None:
    for n in (10**16, 10**400):
        with pytest.raises(InputError, match="more than 1,000,000,000 rows"):
            Certificate.from_plain({**plain(), "n": n, "accepted": n, "unsafe": n // 200})


@pytest.mark.parametrize("field", sorted(set(plain()) - {"method", "model", "schema_version"}))
def test_a_missing_field_is_refused(field: str) -> None:
    rest = plain()
    del rest[field]
    with pytest.raises(InputError, match=field):
        Certificate.from_plain(rest)


@pytest.mark.parametrize("field", ["n", "accepted", "unsafe", "delta"])
def test_counts_as_a_share_of_all_rows_are_recomputed_too(field: str) -> None:
    values = plain(OF_ALL.certificate)
    changed = values[field] + 1 if field != "delta" else 0.2
    if field == "accepted":  # the share of all rows does not depend on it; only its order is held
        changed = values["n"] + 1
    with pytest.raises(InputError):
        Certificate.from_plain({**values, field: changed})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b'{"tau": 1}'])
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="certificate is not valid"):
        Certificate.from_json(data)


def test_a_bound_from_another_platform_may_differ_in_its_last_digits() -> None:
    Certificate.from_plain({**plain(), "bound": plain()["bound"] * (1 + 1e-9)})
