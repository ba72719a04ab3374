"""Whether the system lets the server have as many files open as its connections and workers take.

Without this a server meets the limit under load: it then closes new connections without an answer,
starts no worker, and loses lines of its log.
"""

from __future__ import annotations

from interlock.kernel.errors import InputError
from interlock.serve.settings import Settings

_OWN = 64
"""The event loop's, the log, the state, a collector's, and what is read or started meanwhile."""
_WORKER = 4
"""Of a worker: two ends of its connection while it starts, beside those of versions that end."""


def needed(settings: Settings) -> int:
    """How many files the server may come to have open."""
    return settings.connections + _beside(settings)


def check_limit(settings: Settings) -> None:
    """Raise InputError where the system allows fewer, however far its limit is raised."""
    _, hard = _limits()
    if hard is not None and hard < needed(settings):
        raise _too_few(settings, hard)


def raise_limit(settings: Settings) -> None:
    """Raise this process's limit as far as needed; raises InputError where that is not allowed."""
    check_limit(settings)
    soft, hard = _limits()
    if soft is None or soft >= needed(settings):
        return
    import resource

    ceiling = resource.RLIM_INFINITY if hard is None else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed(settings), ceiling))
    except (ValueError, OSError):
        # Some systems allow fewer than the hard limit that they tell.
        raise _too_few(settings, soft) from None


def _beside(settings: Settings) -> int:
    return _OWN + _WORKER * sum(own.workers for own in settings.models.values())


def _limits() -> tuple[int | None, int | None]:
    """The soft and the hard limit; None for none."""
    try:
        import resource
    except ImportError:
        return None, None
    soft, hard = (
        None if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    return soft, hard


def _too_few(settings: Settings, limit: int) -> InputError:
    room = limit - _beside(settings)
    lower = f"set connections to {room} or less, or " if room > 0 else ""
    return InputError(
        f"connections is {settings.connections}, for which {needed(settings)} files may have to be "
        f"open at the same time; the limit of this process is {limit}",
        hint=f"{lower}raise the limit of open files to {needed(settings)}: `ulimit -n`, "
        "LimitNOFILE of a service, or what sets it for a container",
    )
