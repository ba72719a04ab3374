"""Worker processes: values cross unchanged, errors keep their class, nothing outlives its time."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support.counts import count
from support.processes import gone, running

from interlock.kernel import frames
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    ConfigError,
    DeadlineError,
    EngineCrashError,
    EngineError,
    InputError,
    MemoryLimitError,
    RunChangedError,
    TransientError,
)
from interlock.kernel.process import LEAST_MEMORY, WorkerProcess

LATE = 0.5  # seconds after the deadline by which the caller must have its answer


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    with WorkerProcess("support.workers:make", name="w") as process:
        yield process


def test_a_call_answers_and_the_process_is_kept(worker: WorkerProcess) -> None:
    assert not worker.alive
    first = worker.call(["pid"])
    assert worker.call(["pid"]) == first == worker.pid != os.getpid()
    assert worker.rss is not None
    assert worker.rss > 1 << 20
    assert worker.start_seconds is not None


def test_values_cross_unchanged(worker: WorkerProcess) -> None:
    value: dict[str, Any] = {
        "none": None,
        "text": "é\0",
        "list": [1, -(2**63), 2**64 - 1, 1.5, True],
        "bytes": b"\0\xff",
        "large": bytes(range(256)) * 4096,
        "nested": {"arrays": [np.arange(6, dtype=np.int16).reshape(2, 3)]},
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "strided": np.arange(10)[::-2],
        "empty": np.zeros((0, 3), dtype=np.float16),
        "scalar": np.array(2.5),
        "bool": np.array([True, False]),
        "complex": np.array([1 + 2j], dtype=np.complex64),
        "big_endian": np.array([1, 2], dtype=">i4"),
        "text_array": np.array([["a", "ü"]], dtype=object),
    }
    back = worker.call(["echo", value])
    for name in ("none", "text", "list", "bytes", "large"):
        assert back[name] == value[name]
    pairs = [(back["nested"]["arrays"][0], np.arange(6, dtype=np.int16).reshape(2, 3))]
    pairs += [(back[name], value[name]) for name in value if isinstance(value[name], np.ndarray)]
    for got, sent in pairs:
        assert got.dtype == sent.dtype
        assert got.shape == sent.shape
        assert np.array_equal(got, sent)
        assert got.flags.writeable


def test_nan_payloads_keep_their_bits(worker: WorkerProcess) -> None:
    bits = np.array([0x7FF0000000000001, 0xFFF8DEADBEEF0000, 0x8000000000000000], dtype=np.uint64)
    assert np.array_equal(worker.call(["echo", bits.view(np.float64)]).view(np.uint64), bits)


def test_an_array_larger_than_the_socket_buffers_crosses_both_ways(worker: WorkerProcess) -> None:
    array = np.random.default_rng(0).integers(0, 255, 30 << 20, dtype=np.uint8)
    assert np.array_equal(worker.call(["echo", array]), array)


def test_large_bytes_come_back_wherever_they_are(worker: WorkerProcess) -> None:
    large = bytes(6 << 20)
    assert worker.call(["echo", large]) == large
    assert worker.call(["echo", {"in": [large, (1, large)]}]) == {"in": [large, [1, large]]}


def test_an_entry_of_the_import_path_that_is_no_text_is_left_out(
    worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.path", [tmp_path, *sys.path])
    assert worker.call(["echo", 1]) == 1


def test_options_reach_the_factory() -> None:
    options = {"model": os.urandom(3 << 20), "n": 2}
    with WorkerProcess("support.workers:options_back", options=options) as worker:
        assert worker.call(None) == options


def test_options_that_are_amended_reach_the_processes_that_start_from_then_on() -> None:
    options = {"word": "first", "n": 2}
    with WorkerProcess("support.workers:options_back", options=options) as process:
        assert process.call(None) == options
        process.amend(word="second")
        assert process.call(None) == options
        pid = process.pid
        assert pid is not None
        process.kill()
        assert gone(pid)
        assert process.call(None) == options | {"word": "second"}


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), np.array([object()]), 2**64, np.zeros(2, "V3")]
)
def test_a_payload_that_cannot_cross_costs_nothing(worker: WorkerProcess, value: Any) -> None:
    pid = worker.call(["pid"])
    if not isinstance(value, set):  # a set arrives as a list
        with pytest.raises(InputError):
            worker.call(["echo", value])
    assert worker.call(["pid"]) == pid


@pytest.mark.parametrize(
    "target", ["", "os", "os:", "a b:c", "__main__:f", "os:path.join", "../x:y", "x:y; import z"]
)
def test_a_target_that_is_no_target_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match="target"):
        WorkerProcess(target)


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="memory_limit"):
        WorkerProcess("os:getpid", memory_limit=LEAST_MEMORY - 1)
    with pytest.raises(ConfigError, match="reply_limit"):
        WorkerProcess("os:getpid", reply_limit=0)


def test_an_error_of_the_tree_keeps_class_message_and_hint(worker: WorkerProcess) -> None:
    with pytest.raises(InputError, match=r"^x is 1$") as caught:
        worker.call(["refuse", "x is 1"])
    assert caught.value.hint == "send 2"
    with pytest.raises(TransientError) as transient:
        worker.call(["busy"])
    assert transient.value.wait_seconds == 2.5
    with pytest.raises(RunChangedError) as changed:
        worker.call(["changed"])
    assert changed.value.changes == ("a", "b")


def test_a_foreign_exception_tells_its_type_alone(worker: WorkerProcess) -> None:
    pid = worker.call(["pid"])
    with pytest.raises(EngineError) as caught:
        worker.call(["raise", "the prompt"])
    assert "KeyError" in str(caught.value)
    assert "prompt" not in str(caught.value) + str(caught.value.__dict__)
    assert caught.value.__cause__ is None
    assert worker.call(["pid"]) == pid


def test_an_answer_that_cannot_cross_is_an_engine_error(worker: WorkerProcess) -> None:
    pid = worker.call(["pid"])
    with pytest.raises(EngineError, match="object"):
        worker.call(["unsendable"])
    assert worker.call(["pid"]) == pid


def test_an_answer_above_the_limit_is_an_engine_error() -> None:
    with WorkerProcess("support.workers:make", reply_limit=1 << 20) as worker:
        pid = worker.call(["pid"])
        assert len(worker.call(["large", 1 << 19])) == 1 << 19
        with pytest.raises(EngineError, match=str(1 << 20)):
            worker.call(["large", 1 << 20])
        assert worker.call(["pid"]) == pid


def test_a_factory_that_raises_is_heard_and_leaves_no_process() -> None:
    with WorkerProcess("support.workers:fail_to_make") as worker:
        for _ in range(2):
            with pytest.raises(InputError, match="option 'a'"):
                worker.call(None)
            assert not worker.alive
    with (
        WorkerProcess("support.no_such_module:make") as worker,
        pytest.raises(EngineError, match="ModuleNotFoundError"),
    ):
        worker.start()


def test_the_deadline_ends_a_native_loop_and_the_next_call_is_answered(
    worker: WorkerProcess,
) -> None:
    pid = worker.call(["pid"])
    began = time.monotonic()
    with pytest.raises(DeadlineError, match="w: killed"):
        worker.call(["hang"], deadline=Deadline.after(0.3))
    assert time.monotonic() - began < 0.3 + LATE
    assert gone(pid)
    assert worker.call(["pid"]) != pid


def test_the_deadline_covers_the_start() -> None:
    with WorkerProcess("support.workers:hang_in_factory") as worker:
        began = time.monotonic()
        with pytest.raises(DeadlineError):
            worker.call(None, deadline=Deadline.after(0.3))
        assert time.monotonic() - began < 0.3 + LATE
        assert not worker.alive


def test_an_expired_deadline_starts_nothing(worker: WorkerProcess) -> None:
    with pytest.raises(DeadlineError):
        worker.call(["pid"], deadline=Deadline.after(0))
    assert not worker.alive


@pytest.mark.parametrize("how", ["flood", "drip"])
def test_the_deadline_ends_a_worker_that_never_stops_sending(
    worker: WorkerProcess, how: str
) -> None:
    pid = worker.call(["pid"])
    began = time.monotonic()
    with pytest.raises((DeadlineError, EngineCrashError)):
        worker.call([how], deadline=Deadline.after(0.3))
    assert time.monotonic() - began < 0.3 + LATE
    assert gone(pid)
    assert worker.call(["echo", 1]) == 1


def test_the_deadline_ends_a_worker_that_stops_reading(worker: WorkerProcess) -> None:
    pid = worker.call(["pid"])
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(DeadlineError):
        worker.call(["echo", bytes(64 << 20)], deadline=Deadline.after(0.5))
    assert time.monotonic() - began < 0.5 + LATE
    assert gone(pid)


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGKILL, "SIGKILL"), (62, "62")]
)
def test_a_crash_is_named_and_the_process_replaced(
    worker: WorkerProcess, number: int, name: str
) -> None:
    pid = worker.call(["pid"])
    with pytest.raises(EngineCrashError, match=name) as caught:
        worker.call(["signal", int(number)])
    assert caught.value.retryable
    assert worker.call(["pid"]) != pid


def test_a_process_that_leaves_is_a_crash(worker: WorkerProcess) -> None:
    with pytest.raises(EngineCrashError, match="status 3"):
        worker.call(["exit", 3])
    assert worker.call(["echo", 1]) == 1


def test_cpu_time_never_falls_when_a_process_is_replaced(worker: WorkerProcess) -> None:
    seen = [worker.cpu_seconds]
    assert seen == [0.0]
    for _ in range(3):
        pid = worker.call(["pid"])
        seen.append(worker.cpu_seconds)
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        seen.append(worker.cpu_seconds)
    assert seen == sorted(seen)
    assert seen[-1] > seen[1] > 0


def test_a_process_that_died_between_calls_is_replaced(worker: WorkerProcess) -> None:
    pid = worker.call(["pid"])
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert worker.call(["pid"]) != pid


def _body(value: Any, buffers: list[Any] | None = None) -> bytes:
    return msgspec.msgpack.encode([buffers or [], value])


def _framed(body: bytes, *, call: int = 2, rest: bytes = b"", claimed: int | None = None) -> bytes:
    size = len(rest) if claimed is None else claimed
    return frames.PREFIX.pack(frames.MAGIC, len(body), call, size) + body + rest


def _array(about: Any, buffers: list[Any], rest: bytes) -> bytes:
    place = msgspec.msgpack.Ext(1, msgspec.msgpack.encode(about))
    return _framed(_body([True, place], buffers), rest=rest)


GARBAGE = {
    "noise": os.urandom(4096),
    "wrong magic": b"x" * frames.PREFIX.size,
    "oversized body": frames.PREFIX.pack(frames.MAGIC, 0xFFFFFFFF, 2, 0),
    "oversized buffers": frames.PREFIX.pack(frames.MAGIC, 8, 2, 1 << 62),
    "broken body": _framed(b"\xc1" * 8),
    "empty body": _framed(b""),
    "deep nesting": _framed(b"\x92\x90" + b"\x91" * 100_000 + b"\x90"),
    "no outcome": _framed(_body({"a": 1})),
    "error without codes": _framed(_body([False, 1, 2, 3, 4])),
    "another call": _framed(_body([True, "forged"]), call=7),
    "unknown extension": _framed(_body([True, msgspec.msgpack.Ext(9, b"")])),
    "sizes do not add up": _framed(_body([True, 1], [[1, 5]]), rest=b"abc"),
    "negative size": _framed(_body([True, 1], [[1, -5], [1, 8]]), rest=b"abc"),
    "missing buffer": _array([0, "<f4", [1]], [], b""),
    "shape too large": _array([0, "<f4", [2]], [[1, 4]], b"abcd"),
    "negative shape": _array([0, "<f4", [-1, -1]], [[1, 4]], b"abcd"),
    "huge empty shape": _array([0, "<f4", [0, 2**64 - 1]], [[1, 0]], b""),
    "object dtype": _array([0, "|O", [1]], [[1, 8]], bytes(8)),
    "record dtype": _array([0, "<f4,<f4", [1]], [[1, 8]], bytes(8)),
    "void dtype": _array([0, "|V8", [1]], [[1, 8]], bytes(8)),
    "sizeless dtype": _array([0, "|S0", [1 << 40]], [[1, 0]], b""),
    "false boolean": _array([0, "|b1", [2]], [[1, 2]], b"\1\2"),
    "array as bytes": _array([0, "|u1", [2]], [[2, 2]], b"ab"),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_whatever_the_worker_sends_the_parent_survives(worker: WorkerProcess, data: bytes) -> None:
    worker.start()
    pid = worker.pid
    assert pid is not None
    with pytest.raises(EngineCrashError):
        worker.call(["write_raw", data], deadline=Deadline.after(20))
    assert gone(pid)


def test_half_an_answer_is_waited_for_until_the_deadline(worker: WorkerProcess) -> None:
    worker.start()
    half = _framed(_body([True, 1]))[:-1]
    with pytest.raises(DeadlineError):
        worker.call(["write_raw", half], deadline=Deadline.after(0.3))
    assert worker.call(["echo", 1]) == 1


def test_an_answer_nobody_asked_for_does_not_meet_the_next_call(worker: WorkerProcess) -> None:
    assert worker.call(["answer_twice", 2]) == "genuine"
    # Seen before the call: another process answers. Seen during the call: a crash.
    try:
        assert worker.call(["echo", "asked"]) == "asked"
    except EngineCrashError:
        assert worker.call(["echo", "asked"]) == "asked"


def test_words_of_the_worker_arrive_printable_and_short(worker: WorkerProcess) -> None:
    with pytest.raises(InputError) as caught:
        worker.call(["refuse", "\x1b[2J\r\n" + "x" * 100_000])
    assert caught.value.message.isprintable()
    assert len(caught.value.message) <= 2000


def test_the_memory_limit_is_an_error_of_its_own_and_the_process_is_replaced() -> None:
    with WorkerProcess("support.workers:make", memory_limit=200 << 20) as worker:
        pid = worker.call(["pid"])
        assert worker.call(["allocate", 50 << 20]) == 1
        assert worker.call(["pid"]) == pid
        with pytest.raises(MemoryLimitError):
            worker.call(["allocate", 300 << 20])
        assert worker.call(["pid"]) != pid


def test_a_payload_above_the_memory_limit_is_told_as_such() -> None:
    with WorkerProcess("support.workers:make", memory_limit=200 << 20) as worker:
        with pytest.raises(MemoryLimitError, match=str(200 << 20)):
            worker.call(["echo", np.zeros(300 << 20, dtype=np.uint8)])
        assert worker.call(["echo", 1]) == 1


def test_running_out_slowly_in_many_small_pieces_is_told_as_such() -> None:
    with WorkerProcess("support.workers:make", memory_limit=200 << 20) as worker:
        with pytest.raises(MemoryLimitError):
            worker.call(["hoard"])
        assert worker.call(["echo", 1]) == 1


def test_dying_near_the_memory_limit_is_put_down_to_it() -> None:
    with WorkerProcess("support.workers:make", memory_limit=200 << 20) as worker:
        with pytest.raises(MemoryLimitError):
            worker.call(["abort_holding", 130 << 20])
        with pytest.raises(EngineCrashError, match="SIGABRT") as caught:
            worker.call(["abort_holding", 1 << 20])
        assert str(200 << 20) in caught.value.hint


def test_the_child_stands_alone(worker: WorkerProcess, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        open_there = worker.call(["descriptors"])
    assert len(open_there) == 1
    assert open_there[0].startswith("socket:")
    facts = worker.call(["facts"])
    assert facts["session"]
    assert facts["group"]
    assert facts["ignores"]
    assert facts["threads"] == os.environ.get("OMP_NUM_THREADS", "1")


def test_a_module_in_the_working_directory_does_not_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy.py", "msgspec.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    with WorkerProcess("support.workers:make") as worker:
        assert worker.call(["echo", 1]) == 1


def test_the_kill_reaches_the_childs_own_children(worker: WorkerProcess) -> None:
    grandchild = worker.call(["grandchild"])
    assert running(grandchild)
    worker.kill()
    assert gone(grandchild)


def test_kill_from_another_thread_ends_the_call(worker: WorkerProcess) -> None:
    worker.start()
    timer = threading.Timer(0.1, worker.kill)
    timer.start()
    with pytest.raises(EngineCrashError):
        worker.call(["hang"])
    timer.join()
    assert worker.call(["echo", 1]) == 1


def test_a_connection_closed_by_another_thread_ends_the_call(worker: WorkerProcess) -> None:
    """As at the interpreter's end, such as Ctrl-C while a server loads: no foreign exception."""
    worker.start()
    assert worker._finalizer is not None
    timer = threading.Timer(0.2, worker._finalizer)
    timer.start()
    with pytest.raises(EngineCrashError):
        worker.call(["hang"])
    timer.join()


