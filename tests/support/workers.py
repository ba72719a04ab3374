"""What runs inside the worker processes of the tests, good and bad."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from interlock.kernel import frames
from interlock.kernel.errors import InputError, RunChangedError, TransientError


def connection() -> socket.socket:
    """The worker's own end of the connection, found as a hostile worker would find it."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            descriptor = int(entry.name)
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                return socket.socket(fileno=os.dup(descriptor))
    raise AssertionError("no socket is open")


def make(options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A worker whose payload says what it does: ["name", argument]."""
    return lambda payload: globals()["do_" + payload[0]](*payload[1:])


def fail_to_make(options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A factory that refuses its options."""
    raise InputError("option 'a' is 1; it must be 2")


def hang_in_factory(options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A factory that never returns."""
    time.sleep(3600)
    raise AssertionError


def options_back(options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A worker that returns its options."""
    return lambda payload: options


def lying_model(options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Stands where a model should be, and answers what its bytes say."""
    one = np.ones(1)
    answers = {
        b"nothing": None,
        b"a list": [1],
        b"no array": {"y": [1.0]},
        b"another output": {"z": one},
        b"more than asked": {"y": one, "z": one},
    }
    return lambda payload: answers[options["model"]]


def do_echo(value: Any) -> Any:
    return value


def do_hang() -> None:
    """Hold the interpreter's lock in one native call: a sum that takes hours."""
    sum(range(1 << 62))


def do_pid() -> int:
    return os.getpid()


def do_signal(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(10)


def do_exit(code: int) -> None:
    os._exit(code)


def do_raise(secret: str) -> None:
    raise KeyError(secret)


def do_refuse(message: str) -> None:
    raise InputError(message, hint="send 2")


def do_busy() -> None:
    raise TransientError("come back", wait_seconds=2.5)


def do_changed() -> None:
    raise RunChangedError("differs", changes=("a", "b"))


def do_unsendable() -> Any:
    return object()


def do_large(size: int) -> bytes:
    return b"x" * size


def do_allocate(size: int) -> int:
    return int(np.ones(size, dtype=np.uint8)[-1])


def do_hoard() -> int:
    """Keep small objects until there is no memory left."""
    kept = []
    while True:
        kept.append([0.5] * 100)


def do_abort_holding(size: int) -> None:
    """Die as native code does that cannot go on, while holding `size` bytes."""
    held = np.ones(size, dtype=np.uint8)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGABRT if held[0] else 0)


def do_write_raw(data: bytes) -> None:
    """Write bytes of its own choice where the answer belongs, then wait."""
    connection().sendall(data)
    time.sleep(3600)


def do_flood() -> None:
    """Send zero bytes for ever, never answering."""
    peer, zeros = connection(), bytes(1 << 20)
    while True:
        peer.sendall(zeros)


def do_drip() -> None:
    """Announce an answer and send it one byte at a time, so that data always arrives."""
    peer = connection()
    peer.sendall(frames.PREFIX.pack(frames.MAGIC, 1 << 20, 1, 0))
    while True:
        peer.sendall(b"\x90")
        time.sleep(0.001)


def do_close_connection() -> None:
    """Close the connection on every descriptor, and live on."""
    os.closerange(3, 64)
    time.sleep(3600)


def do_answer_twice(call: int) -> str:
    """Answer call number `call` directly, and then once more."""
    for part in frames.encode([True, "genuine"], call):
        connection().sendall(part)
    return "forged"


def do_descriptors() -> list[str]:
    """What is open besides the standard three."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(entry.readlink()))
    return [target for target in found if target != "/dev/null" and "/proc/" not in target]


def do_facts() -> dict[str, Any]:
    return {
        "session": os.getsid(0) == os.getpid(),
        "group": os.getpgrp() == os.getpid(),
        "ignores": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "threads": os.environ["OMP_NUM_THREADS"],
        "path": list(sys.path),
    }


def do_leave_heir() -> None:
    """Die, and leave the connection open in a process that the kill cannot reach."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(5)
        os._exit(0)
    os._exit(4)


def do_grandchild() -> int:
    """Start a process of its own in the same group, and hang."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    return child.pid
