"""Find what would stop an experiment before it costs anything: `interlock experiment check`.

    python validate_setup.py
    python validate_setup.py --config config_full_pilot.json

Without --config it looks at config_small_test.json beside it.
"""

import sys
from pathlib import Path

from interlock.cli import main

if __name__ == "__main__":
    arguments = sys.argv[1:]
    given = any(each.partition("=")[0] in ("--config", "-h", "--help") for each in arguments)
    if not given:
        arguments += ["--config", str(Path(__file__).with_name("config_small_test.json"))]
    main(["experiment", "check", *arguments])