def test_calls_of_many_threads_get_their_own_answers(worker: WorkerProcess) -> None:
    wrong: list[int] = []

    def ask(number: int) -> None:
        wrong.extend(n for n in range(number, 2000, 8) if worker.call(["echo", n]) != n)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_waiting_for_ones_turn_ends_at_the_deadline(worker: WorkerProcess) -> None:
    def hang() -> None:
        with pytest.raises(EngineCrashError):
            worker.call(["hang"])

    worker.start()
    thread = threading.Thread(target=hang)
    thread.start()
    while not worker._turn.locked():
        time.sleep(0.001)
    with pytest.raises(DeadlineError, match="busy"):
        worker.call(["echo", 1], deadline=Deadline.after(0.1))
    worker.kill()
    thread.join()


def test_a_child_outlives_the_thread_that_started_it(worker: WorkerProcess) -> None:
    thread = threading.Thread(target=worker.start)
    thread.start()
    thread.join()
    pid = worker.pid
    time.sleep(0.1)
    assert worker.call(["pid"]) == pid


def test_close_leaves_nothing(worker: WorkerProcess) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    pid = worker.call(["pid"])
    worker.close()
    assert not Path(f"/proc/{pid}").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    worker.close()


def test_a_forgotten_worker_is_killed_with_its_object() -> None:
    worker = WorkerProcess("support.workers:make")
    pid = worker.call(["pid"])
    del worker
    gc.collect()
    assert gone(pid)


