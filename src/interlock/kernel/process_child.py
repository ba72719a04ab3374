"""The worker's side of `interlock.kernel.process`: what runs in the child process.

Nothing heavy is imported before the memory limit stands; numpy and the target come after it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from interlock.kernel import remote_errors
from interlock.kernel.errors import EngineError, InterlockError

OUT_OF_MEMORY = 86
"""Exit status of a child whose memory did not even suffice to say so."""

_PR_SET_PDEATHSIG = 1


def main(arguments: dict[str, Any]) -> None:
    """Set up the process and answer calls until the parent closes the connection."""
    import resource

    # Ctrl-C reaches the whole foreground; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(arguments["parent"])
    # A core file would hold the model and its inputs.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = arguments["memory_limit"]
    if limit is not None:
        _limit_memory(limit)
    try:
        importlib.import_module("interlock.kernel.frames")
    except Exception:  # noqa: BLE001 - out of memory, libraries raise whatever they like
        os._exit(1 if limit is None else OUT_OF_MEMORY)
    connection = socket.socket(fileno=arguments["fd"])
    connection.set_inheritable(False)
    try:
        with connection:
            _serve(connection)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except (EOFError, ConnectionError):
        pass


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when the parent dies; elsewhere watch for it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    # The parent may have died before the kernel was told.
    if os.getppid() != parent:
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def _limit_memory(limit: int) -> None:
    import resource

    # On Linux RLIMIT_DATA counts private writable memory: what can become resident. RLIMIT_AS
    # would also count libraries mapped from files and address space that is only reserved, which
    # make up most of a process that has loaded a runtime.
    kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (limit, limit))


def _serve(connection: socket.socket) -> None:
    from interlock.kernel import frames

    fill = frames.Ahead(connection.recv_into).fill

    def reply(call: int, answer: Any) -> None:
        try:
            frame = frames.encode(answer, call)
            if not frames.fits(frame, limit):
                raise EngineError(
                    f"the answer takes {frames.total(frame)} bytes; the limit is {limit} in all "
                    f"and {frames.BODY_LIMIT} beside arrays and bytes",
                )
        except InterlockError as error:
            unsent = EngineError(error.message, hint=error.hint)
            frame = frames.encode([False, *remote_errors.describe(unsent)], call)
        for part in frames.packed(frame):
            connection.sendall(part)

    call, setup = frames.read(fill)
    limit = setup["reply_limit"]
    try:
        # The options may be a model; what the factory does not keep must not stay.
        handle = _resolve(setup["target"])(setup.pop("options"))
        answer: Any = [True, None]
    except BaseException as error:  # noqa: BLE001 - the parent must hear of every failure
        reply(call, [False, *remote_errors.describe(error)])
        return
    while True:
        reply(call, answer)
        # Neither the payload nor the answer may live on while the next call is awaited.
        answer = None
        call, payload = frames.read(fill)
        try:
            answer = [True, handle(payload)]
        except BaseException as error:  # noqa: BLE001 - the parent must hear of every failure
            answer = [False, *remote_errors.describe(error)]
        payload = None


def _resolve(target: str) -> Callable[[Any], Callable[[Any], Any]]:
    module, _, attribute = target.partition(":")
    found: Callable[[Any], Callable[[Any], Any]] = getattr(
        importlib.import_module(module), attribute
    )
    return found
