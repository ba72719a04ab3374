"""Where the structured reference string comes from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from interlock.errors import ConfigError
from interlock.verified.ezkl_backend import EzklBackend
from interlock.verified.srs import VERIFIER_BYTES, SrsSource

SHA256 = 64 * "0"


def write(path: Path, logrows: int) -> bytes:
    data = logrows.to_bytes(4, "little") + bytes(range(256)) * (1 << (logrows - 1)) + bytes(256)
    path.write_bytes(data)
    return data


def test_a_file_of_the_user_is_read_and_left_alone(tmp_path: Path) -> None:
    data = write(tmp_path / "own.srs", 6)
    digest = hashlib.sha256(data).hexdigest()
    srs = SrsSource(tmp_path, files=tmp_path / "own.srs", sha256=digest).find(5)
    assert srs is not None
    assert (srs.logrows, srs.sha256, srs.origin) == (6, digest, "file")
    assert (tmp_path / "own.srs").read_bytes() == data


def test_a_directory_has_one_file_a_size(tmp_path: Path) -> None:
    write(tmp_path / "kzg6.srs", 6)
    srs = SrsSource(tmp_path, files=tmp_path).find(6)
    assert srs is not None
    assert srs.path == tmp_path / "kzg6.srs"
    with pytest.raises(ConfigError, match=r"no kzg7\.srs") as caught:
        SrsSource(tmp_path, files=tmp_path).find(7)
    assert "nothing is fetched" in caught.value.hint


def test_the_digest_is_checked(tmp_path: Path) -> None:
    write(tmp_path / "own.srs", 6)
    with pytest.raises(ConfigError, match="has the sha256"):
        SrsSource(tmp_path, files=tmp_path / "own.srs", sha256=SHA256).find(6)


def test_a_file_that_is_too_small_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "own.srs", 6)
    with pytest.raises(ConfigError, match=r"2\^6 points; a circuit needs 2\^7"):
        SrsSource(tmp_path, files=tmp_path / "own.srs").find(7)


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "own.srs", 6)
    (tmp_path / "own.srs").write_bytes(data[:-1])
    with pytest.raises(ConfigError, match="no SRS file, or it is cut short"):
        SrsSource(tmp_path, files=tmp_path / "own.srs").find(6)


@pytest.mark.parametrize(
    ("files", "sha256", "named"),
    [
        ("nothing.srs", None, "there is no SRS"),
        (None, SHA256, "needs one SRS file"),
        (".", SHA256, "needs one SRS file"),
        ("own.srs", "xyz", "64 hex digits"),
    ],
)
def test_options_that_contradict_are_refused(
    tmp_path: Path, files: str | None, sha256: str | None, named: str
) -> None:
    write(tmp_path / "own.srs", 6)
    with pytest.raises(ConfigError, match=named):
        SrsSource(tmp_path, files=None if files is None else tmp_path / files, sha256=sha256)


@pytest.mark.zk
def test_a_development_srs_is_made_once_and_says_what_it_is(tmp_path: Path) -> None:
    source = SrsSource(tmp_path)
    assert source.find(6) is None
    with EzklBackend() as backend:
        srs = source.provide(6, backend)
        assert source.provide(6, backend) == srs == source.find(6)
    assert srs.origin == "development"
    part = srs.of_verifier()
    assert len(part) == VERIFIER_BYTES
    assert part[-256:] == srs.path.read_bytes()[-256:]