def test_ctrl_c_in_the_parent_does_not_mix_up_answers(worker: WorkerProcess) -> None:
    worker.start()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        worker.call(["hang"], deadline=Deadline.after(20))
    timer.join()
    assert worker.call(["echo", "mine"]) == "mine"


def test_a_connection_closed_by_a_living_worker_is_a_crash(worker: WorkerProcess) -> None:
    pid = worker.call(["pid"])
    with pytest.raises(EngineCrashError, match="closed its connection"):
        worker.call(["close_connection"])
    assert gone(pid)


def test_a_death_is_noticed_though_another_holds_the_connection(worker: WorkerProcess) -> None:
    with pytest.raises(EngineCrashError, match="status 4"):
        worker.call(["leave_heir"], deadline=Deadline.after(4))
    assert worker.call(["echo", 1]) == 1


def test_closing_ends_a_process_that_does_not_leave(worker: WorkerProcess) -> None:
    pid = worker.call(["pid"])
    os.kill(pid, signal.SIGSTOP)
    worker.close()
    assert not Path(f"/proc/{pid}").exists()


def test_a_forked_copy_of_the_parent_gets_a_process_of_its_own(worker: WorkerProcess) -> None:
    pid = worker.call(["pid"])
    copy = os.fork()
    if copy == 0:
        status = 1
        try:
            own = worker.call(["pid"], deadline=Deadline.after(20))
            worker.close()
            status = 0 if own != pid and not worker.alive else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 0
    assert worker.call(["pid"]) == pid


