"""What every test may rely on."""

import signal

from hypothesis import settings


def pytest_configure() -> None:
    """Listen to SIGINT, and let an example take its time.

    A shell ignores the signal for what it puts in the background, and child processes inherit that.
    Hypothesis would fail an example above 200 ms, which any does on a machine that others use.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("interlock", deadline=None)
    settings.load_profile("interlock")
