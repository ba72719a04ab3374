"""What every test may rely on."""

import signal


def pytest_configure() -> None:
    """Listen to SIGINT even where the suite was started with it ignored.

    A shell does that to what it puts in the background, and child processes inherit it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
