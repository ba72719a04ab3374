"""ezkl in its worker: quiet, killable, and with errors of our tree."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.circuits import tiny

from interlock.errors import (
    EngineError,
    EngineUnavailableError,
    MemoryLimitError,
    MissingExtraError,
    StorageError,
)
from interlock.verified.ezkl_backend import EzklBackend
from interlock.verified.proof_system import (
    COMPILED,
    GRAPH,
    PROVING_KEY,
    SETTINGS,
    VERIFYING_KEY,
    Statement,
)

pytestmark = pytest.mark.zk


@pytest.fixture(scope="module")
def backend() -> Iterator[EzklBackend]:
    with EzklBackend() as backend:
        yield backend


@pytest.fixture
def circuit(backend: EzklBackend, tmp_path: Path) -> Path:
    """The last slice of the tiny network, compiled."""
    (tmp_path / GRAPH).write_bytes(tiny().slices[2].model)
    backend.measure(tmp_path)
    backend.compile(tmp_path, 9)
    return tmp_path


def test_a_circuit_from_graph_to_proof(
    backend: EzklBackend, circuit: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    srs = circuit / "srs"
    backend.make_srs(srs, 9)
    backend.setup(circuit, srs)
    value = np.array([[0.5, 1, 2, 0]], np.float32)
    proof = backend.prove(circuit, srs, [value])
    (output,) = backend.witness(circuit, [value])
    assert output.shape == (3,)
    settings = (circuit / SETTINGS).read_bytes()
    key = (circuit / VERIFYING_KEY).read_bytes()
    good = Statement(proof, settings, key, srs.read_bytes())
    bad = Statement(proof.replace(b'"proof":[', b'"proof":[1,'), settings, key, srs.read_bytes())
    assert backend.verify([good])[0] is None
    found = backend.verify([bad, good])
    assert found[0] is not None
    assert found[1] is None
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_paths_are_those_of_the_callers_working_directory(
    backend: EzklBackend, circuit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(circuit.parent)
    near, srs = Path(circuit.name), Path("near.srs")
    backend.measure(near)
    backend.compile(near, 9)
    backend.make_srs(srs, 9)
    backend.setup(near, srs)
    value = np.array([[0.5, 1, 2, 0]], np.float32)
    assert backend.prove(near, srs, [value])
    assert backend.witness(near, [value])


def test_settings_are_the_layouts(circuit: Path) -> None:
    settings = json.loads((circuit / SETTINGS).read_bytes())["run_args"]
    assert (settings["decomp_base"], settings["decomp_legs"]) == (256, 4)
    assert (settings["num_inner_cols"], settings["scale_rebase_multiplier"]) == (2, 1)
    assert (settings["input_scale"], settings["logrows"]) == (13, 9)
    assert settings["input_visibility"] == settings["output_visibility"] == "Public"
    assert settings["param_visibility"] == "Fixed"


def test_what_is_no_model_is_told(backend: EzklBackend, tmp_path: Path) -> None:
    (tmp_path / GRAPH).write_bytes(b"not a model")
    with pytest.raises(EngineUnavailableError, match="cannot make a circuit of the slice"):
        backend.measure(tmp_path)


def test_a_panic_is_an_error_and_the_next_call_works(backend: EzklBackend, circuit: Path) -> None:
    """A reference string smaller than the key's makes ezkl 23 panic."""
    large, small = circuit / "large", circuit / "small"
    backend.make_srs(large, 9)
    backend.make_srs(small, 8)
    backend.setup(circuit, large)
    value = np.ones((1, 4), np.float32)
    with pytest.raises(EngineError, match="ezkl"):
        backend.prove(circuit, small, [value])
    assert backend.prove(circuit, large, [value])


def test_a_key_that_is_junk_is_an_error(backend: EzklBackend, circuit: Path) -> None:
    srs = circuit / "srs"
    backend.make_srs(srs, 9)
    (circuit / PROVING_KEY).write_bytes(b"\x03junk")
    with pytest.raises(EngineError, match="ezkl's proof failed"):
        backend.prove(circuit, srs, [np.ones((1, 4), np.float32)])


def test_memory_is_limited(circuit: Path) -> None:
    with (
        EzklBackend(memory_limit=120 << 20) as backend,
        pytest.raises((MemoryLimitError, EngineError)),
    ):
        backend.make_srs(circuit / "srs", 20)
    assert (circuit / COMPILED).exists()


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with EzklBackend() as backend, pytest.raises(MissingExtraError, match="the extra 'zk'"):
        backend.measure(tmp_path)


@pytest.mark.parametrize("name", [PROVING_KEY, VERIFYING_KEY])
def test_no_space_for_a_key_is_told(backend: EzklBackend, circuit: Path, name: str) -> None:
    srs = circuit / "srs"
    backend.make_srs(srs, 9)
    (circuit / name).symlink_to("/dev/full")
    with pytest.raises(StorageError, match="no space is left for the setup files"):
        backend.setup(circuit, srs)
