"""A peer's package in a virtual environment of its own, made when a comparison first needs it."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def interpreter(name: str, requirements: Sequence[str]) -> Path:
    """The Python of `.venv-peer-<name>` in the project, with exactly `requirements` installed.

    Made with pip from the user's own index on the first call or after the requirements changed;
    half-made environments are made again. INTERLOCK_PEERS names another directory for them.
    """
    home = Path(os.environ.get("INTERLOCK_PEERS", _ROOT)) / f".venv-peer-{name}"
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    wanted = "\n".join(requirements)
    stamp = home / "requirements"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"making {home.name} with {', '.join(requirements)}", file=sys.stderr)
    venv.create(home, clear=True, with_pip=True)
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements],
        check=True,
        stdout=sys.stderr,
    )
    stamp.write_text(wanted, encoding="utf-8")
    return python
