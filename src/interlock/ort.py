"""ONNX Runtime, imported with its telemetry off.

Its wheels keep a device id and a database of events below the user's cache directory, with a
collector's address built in, from the moment of the import, unless ORT_DISABLE_TELEMETRY says
otherwise by then. Every import of it goes through here.
"""

from __future__ import annotations

import importlib
import os
from typing import Any


def onnxruntime() -> Any:
    """The module `onnxruntime`. A user who sets ORT_DISABLE_TELEMETRY otherwise is heard."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")
