"""Random byte flips anywhere in a bundle: every one is refused before anything could run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.bundles import plain_metadata, plain_model, strict_metadata, strict_model
from support.counts import count

from interlock.bundle import pack

FLIP = """
import random, sys
from pathlib import Path

class Tripwire:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "onnxruntime":
            raise AssertionError("onnxruntime was imported")
sys.meta_path.insert(0, Tripwire())

import interlock.kernel.process as process
def no_process(*arguments, **named):
    raise AssertionError("a process was started")
process.spawn.spawn = no_process

from interlock.bundle import load
from interlock.errors import BundleError

directory, flips, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
key = Path(sys.argv[4]) if len(sys.argv) > 4 else None
try:
    load(directory, require_signature=key)
except AssertionError as trip:
    assert "started" in str(trip)
else:
    raise SystemExit("the tripwire did not go off for the sound bundle")
rng = random.Random(seed)
files = sorted(directory.iterdir())
codes = {}
for turn in range(flips):
    file = files[turn % len(files)]
    data = bytearray(file.read_bytes())
    at, bit = rng.randrange(len(data)), rng.randrange(1, 256)
    data[at] ^= bit
    original = file.read_bytes()
    file.write_bytes(data)
    try:
        load(directory, require_signature=key)
    except BundleError as error:
        codes[error.code] = codes.get(error.code, 0) + 1
    else:
        raise SystemExit(f"accepted: {file.name} byte {at} xor {bit}, seed {seed}")
    finally:
        file.write_bytes(original)
print(sum(codes.values()))
"""


def flip(directory: Path, flips: int, *key: str) -> int:
    """How many of `flips` flips were refused; fails at the first that was not."""
    result = subprocess.run(
        [sys.executable, "-c", FLIP, str(directory), str(flips), "20260101", *key],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    return int(result.stdout)


def test_every_flip_in_a_bundle_is_refused_before_a_session_exists(tmp_path: Path) -> None:
    model = strict_model()
    pack(tmp_path / "bundle", model, strict_metadata(model), {"notes.txt": b"by hand"})
    assert flip(tmp_path / "bundle", count(100, 2000)) == count(100, 2000)


def test_every_flip_in_a_signed_bundle_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="needs the extra `sign`")
    from support.keys import write_key_pair

    from interlock.bundle.sign import sign

    private, public = write_key_pair(tmp_path)
    model = plain_model()
    pack(tmp_path / "bundle", model, plain_metadata(model))
    sign(tmp_path / "bundle", private)
    assert flip(tmp_path / "bundle", count(100, 2000), str(public)) == count(100, 2000)
