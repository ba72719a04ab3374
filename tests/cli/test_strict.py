"""`interlock strict`: what calibrating prints, writes and returns."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.populations import falling
from support.projective import columns_model, pairs

from interlock.bundle import Bundle
from interlock.cli.app import run
from interlock.strict import (
    Certificate,
    InferenceConfig,
    calibrate_tau,
    certificate_of,
    export_bundle,
    validate_bundle,
)
from interlock.strict.calibration_record import read_curve

Q, UNSAFE = falling().draw(4_000, np.random.default_rng(3))


def saved(save: Any, *arrays: Any, **named: Any) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def marked_as_encrypted(archive: bytes) -> bytes:
    """The archive, whose entries say that they are encrypted."""
    flags = {b"PK\x03\x04": 6, b"PK\x01\x02": 8}
    found = bytearray(archive)
    for signature, offset in flags.items():
        at = archive.find(signature)
        while at >= 0:
            found[at + offset] |= 1
            at = archive.find(signature, at + 4)
    return bytes(found)


ARRAY = saved(np.save, Q)
ENCRYPTED = marked_as_encrypted(saved(np.savez, q_abs=Q[:3], loss=UNSAFE[:3]))


class Said:
    """One call of the command line: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def calibrate(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> Said:
        code = run(["strict", "calibrate", *map(str, arguments)])
        printed = capsys.readouterr()
        return Said(code, printed.out, printed.err)

    return call


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.npz"
    np.savez(path, q_abs=Q, loss=UNSAFE)
    return path


def same(one: Certificate, other: Certificate | None) -> bool:
    assert other is not None
    return {**one.to_plain(), "created": ""} == {**other.to_plain(), "created": ""}


def test_a_threshold_is_printed_and_the_certificate_written(
    calibrate: Any, rows: Path, tmp_path: Path
) -> None:
    wanted = calibrate_tau(Q, UNSAFE, 0.02, 0.1, split="spring")
    said = calibrate(
        rows, "--alpha", 0.02, "--delta", 0.1, "--split", "spring",
        "--output", tmp_path / "c.json", "--json",
    )  # fmt: skip
    assert said.code == 0
    assert (said.document["tau"], said.document["abstained"]) == (wanted.tau, False)
    assert (said.document["n"], said.document["pilot"]) == (wanted.n, wanted.pilot)
    written = Certificate.from_json((tmp_path / "c.json").read_bytes())
    assert same(written, wanted.certificate)
    assert same(Certificate.from_plain(said.document["certificate"]), wanted.certificate)
    text = calibrate(rows, "--alpha", 0.02, "--delta", 0.1)
    assert text.code == 0
    assert repr(wanted.tau) in text.out


def test_abstaining_is_exit_code_1_with_the_reason(
    calibrate: Any, rows: Path, tmp_path: Path
) -> None:
    arguments = (rows, "--alpha", 0.0001, "--output", tmp_path / "c.json")
    said = calibrate(*arguments, "--json")
    assert said.code == 1
    assert said.document["certificate"] is None
    assert "takes at least" in said.document["reason"]
    assert not (tmp_path / "c.json").exists()
    text = calibrate(*arguments)
    assert (text.code, text.out) == (1, "")
    assert text.err.startswith("abstained: 3600 rows can be tested")


def test_a_csv_file_and_other_names_give_the_same(calibrate: Any, tmp_path: Path) -> None:
    lines = ["size,error,note"]
    lines += [f"{q!r},{0.2 if u else 0.01},x" for q, u in zip(Q.tolist(), UNSAFE, strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    said = calibrate(
        tmp_path / "rows.csv", "--q-abs", "size", "--loss", "error", "--tolerance", 0.05,
        "--dtype", "float32", "--alpha", 0.02, "--delta", 0.1, "--json",
    )  # fmt: skip
    wanted = calibrate_tau(Q, UNSAFE, 0.02, 0.1).certificate
    assert wanted is not None
    assert said.document["certificate"]["data"] == wanted.data
    assert said.document["tau"] == wanted.tau


def test_words_and_empty_cells_of_a_csv_file(calibrate: Any, tmp_path: Path) -> None:
    rows = ["0.5,false"] * 300 + ["0.5,TRUE", ",true", "0.5,"]
    (tmp_path / "rows.csv").write_text("q_abs,loss\n" + "\n".join(rows))
    said = calibrate(tmp_path / "rows.csv", "--alpha", 0.1, "--start", 0.5, "--json")
    certificate = said.document["certificate"]
    assert (certificate["accepted"], certificate["unsafe"]) == (302, 2)


def columns_bundle(directory: Path, tau: float) -> tuple[Bundle, np.ndarray[Any, Any]]:
    x = pairs(4_000, 1)
    config = InferenceConfig(tau_infer=tau)
    return export_bundle(columns_model(), directory, example_inputs=(x,), config=config), x


def test_the_threshold_of_a_bundle_is_certified_and_the_bundle_says_so(
    calibrate: Any, tmp_path: Path
) -> None:
    bundle, x = columns_bundle(tmp_path / "b", 1e-3)
    q = np.abs(x[:, 2])
    np.savez(tmp_path / "rows.npz", q_abs=q.astype(np.float64), loss=q < 5e-4)
    arguments = (tmp_path / "rows.npz", "--bundle", tmp_path / "b", "--alpha", 0.01)
    said = calibrate(*arguments, "--json")
    assert said.code == 0
    assert said.document["bundle"] == validate_bundle(tmp_path / "b").digest != bundle.digest
    found = certificate_of(validate_bundle(tmp_path / "b"))
    assert found is not None
    tau = float(np.float32(1e-3))
    assert (found.tau, found.start, found.pilot, found.unsafe) == (tau, tau, 0, 0)
    assert found.accepted == int((q >= np.float32(1e-3)).sum())
    assert Certificate.from_plain(said.document["certificate"]) == found
    curve = read_curve(validate_bundle(tmp_path / "b").metadata)
    assert curve is not None
    assert (curve.n, curve.alpha) == (4_000, 0.01)


def test_a_bundle_whose_threshold_is_too_low_is_left_alone(calibrate: Any, tmp_path: Path) -> None:
    bundle, x = columns_bundle(tmp_path / "b", 1e-5)
    q = np.abs(x[:, 2])
    np.savez(tmp_path / "rows.npz", q_abs=q, loss=q < 5e-4)
    said = calibrate(tmp_path / "rows.npz", "--bundle", tmp_path / "b", "--alpha", 0.01, "--json")
    assert (said.code, said.document["bundle"]) == (1, None)
    assert validate_bundle(tmp_path / "b").digest == bundle.digest


@pytest.mark.parametrize(
    ("name", "content", "options", "named"),
    [
        ("rows.txt", b"", (), "neither .npz nor .csv"),
        ("rows.npz", b"no archive", (), "rows.npz cannot be read: it is no .npz file"),
        ("rows.npz", b"", (), "rows.npz cannot be read: it is no .npz file"),
        ("rows.npz", ARRAY, (), "rows.npz cannot be read: it is no .npz file"),
        ("rows.npz", ENCRYPTED, (), "rows.npz cannot be read"),
        ("rows.csv", b"q_abs,loss\n1,safe\n", (), "line 2: loss is 'safe'"),
        ("rows.csv", b"q_abs,loss\n0.5,0\n0,5,0\n", (), "line 3: 3 cells; the header has 2"),
        ("rows.csv", b"q_abs,loss\n0.5,0\n\n0.\n", (), "line 4: 1 cells; the header has 2"),
        ("rows.csv", b"q_abs,loss,q_abs\n0.5,0,9\n", (), "'q_abs' more than once"),
        ("rows.csv", b"q_abs\n1\n", (), "no 'loss'; it has 'q_abs'"),
        ("rows.csv", b"\xff\xfe", (), "rows.csv cannot be read"),
        ("rows.csv", b"q_abs,loss\n1," + b"0" * 200_000, (), "rows.csv cannot be read"),
        ("rows.csv", b"q_abs,loss\n1,0\n", ("--alpha", "2"), "alpha is 2.0"),
        ("rows.csv", b"q_abs,loss\n1,0.5\n", (), "no tolerance is given"),
    ],
)
def test_mistakes_are_usage_errors_with_a_name(
    calibrate: Any, tmp_path: Path, name: str, content: bytes, options: Any, named: str
) -> None:
    (tmp_path / name).write_bytes(content)
    said = calibrate(tmp_path / name, "--alpha", 0.1, *options, "--json")
    assert said.code == 2
    assert named in said.document["error"]["message"]


def test_a_certificate_is_not_written_over_the_data_or_into_a_bundle(
    calibrate: Any, rows: Path, tmp_path: Path
) -> None:
    bundle, _ = columns_bundle(tmp_path / "b", 1e-3)
    before = rows.read_bytes()
    for output, named in ((rows, "holds the data"), (tmp_path / "b" / "c.json", "in the bundle")):
        said = calibrate(rows, "--alpha", 0.1, "--output", output, "--json")
        assert said.code == 2
        assert named in said.document["error"]["message"]
    assert rows.read_bytes() == before
    assert validate_bundle(tmp_path / "b").digest == bundle.digest


def test_objects_in_an_npz_file_are_not_unpickled(calibrate: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", q_abs=np.array([object()]), loss=np.zeros(1))
    said = calibrate(tmp_path / "rows.npz", "--alpha", 0.1, "--json")
    assert said.code == 2
    assert "allow_pickle" in said.document["error"]["message"]


def test_a_single_array_under_the_name_of_an_archive_is_a_mistake_with_a_name(
    calibrate: Any, tmp_path: Path
) -> None:
    np.save(tmp_path / "rows.npy", np.ones(3))
    path = (tmp_path / "rows.npy").rename(tmp_path / "rows.npz")
    said = calibrate(path, "--alpha", 0.1, "--json")
    assert said.code == 2
    assert "rows.npz cannot be read: it is no .npz file" in said.document["error"]["message"]


def test_a_bundle_brings_its_own_threshold_and_dtype(
    calibrate: Any, rows: Path, tmp_path: Path
) -> None:
    columns_bundle(tmp_path / "b", 1e-3)
    for option in (("--lowest", 0.1), ("--dtype", "float32")):
        said = calibrate(rows, "--alpha", 0.1, "--bundle", tmp_path / "b", *option, "--json")
        assert said.code == 2
        assert option[0] in said.document["error"]["message"]


def test_an_output_that_cannot_be_written_is_named(
    calibrate: Any, rows: Path, tmp_path: Path
) -> None:
    said = calibrate(rows, "--alpha", 0.1, "--output", tmp_path / "no" / "c.json", "--json")
    assert said.code == 1
    assert said.document["error"]["code"] == "storage"
