"""Arrays of .npz files, whole and broken."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from interlock.errors import InputError
from interlock.kernel.npz import read_npz


def test_wanted_and_optional_arrays(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, a=np.arange(3), b=np.ones(2))
    assert read_npz(path, ["a"]).keys() == {"a"}
    found = read_npz(path, ["a"], optional=["b", "c"])
    assert found["a"].tolist() == [0, 1, 2]
    assert found.keys() == {"a", "b"}
    with pytest.raises(
        InputError, match=r"rows\.npz cannot be read: it has no 'c'; it has 'a', 'b'"
    ):
        read_npz(path, ["a", "c"])


@pytest.mark.parametrize("data", [b"", b"no archive"], ids=["empty", "text"])
def test_what_is_no_archive_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "rows.npz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"rows\.npz cannot be read: it is no \.npz file"):
        read_npz(path, ["a"])


def test_a_single_array_under_the_wrong_name_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones(3))
    path = (tmp_path / "rows.npy").rename(tmp_path / "rows.npz")
    with pytest.raises(InputError, match=r"rows\.npz cannot be read: it is no \.npz file"):
        read_npz(path, ["a"])


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"rows\.npz cannot be read"):
        read_npz(path, ["a"])


def test_a_member_that_is_no_array_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"")
        archive.writestr("b", b"text")
    for name in ("a", "b"):
        with pytest.raises(InputError, match=rf"rows\.npz holds no array under the name '{name}'"):
            read_npz(path, [name])


@pytest.mark.parametrize("packed", [False, True])
def test_bytes_that_were_changed_end_in_one_error(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "rows.npz"
    (np.savez_compressed if packed else np.savez)(path, a=np.arange(50.0), b=np.ones(20))
    whole = path.read_bytes()
    draw = random.Random(1)
    refused = 0
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(3):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        path.write_bytes(
            changed[: draw.randrange(len(changed))] if draw.random() < 0.3 else changed
        )
        try:
            read_npz(path, ["a", "b"])
        except InputError:
            refused += 1
    assert refused > 100
