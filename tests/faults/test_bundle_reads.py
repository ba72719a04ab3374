"""What loading opens: nothing outside the bundle, whatever a model asks for. Needs strace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.hostile import DECOY

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is not installed: opened files are not checked"
)

LOAD = """
import os, sys
from pathlib import Path
from support.bundles import plain_metadata, plain_model
from support.hostile import corpus, write_bundle
from interlock.bundle import BundleLimits, load, pack
from interlock.errors import BundleError

outside, hostile = Path(sys.argv[1]), sys.argv[2] == "hostile"
limits = BundleLimits(max_structure_bytes=1 << 20, probe_seconds=20, probe_memory_bytes=1 << 30)
cases = [case for case in corpus(outside) if "did not end" not in case.reason] if hostile else []
for case in cases:
    write_bundle(outside / "bundles" / case.name, case.model, case.files)
pack(outside / "bundles" / "sound", plain_model(), plain_metadata(plain_model()), probe=False)
os.chdir(outside)
open("mark", "w").close()
refused = 0
for case in cases:
    try:
        load(Path("bundles") / case.name, limits=limits)
    except BundleError:
        refused += 1
load("bundles/sound", limits=limits)
assert "onnxruntime" not in sys.modules
print("all refused" if refused == len(cases) else "some were not refused")
"""

CONTROL = """
import sys, os
from pathlib import Path
from support.hostile import corpus
import onnxruntime
os.chdir(sys.argv[1])
case = next(case for case in corpus(Path(".")) if case.name == "working_directory")
onnxruntime.InferenceSession(case.model)
"""


def opened(script: str, outside: Path, *arguments: str) -> list[str]:
    """The paths that the script and its children opened after it opened `mark`, if it did."""
    outside.mkdir()
    (outside / DECOY).write_bytes(bytes(48))
    trace = outside.with_suffix(".trace")
    strace = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2", "-o", str(trace)]
    result = subprocess.run(
        [*strace, sys.executable, "-c", script, str(outside), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "some" not in result.stdout
    paths = re.findall(r'open(?:at2?)?\([^"]*"([^"]*)"', trace.read_text())
    return paths[paths.index("mark") + 1 :] if "mark" in paths else paths


def test_the_control_shows_that_a_bare_session_reads_a_file_beside_it(tmp_path: Path) -> None:
    assert any(path.endswith(DECOY) for path in opened(CONTROL, tmp_path / "control"))


def test_loading_hostile_bundles_opens_nothing_outside_them(tmp_path: Path) -> None:
    sound = set(opened(LOAD, tmp_path / "sound", "sound"))
    outside = tmp_path / "hostile"
    hostile = set(opened(LOAD, outside, "hostile"))
    assert "model.onnx" in hostile
    assert not [path for path in hostile | sound if DECOY in path or ".onnxruntime" in path]
    own = {file.name for file in outside.glob("bundles/*/*")}
    own |= {f"bundles/{bundle.name}" for bundle in outside.glob("bundles/*")}
    python = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), "/proc/", str(outside))
    odd = {path for path in hostile - sound - own if not path.startswith(python)}
    assert odd == set()
    assert {path for path in hostile if path.startswith(str(outside))} <= {str(outside)}
