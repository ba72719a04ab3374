"""The metadata file: what is written, what an edit may do, and what it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.networks import dense
from support.provers import FixedPointProver

from interlock.errors import BundleFormatError, ConfigError
from interlock.verified import NoProver, RunnerMetadata
from interlock.verified.directory import ModelDirectory
from interlock.verified.metadata import read, read_of
from interlock.verified.prover import Limits

NAMES = [f"slice_{k}" for k in range(5)]
NONE = NoProver("no circuit: none here")


def generated(directory: Path, prover: Any = NONE) -> dict[str, Any]:
    path = RunnerMetadata.generate_for_model(directory, prover=prover)
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def test_the_file_is_named_after_the_model(doom: Path) -> None:
    path = RunnerMetadata.generate_for_model(doom, prover=NONE)
    assert path == doom / "doom_Runner_Metadata.json"


def test_it_holds_the_seeds_fields(net: Path) -> None:
    found = generated(net)
    assert found["parameters"] == 62_006
    assert found["operators"] == {"Conv": 2, "Relu": 4, "MaxPool": 2, "Flatten": 1, "Gemm": 3}
    assert found["Analyzer"] is True
    assert found["Reconstruct"] is True
    assert found["precircuit"] is False
    assert found["overall_security"] == 0
    assert found["verified_slices"] == dict.fromkeys(NAMES, False)
    assert found["fallback_map"] == {name: f"slices/{name}.onnx" for name in NAMES}
    assert found["circuit_sizes"] == dict.fromkeys(NAMES)
    assert found["time_limit"] is None
    assert found["size_limit"] is None


def test_the_execution_chain_is_a_linked_list_of_all_slices(doom: Path) -> None:
    chain = generated(doom)["execution_chain"]
    walked, name = [], chain["head"]
    while name is not None:
        walked.append(name)
        link = chain["nodes"][name]
        assert (doom / link["onnx"]).is_file()
        name = link["next"]
    assert walked == NAMES


def test_security_is_the_share_that_could_be_proved(net: Path) -> None:
    found = generated(net, FixedPointProver(keys=set(NAMES[:4]), compiled={"slice_4"}))
    assert found["overall_security"] == 80
    assert found["verified_slices"] == {name: name != "slice_4" for name in NAMES}
    assert found["precircuit"] == "circuits compiled and ready"
    assert found["circuit_sizes"] == dict.fromkeys(NAMES, 1000)


def test_a_model_that_is_not_sliced_has_no_chain(unsliced: Path) -> None:
    found = generated(unsliced)
    assert found["Analyzer"] is True
    assert found["Reconstruct"] is False
    assert found["execution_chain"] == {"head": None, "nodes": {}}


def edit(directory: Path, **fields: Any) -> None:
    path = ModelDirectory.find(directory).metadata
    document = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(document | fields, indent=4))


def test_generating_again_keeps_limits_and_exclusions(net: Path) -> None:
    prover = FixedPointProver()
    generated(net, prover)
    edit(
        net,
        time_limit=0.5,
        size_limit=5000,
        verified_slices={**dict.fromkeys(NAMES, True), "slice_1": False},
    )
    found = generated(net, prover)
    assert (found["time_limit"], found["size_limit"]) == (0.5, 5000)
    assert found["verified_slices"] == {name: name != "slice_1" for name in NAMES}
    assert found["overall_security"] == 80


def test_a_slice_that_had_no_key_is_to_be_proved_once_it_has_one(net: Path) -> None:
    generated(net)
    found = generated(net, FixedPointProver())
    assert found["verified_slices"] == dict.fromkeys(NAMES, True)


def test_a_false_in_a_list_of_ones_own_is_meant_before_there_are_keys(net: Path) -> None:
    """The seed's way: the list is written first, the circuits come later."""
    generated(net)
    edit(net, verified_slices={name: name in ("slice_0", "slice_4") for name in NAMES})
    found = generated(net, FixedPointProver())
    assert found["verified_slices"] == {name: name in ("slice_0", "slice_4") for name in NAMES}
    assert found["overall_security"] == 40
    assert generated(net, FixedPointProver()) == found


def test_metadata_of_another_model_are_not_kept(net: Path) -> None:
    generated(net)
    edit(net, time_limit=0.5)
    (net / "model.onnx").write_bytes(dense([4, 3, 2]))
    found = generated(net)
    assert found["time_limit"] is None
    assert found["parameters"] == 4 * 3 + 3 + 3 * 2 + 2
    assert found["Reconstruct"] is False


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"time_limit": -1}, "time_limit is -1.0; it must be 0 or more, or null"),
        ({"time_limit": "soon"}, r"time_limit"),
        ({"size_limit": -5}, "size_limit is -5"),
        ({"overall_security": 101}, "overall_security is 101"),
        ({"verified_slices": {"slice_9": True}}, "verified_slices names 'slice_9'"),
        ({"verified_slices": {"slice_1": "yes"}}, r"verified_slices"),
        ({"verified_slices": [True]}, r"verified_slices"),
    ],
)
def test_an_edit_that_makes_no_sense_is_named(
    net: Path, fields: dict[str, Any], message: str
) -> None:
    generated(net)
    edit(net, **fields)
    with pytest.raises(ConfigError, match=message):
        read(ModelDirectory.find(net))


def test_a_limit_may_be_infinite(net: Path) -> None:
    generated(net)
    edit(net, time_limit=float("inf"), size_limit=float("inf"))
    directory = ModelDirectory.find(net)
    digest = read(directory).model_sha256
    assert read_of(directory, digest).limits == Limits(seconds=float("inf"))
    edit(net, size_limit=5000.5)
    assert read_of(directory, digest).limits.circuit_bytes == 5000


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": "net"}', "NaN", "[" * 100_000])
def test_a_file_that_is_no_metadata_is_named(net: Path, text: str) -> None:
    ModelDirectory.find(net).metadata.write_text(text)
    with pytest.raises(ConfigError, match=r"net_Runner_Metadata\.json"):
        read(ModelDirectory.find(net))


def test_a_truncated_model_is_refused(net: Path) -> None:
    model = (net / "model.onnx").read_bytes()
    (net / "model.onnx").write_bytes(model[: len(model) // 2])
    with pytest.raises(BundleFormatError):
        generated(net)
