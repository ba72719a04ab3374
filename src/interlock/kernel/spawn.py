"""Starting the child of a `WorkerProcess`."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from interlock.kernel.errors import EngineUnavailableError

_BOOT = (
    "import json, sys; a = json.loads(sys.argv[1]); sys.path[:] = a['path']; "
    "from interlock.kernel.process_child import main; main(a)"
)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Spawned:
    """A process in a session of its own, and the parent's end of the connection to it."""

    process: subprocess.Popen[bytes]
    connection: socket.socket


def spawn(*, memory_limit: int | None, show_stderr: bool) -> Spawned:
    """Start a child that inherits the import path and one connection, and nothing else open.

    Raises EngineUnavailableError where the system has no POSIX processes, OSError where it
    cannot start one more.
    """
    if os.name != "posix":
        raise EngineUnavailableError("worker processes need a POSIX system")
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            arguments = {
                # The empty entry means the working directory, which may change. What is no
                # text, such as a Path, Python leaves out when it imports.
                "path": [
                    entry or os.getcwd()  # noqa: PTH109
                    for entry in sys.path
                    if isinstance(entry, str)
                ],
                "parent": os.getpid(),
                "fd": theirs.fileno(),
                "memory_limit": memory_limit,
            }
            future = _start(arguments, theirs.fileno(), show_stderr)
            try:
                process = future.result()
            except BaseException:
                # Interrupted: the child leaves by itself when it finds nobody connected.
                future.add_done_callback(_wait_for)
                raise
        except BaseException:
            ours.close()
            raise
    ours.setblocking(False)
    return Spawned(process, ours)


def _start(
    arguments: dict[str, Any], descriptor: int, show_stderr: bool
) -> Future[subprocess.Popen[bytes]]:
    future: Future[subprocess.Popen[bytes]] = Future()

    def work() -> None:
        try:
            # -P: a module in the working directory must not stand in for an installed one.
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, json.dumps(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if show_stderr else subprocess.DEVNULL,
                pass_fds=(descriptor,),
                start_new_session=True,
                env={**dict.fromkeys(_THREADS, "1"), **os.environ},
            )
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            future.set_exception(error)
        else:
            future.set_result(process)

    _jobs().put(work)
    return future


def _wait_for(future: Future[subprocess.Popen[bytes]]) -> None:
    with contextlib.suppress(Exception):
        future.result().kill()
        future.result().wait(5)


_thread: tuple[int, queue.SimpleQueue[Any]] | None = None
_thread_lock = threading.Lock()


def _jobs() -> queue.SimpleQueue[Any]:
    """The queue of the thread that starts all children.

    The kernel's parent-death signal is sent when the *thread* that started the child ends, so
    one thread that lives as long as the process starts them all.
    """
    global _thread
    with _thread_lock:
        # A forked copy of this process has the queue but not the thread.
        if _thread is None or _thread[0] != os.getpid():
            jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
            threading.Thread(target=_run, args=(jobs,), name="interlock-spawn", daemon=True).start()
            _thread = (os.getpid(), jobs)
        return _thread[1]


def _run(jobs: queue.SimpleQueue[Any]) -> None:
    while True:
        jobs.get()()
