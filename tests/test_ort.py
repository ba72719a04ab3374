"""ONNX Runtime is imported without its telemetry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
from interlock.ort import onnxruntime
from support.bundles import plain_model
onnxruntime().InferenceSession(plain_model().SerializeToString())
"""


def test_a_session_leaves_nothing_in_the_users_home(tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("XDG_")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, env=environment, timeout=120)
    assert list(tmp_path.rglob("*")) == []
