"""metadata.json: arrays keep their bits, and JSON with two meanings is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from support.bundles import plain_metadata, plain_model, strict_metadata, strict_model

from interlock.bundle import Metadata, SmokeVector, StrictContract, TensorSpec
from interlock.bundle.metadata import parse_metadata
from interlock.errors import BundleFormatError, InputError

MODEL = strict_model()
SOUND = strict_metadata(MODEL).encode()


def with_smoke_input(value: Any) -> bytes:
    document = json.loads(SOUND)
    document["smoke"][0]["inputs"] = {"x": value}
    return json.dumps(document).encode()


def test_what_is_written_is_read_back() -> None:
    metadata = strict_metadata(MODEL, extensions={"certificate": {"alpha": 0.01, "n": [1, None]}})
    again = parse_metadata(metadata.encode())
    assert again.encode() == metadata.encode()
    assert again.extensions == metadata.extensions
    assert again.strict == metadata.strict


@settings(max_examples=40, deadline=None)
@given(
    npst.arrays(
        st.sampled_from(["float16", "float32", "float64", "int64", "bool", "uint8"]),
        npst.array_shapes(min_dims=2, max_dims=2, min_side=0),
    )
)
def test_smoke_vectors_keep_every_bit(array: Any) -> None:
    spec = TensorSpec("t", array.dtype.name, ("rows", array.shape[1]))
    metadata = Metadata(
        name="m",
        kind="model",
        inputs=(spec,),
        outputs=(spec,),
        smoke=(SmokeVector({"t": array}, {"t": array}),),
    )
    back = parse_metadata(metadata.encode()).smoke[0].inputs["t"]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xef\xbb\xbf" + SOUND, "byte order mark"),
        (SOUND.replace(b"strict-test", b"strict-\xff"), "not UTF-8"),
        (SOUND.replace(b"{", b'{"name": "other",', 1), "'name' is given twice"),
        (SOUND.replace(b'"test": true', b'"test": NaN'), "NaN is not a JSON number"),
        (SOUND.replace(b'"test": true', b'"test": -Infinity'), "-Infinity is not a JSON number"),
        (SOUND.replace(b'"test": true', b'"test": 1e999'), "out of range"),
        (SOUND.replace(b'"test": true', b'"test": "\\ud800"'), "metadata.json"),
        (SOUND.replace(b": true", b": " + b"[" * 100_000 + b"]" * 100_000), "nested too deeply"),
        (SOUND.replace(b'"batch_axis"', b'"batch_axes"'), "unknown field `batch_axes`"),
        (SOUND.replace(b'"batch_axis"', b'"a\\u001b[2J\\nb"'), r"unknown field `a\?\[2J\?b`"),
        (SOUND.replace(b'"schema_version": 1', b'"schema_version": 2'), "schema_version is 2"),
        (SOUND.replace(b'"kind": "strict"', b'"kind": "other"'), "kind"),
        (SOUND.replace(b'"kind": "strict"', b'"kind": "model"'), "kind"),
        (SOUND[:-40], "metadata.json"),
        (b"", "metadata.json"),
        (b"[]", "metadata.json"),
        (SOUND.replace(b'"dtype": "<f4"', b'"dtype": "|O"', 1), "not an array"),
        (SOUND.replace(b'"dtype": "<f4"', b'"dtype": "<f8"', 1), "smoke"),
        (with_smoke_input({"$complex": [10**400, 0]}), "beyond its range"),
    ],
)
def test_refused(data: bytes, reason: str) -> None:
    assert data != SOUND
    with pytest.raises(BundleFormatError, match=reason):
        parse_metadata(data)


def test_the_last_of_many_keys_given_twice_is_found_in_one_pass() -> None:
    """Comparing every key with every other would take minutes here."""
    keys = ", ".join(f'"{index}": 0' for index in [*range(300_000), 299_999])
    data = SOUND.replace(b'"test": true', keys.encode())
    with pytest.raises(BundleFormatError, match="'299999' is given twice"):
        parse_metadata(data)


def test_more_values_than_a_document_may_hold_are_refused_unparsed() -> None:
    """A list of two bytes takes sixty once parsed, so 64 MB of them would take gigabytes."""
    data = SOUND.replace(b": true", b": [" + b"[]," * 600_000 + b"0]")
    with pytest.raises(BundleFormatError, match="more than 1000000 values"):
        parse_metadata(data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tau_infer": float("nan")}, "tau_infer"),
        ({"tau_infer": -1.0}, "tau_infer"),
        ({"tau_infer": 0.0}, "tau_infer"),
        ({"tau_infer": 1e-60}, "tau_infer"),
        ({"tau_infer": float("inf")}, "tau_infer"),
        ({"tau_train": 1e-9}, "tau_train"),
        ({"tau_infer": 1e39, "tau_train": None}, "tau_infer"),
        ({"output_order": ("decoded", "gap_mask", "bottom_mask")}, "output_order"),
        ({"meaning": {"decoded": "a"}}, "meaning"),
        ({"p": ""}, "p and q"),
    ],
)
def test_contracts_that_mean_nothing(change: dict[str, Any], reason: str) -> None:
    fields: dict[str, Any] = {
        "p": "P",
        "q": "Q",
        "dtype": "float32",
        "tau_infer": 1e-3,
        "tau_train": 1e-1,
    }
    with pytest.raises(InputError, match=reason):
        StrictContract(**fields | change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"batch_axis": -1}, "batch_axis"),
        ({"outputs": ()}, "outputs"),
        ({"inputs": (TensorSpec("x", "float32", ()),) * 2}, "twice"),
    ],
)
def test_metadata_that_means_nothing(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        plain_metadata(plain_model(), **{"smoke": ()} | change)


def test_the_batch_of_a_strict_bundle_is_its_first_axis() -> None:
    """Masks are per row, and rows are counted along the first axis wherever they are read."""
    with pytest.raises(InputError, match="batch_axis of a strict bundle must be 0"):
        strict_metadata(strict_model(), batch_axis=1)


@pytest.mark.parametrize(
    "spec",
    [("", "float32", ()), ("x", "float8", ()), ("x", "float32", (-1,)), ("x", "bool", ("",))],
)
def test_specs_that_mean_nothing(spec: tuple[Any, ...]) -> None:
    with pytest.raises(InputError):
        TensorSpec(*spec)


def test_one_symbolic_dimension_has_one_size() -> None:
    specs = (TensorSpec("a", "float32", ("n",)), TensorSpec("b", "float32", ("n",)))
    two, three = np.zeros(2, np.float32), np.zeros(3, np.float32)
    with pytest.raises(InputError, match="shape"):
        Metadata(
            name="m",
            kind="model",
            inputs=specs,
            outputs=specs[:1],
            smoke=(SmokeVector({"a": two, "b": three}, {"a": two}),),
        )


def test_provenance_must_be_json() -> None:
    with pytest.raises(InputError, match="JSON"):
        plain_metadata(plain_model(), provenance={"when": object()}).encode()