def test_many_kills_leave_no_descriptor_process_or_thread(worker: WorkerProcess) -> None:
    def resources() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    worker.start()
    before = resources()
    pids = []
    for _ in range(count(5, 200)):
        pids.append(worker.call(["pid"]))
        worker.kill()
        assert gone(pids[-1])
    worker.start()
    assert resources() == before
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


PARENT = """
import sys, time
from interlock.kernel.process import WorkerProcess
worker = WorkerProcess("support.workers:make")
print(worker.call(["pid"]), flush=True)
if sys.argv[1] == "busy":
    worker.call(["hang"])
elif sys.argv[1] == "idle":
    time.sleep(3600)
"""


@pytest.mark.parametrize("doing", ["busy", "idle"])
def test_the_child_dies_with_a_killed_parent(doing: str) -> None:
    with _parent(doing) as parent:
        pid = _first_line(parent)
        time.sleep(0.1)
        assert running(pid)
        parent.kill()
    assert gone(pid)


def test_the_child_dies_with_a_parent_that_leaves_without_closing() -> None:
    with _parent("leave") as parent:
        pid = _first_line(parent)
        assert parent.wait(20) == 0
        assert parent.stderr is not None
        assert parent.stderr.read() == b""
    assert gone(pid)


def _parent(doing: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PARENT, doing],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _first_line(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())
