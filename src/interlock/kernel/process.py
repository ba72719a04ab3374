"""A worker process that can be killed: hard deadlines and memory limits for code that has neither.

The child runs `target` and is not trusted: a hostile model may own it. Whatever it sends, the
parent gets a value, an error of the tree, or kills it. It runs with the rights of its user, so
this bounds time and memory and contains crashes; it is no sandbox.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from interlock.kernel import frames, remote_errors, spawn
from interlock.kernel.clock import NO_DEADLINE, SYSTEM_CLOCK, Clock, Deadline
from interlock.kernel.errors import (
    ConfigError,
    DeadlineError,
    EngineCrashError,
    EngineError,
    EngineUnavailableError,
    InterlockError,
    MemoryLimitError,
)
from interlock.kernel.process_child import OUT_OF_MEMORY

REPLY_LIMIT = 1 << 30
LEAST_MEMORY = 64 << 20

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_SLICE = 0.05  # seconds between looks at the child's memory and life while a call waits
_REAP = 0.2  # seconds that a killed child may take to go before the caller is let go
_CLOSE = 2.0  # seconds that a child may take to leave on its own
_NEAR = 0.8  # share of the memory limit from which a crash is put down to it
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class WorkerProcess:
    """A callable that lives in a process of its own and is killed when it is late.

    target         "package.module:factory"; in the child, `factory(options)` returns the
                   callable that gets each payload and returns the answer
    options        given to the factory; may hold large bytes, such as a model
    memory_limit   bytes of private writable memory, interpreter and libraries included (about
                   50 MB with numpy loaded); enforced by the kernel on Linux. Shared memory and
                   files do not count. None for no limit
    reply_limit    bytes of the largest answer that the parent accepts
    show_stderr    pass the child's stderr on; it is discarded otherwise, as it may hold inputs

    Payloads, answers and options are JSON-like values with bytes and numpy arrays inside, see
    `interlock.kernel.frames`. The process starts with the first call, or with `start`. It is
    replaced when it was killed, crashed or reached its memory limit: the next call starts a
    fresh one. Safe across threads; calls run one at a time, further ones wait their turn.
    """

    def __init__(
        self,
        target: str,
        *,
        options: Mapping[str, Any] | None = None,
        memory_limit: int | None = None,
        name: str = "worker",
        reply_limit: int = REPLY_LIMIT,
        show_stderr: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not _TARGET.fullmatch(target) or target.startswith("__main__:"):
            raise ConfigError(
                f"target is {target!r}; it must be 'package.module:factory', importable elsewhere"
            )
        if memory_limit is not None and memory_limit < LEAST_MEMORY:
            raise ConfigError(
                f"memory_limit is {memory_limit}; it must be at least {LEAST_MEMORY} bytes, "
                "which the interpreter and numpy need"
            )
        if reply_limit <= 0:
            raise ConfigError(f"reply_limit is {reply_limit}; it must be above 0 bytes")
        self.name = name
        self.memory_limit = memory_limit
        self.start_seconds: float | None = None
        self._target = target
        self._options = dict(options or {})
        self._reply_limit = reply_limit
        self._show_stderr = show_stderr
        self._clock = clock
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._cpu: tuple[int | None, float] = (None, 0.0)
        self._cpu_ended = 0.0
        self._child: _Child | None = None
        self._finalizer: weakref.finalize[[], WorkerProcess] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None where no process runs."""
        child = self._child
        return child.process.pid if child is not None and child.alive() else None

    @property
    def alive(self) -> bool:
        """Whether a process runs."""
        return self.pid is not None

    @property
    def rss(self) -> int | None:
        """Resident bytes of the process; None where none runs or the system does not tell."""
        pid = self.pid
        sizes = None if pid is None else _memory(pid)
        return None if sizes is None else sizes[0]

    @property
    def cpu_seconds(self) -> float:
        """CPU time, of user and system, of all processes so far; it never falls.

        Of one that ended, what it had when it was last looked at; 0 where the system does not tell.
        """
        pid = self.pid
        now = None if pid is None else _cpu_seconds(pid)
        with self._counting:
            if pid is not None and now is not None:
                of, before = self._cpu
                if of != pid:
                    self._cpu_ended += before
                self._cpu = pid, now
            return self._cpu_ended + self._cpu[1]

    def amend(self, **options: Any) -> None:
        """Give the factory of every process that starts from now on these options as well."""
        self._options = {**self._options, **options}

    def start(self, deadline: Deadline = NO_DEADLINE) -> None:
        """Start the process, if none runs, and wait until the factory has returned.

        Raises DeadlineError, EngineUnavailableError where no process can start, or whatever the
        factory raised (see `call`).
        """
        self._take_turn(deadline)
        try:
            self._running(deadline)
        finally:
            self._turn.release()

    def call(self, payload: Any, *, deadline: Deadline = NO_DEADLINE) -> Any:
        """The callable's answer to `payload`, by `deadline`; starts the process if none runs.

        Raises InputError for a payload that cannot cross; DeadlineError, after killing the
        process, when the time is over; MemoryLimitError when the limit was reached;
        EngineCrashError when the process died or sent something that is no answer. An
        InterlockError in the child comes back as the same class; any other exception as
        EngineError with the exception's type alone.
        """
        self._take_turn(deadline)
        try:
            child = self._running(deadline)
            return self._exchange(child, payload, deadline)
        finally:
            self._turn.release()

    def kill(self) -> None:
        """End the process at once, from any thread; a call under way raises EngineCrashError."""
        child = self._child
        if child is not None:
            child.kill()

    def close(self) -> None:
        """End the process and give back what it held. The next call would start a fresh one.

        Waits for a call under way; use `kill` first to end that.
        """
        with self._turn:
            child = self._child
            if child is None:
                return
            child.hang_up()
            child.reap(_CLOSE)
            self._discard(wait=_CLOSE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _take_turn(self, deadline: Deadline) -> None:
        left = deadline.remaining()
        if not self._turn.acquire(timeout=-1 if left is None else min(left, threading.TIMEOUT_MAX)):
            raise DeadlineError(f"{self.name}: busy with another call until the deadline")

    def _running(self, deadline: Deadline) -> _Child:
        deadline.check(self.name)
        child = self._child
        if child is not None and child.usable():
            return child
        self._discard()
        began = self._clock.monotonic()
        child = self._child = _Child(self._spawn())
        self._finalizer = weakref.finalize(self, child.destroy)
        setup = {
            "target": self._target,
            "options": self._options,
            "reply_limit": self._reply_limit,
        }
        try:
            self._exchange(child, setup, deadline)
        except BaseException:
            self._discard()
            raise
        self.start_seconds = self._clock.monotonic() - began
        return child

    def _spawn(self) -> spawn.Spawned:
        try:
            return spawn.spawn(memory_limit=self.memory_limit, show_stderr=self._show_stderr)
        except OSError as error:
            raise EngineUnavailableError(
                f"{self.name}: no process can be started ({error.strerror})"
            ) from None

    def _exchange(self, child: _Child, payload: Any, deadline: Deadline) -> Any:
        """Send the payload and return the answer; the child is gone after anything unexpected."""
        frame = frames.packed(frames.encode(payload, child.calls + 1))
        child.calls += 1
        child.peak = 0
        try:
            child.send(frame, deadline, self.memory_limit)
            call, answer = frames.read(
                child.reader(deadline, self.memory_limit), limit=self._reply_limit
            )
            if call != child.calls:
                raise frames.FrameError("an answer to another call")
            value, told = _unpack(answer)
        except DeadlineError:
            self._discard()
            raise DeadlineError(f"{self.name}: killed at the deadline") from None
        except (OSError, EOFError):
            # A crash is told by its exit status, so let it leave before it is killed.
            child.reap(_REAP)
            error = self._death(child)
            self._discard()
            raise error from None
        except frames.FrameError as fault:
            self._discard()
            raise EngineCrashError(f"{self.name}: sent no valid answer: {fault}") from None
        except BaseException:
            # Also Ctrl-C: an answer that nobody read must not meet the next call.
            self._discard()
            raise
        if told is None:
            return value
        if isinstance(told, MemoryLimitError):
            # What is left of its memory is fragmented; a fresh process is known to be sound.
            self._discard()
        raise told

    def _death(self, child: _Child) -> EngineError:
        code = child.process.returncode
        limit = self.memory_limit
        if code == OUT_OF_MEMORY or (
            limit is not None and code not in (None, 0) and child.peak >= _NEAR * limit
        ):
            return MemoryLimitError(
                f"{self.name}: ran out of memory"
                + ("" if limit is None else f" at its limit of {limit} bytes")
            )
        if code is None:
            how = "closed its connection"
        elif code < 0:
            how = f"was ended by {_signal(-code)}"
        else:
            how = f"left with exit status {code}"
        hint = None if limit is None else f"its memory limit of {limit} bytes may be the cause"
        return EngineCrashError(f"{self.name}: the process {how}", hint=hint)

    def _discard(self, wait: float = _REAP) -> None:
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None
        child, self._child = self._child, None
        if child is not None:
            child.destroy(wait)


class _Child:
    """One process and the parent's end of its connection."""

    def __init__(self, spawned: spawn.Spawned) -> None:
        self.process = spawned.process
        self.connection = spawned.connection
        self.calls = 0
        self.peak = 0
        self._owner = os.getpid()
        # A process id may be signalled only while nobody can have waited for it.
        self._waiting = threading.Lock()
        self._poll = select.poll()
        self._poll.register(self.connection, select.POLLIN)
        self._until: tuple[Deadline, int | None] = (NO_DEADLINE, None)
        self._ahead = frames.Ahead(self._receive)

    def alive(self) -> bool:
        with self._waiting:
            return self._owner == os.getpid() and self.process.poll() is None

    def usable(self) -> bool:
        """Whether the next call may go to it: alive, and no bytes that nobody asked for."""
        return self.alive() and not len(self._ahead) and not self._poll.poll(0)

    def send(self, frame: Sequence[memoryview], deadline: Deadline, limit: int | None) -> None:
        for part in frame:
            rest = part
            while rest:
                try:
                    rest = rest[self.connection.send(rest) :]
                except BlockingIOError:
                    self._wait(select.POLLOUT, deadline, limit)

    def reader(self, deadline: Deadline, limit: int | None) -> frames.Fill:
        """Fills buffers with what the child sends, by `deadline`."""
        self._until = deadline, limit
        return self._ahead.fill

    def _receive(self, view: memoryview) -> int:
        deadline, limit = self._until
        # A peer that never stops sending never makes us wait, so look here too.
        deadline.check("receiving")
        while True:
            try:
                return self.connection.recv_into(view)
            except BlockingIOError:
                self._wait(select.POLLIN, deadline, limit)

    def _wait(self, event: int, deadline: Deadline, limit: int | None) -> None:
        """Return when the connection is ready; raise when time is over or the child is gone."""
        self._watch(event)
        while True:
            deadline.check("waiting")
            left = deadline.remaining()
            pause = _SLICE if left is None else min(_SLICE, left)
            if self._poll.poll(pause * 1000):
                self._watch(select.POLLIN)
                return
            if limit is not None:
                self.peak = max(self.peak, (_memory(self.process.pid) or (0, 0))[1])
            if not self.alive() and not self._poll.poll(0):
                raise EOFError

    def _watch(self, event: int) -> None:
        try:
            self._poll.modify(self.connection, event)
        except ValueError:
            # It was closed by another thread, as at the interpreter's end.
            raise EOFError from None

    def kill(self) -> None:
        """SIGKILL to the child's process group. Does not wait."""
        with self._waiting:
            if self._owner == os.getpid() and self.process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.process.pid, signal.SIGKILL)

    def hang_up(self) -> None:
        """Close the connection, on which an idle child leaves."""
        self.connection.close()

    def reap(self, wait: float) -> bool:
        """Wait up to `wait` seconds for the process to be gone."""
        until, pause = time.monotonic() + wait, 0.0005
        while self.alive():
            if time.monotonic() >= until:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        return True

    def destroy(self, wait: float = _REAP) -> None:
        """Kill, close and wait a little; a child that takes longer to go is left to a thread."""
        if self._owner != os.getpid():
            # A copy made by fork: the process belongs to another.
            self.process.returncode = 0
            self.hang_up()
            return
        self.kill()
        self.hang_up()
        if not self.reap(wait):
            threading.Thread(target=self.process.wait, daemon=True).start()


def _unpack(answer: Any) -> tuple[Any, InterlockError | None]:
    """Value or error of an answer; raises FrameError for anything else."""
    match answer:
        case [True, value]:
            return value, None
        case [False, [*codes], str(message), str(hint), {**told}]:
            return None, remote_errors.rebuild(codes, message, hint, told)
    raise frames.FrameError("neither a value nor an error")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _memory(pid: int) -> tuple[int, int] | None:
    """Resident and private writable bytes of a process, where /proc tells them."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        return int(fields[1]) * _PAGE, int(fields[5]) * _PAGE
    except (OSError, IndexError, ValueError):
        return None


def _cpu_seconds(pid: int) -> float | None:
    """User and system time of a process, where /proc tells them."""
    try:
        # The name in brackets may hold spaces; what is counted stands behind it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None
