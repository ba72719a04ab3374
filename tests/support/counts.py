"""How often the fault and property suites repeat: small by default, full under `make test-full`."""

import os


def count(small: int, full: int) -> int:
    """`full` where INTERLOCK_FULL=1, else `small`."""
    return full if os.environ.get("INTERLOCK_FULL") == "1" else small
