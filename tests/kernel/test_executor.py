"""Tasks go in, and each comes back once: answered, with the work's error, or lost with a worker."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interlock.kernel.drive import run_items
from interlock.kernel.errors import ConfigError, EngineCrashError, InterlockError
from interlock.kernel.executor import LocalExecutor
from interlock.kernel.outcome import Outcome, Status
from interlock.kernel.task import Completed, Task

WORK = "support.work:obedient"
END = 60.0


def square(items: Sequence[int]) -> list[Outcome[int]]:
    return [Outcome(Status.ACCEPTED, value=item * item) for item in items]


def task(number: int, *items: Any) -> Task:
    return Task(number, tuple(f"k{number}.{n}" for n in range(len(items))), items)


def collect(executor: LocalExecutor, tasks: int) -> dict[int, Completed]:
    """All of `tasks` completions, by task; each must come once."""
    found: dict[int, Completed] = {}
    until = time.monotonic() + END
    while len(found) < tasks:
        assert time.monotonic() < until, f"only {len(found)} of {tasks} tasks came back"
        for done in executor.completed(1.0):
            assert done.task.id not in found
            found[done.task.id] = done
    return found


def values(done: Completed) -> list[Any]:
    assert done.outcomes is not None, done
    return [outcome.value for outcome in done.outcomes]


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_answer_each_task_once(workers: int) -> None:
    with LocalExecutor(square, workers=workers, queued=50) as executor:
        for number in range(40):
            executor.submit(task(number, number, number + 1))
        found = collect(executor, 40)
    assert {n: values(done) for n, done in found.items()} == {
        n: [n * n, (n + 1) ** 2] for n in range(40)
    }


def test_it_takes_no_more_than_its_capacity() -> None:
    release = threading.Event()

    def wait(items: Sequence[int]) -> list[Outcome[int]]:
        release.wait(END)
        return square(items)

    with LocalExecutor(wait, workers=2) as executor:
        assert executor.capacity == 4
        for number in range(4):
            executor.submit(task(number, number))
        with pytest.raises(ValueError, match="the capacity"):
            executor.submit(task(4, 4))
        assert executor.completed(0.01) == []
        release.set()
        collect(executor, 4)
        assert executor.completed(None) == [], "nothing is in flight, so nothing is waited for"


def raises_exit(items: Sequence[Any]) -> list[Outcome[Any]]:
    raise SystemExit("text that must not be kept")


def raises_ours(items: Sequence[Any]) -> list[Outcome[Any]]:
    raise EngineCrashError("text that must not be kept")


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (raises_exit, "raised SystemExit"),
        (raises_ours, "engine_crash"),
        (lambda items: square(items)[1:], "the work returned 1 outcomes for 2 items"),
        (lambda items: list(items), "the work returned int where an Outcome was due"),
        (lambda items: None, "raised TypeError"),
    ],
)
def test_broken_work_is_the_tasks_error_without_its_text(
    work: Callable[[Sequence[Any]], Any], error: str
) -> None:
    with LocalExecutor(work) as executor:
        executor.submit(task(0, 1, 2))
        found = collect(executor, 1)[0]
    assert (found.error, found.outcomes, found.lost) == (error, None, None)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"work": square, "workers": 0}, "workers is 0"),
        ({"work": square, "queued": -1}, "queued is -1"),
        ({"work": WORK, "kind": "processes", "time_limit": 0.0}, "time_limit is 0.0"),
        ({"work": WORK, "kind": "processes", "memory_limit": 0}, "memory_limit is 0"),
        ({"work": square, "kind": "fibres"}, "kind is 'fibres'"),
        ({"work": square, "kind": "processes"}, "work is a callable"),
        ({"work": square, "time_limit": 1.0}, "a thread cannot be killed"),
        ({"work": square, "options": {"factor": 2}}, "options are for a named factory"),
        ({"work": "support.work"}, "must have the form"),
        ({"work": "support.work:absent"}, "cannot be loaded"),
        ({"work": "support.absent:work"}, "cannot be loaded"),
        ({"work": "support.work:refuses_to_load"}, "the model is missing"),
        ({"work": "support.work:refuses_to_load", "kind": "processes"}, "the model is missing"),
        ({"work": "support.work:absent", "kind": "processes"}, "cannot be loaded"),
    ],
)
def test_what_cannot_work_is_refused_before_any_item(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        LocalExecutor(**options)


def test_a_process_that_dies_while_it_loads_is_told_at_once() -> None:
    with pytest.raises(EngineCrashError):
        LocalExecutor("support.work:dies_while_loading", kind="processes")


def test_processes_answer_numbers_and_arrays() -> None:
    with LocalExecutor(WORK, kind="processes", options={"factor": 3}) as executor:
        executor.submit(task(0, 2, np.array([1.0, np.nan])))
        found = values(collect(executor, 1)[0])
    assert found[0] == 6
    np.testing.assert_array_equal(found[1], [3.0, np.nan])


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (object(), "worker: input"),
        (1j, "worker: input"),
        ("\ud800", "worker: input"),
        ("object", "record: input"),
    ],
)
def test_what_cannot_cross_costs_its_own_item(odd: Any, reason: str) -> None:
    with LocalExecutor(WORK, kind="processes") as executor:
        executor.submit(task(0, 1, odd, 2))
        executor.submit(task(1, odd))
        found = collect(executor, 2)
    one, bad, two = found[0].outcomes or ()
    assert (one.value, two.value) == (1, 2)
    assert bad.reasons == (reason,)
    assert [outcome.reasons for outcome in found[1].outcomes or ()] == [(reason,)]


def test_large_outcomes_come_back_from_a_process() -> None:
    texts = ["text of 50 kB"] * 200
    with LocalExecutor(WORK, kind="processes") as executor:
        executor.submit(task(0, "large"))
        executor.submit(task(1, *texts))
        found = collect(executor, 2)
    np.testing.assert_array_equal(values(found[0])[0], np.arange(1_000_000.0))
    assert [len(text) for text in values(found[1])] == [50_000] * len(texts)


def test_a_process_that_dies_costs_its_own_task_and_is_replaced() -> None:
    with LocalExecutor(WORK, workers=2, kind="processes", queued=8) as executor:
        for number, item in enumerate((1, "die", 2, "raise", "exit", 3)):
            executor.submit(task(number, item))
        found = collect(executor, 6)
    assert [values(found[n]) for n in (0, 2, 5)] == [[1], [2], [3]]
    assert isinstance(found[1].lost, EngineCrashError)
    assert (found[3].error, found[4].error) == ("raised ValueError", "raised SystemExit")


def test_a_process_killed_between_tasks_is_replaced() -> None:
    with LocalExecutor(WORK, kind="processes") as executor:
        executor.submit(task(0, "pid"))
        pid = values(collect(executor, 1)[0])[0]
        os.kill(pid, signal.SIGKILL)
        executor.submit(task(1, "pid"))
        again = collect(executor, 1)[1]
        # Killed that recently, it may still have taken the task with it.
        assert again.lost is not None or values(again)[0] != pid
        executor.submit(task(2, 5))
        assert values(collect(executor, 1)[2]) == [5]


@pytest.mark.parametrize(
    ("item", "limits", "code"),
    [
        ("hang", {"time_limit": 2.0}, "deadline"),
        ("hoard", {"memory_limit": 400 << 20}, "memory_limit"),
    ],
)
def test_limits_are_kept_by_killing(item: str, limits: dict[str, Any], code: str) -> None:
    with LocalExecutor(WORK, kind="processes", **limits) as executor:
        executor.submit(task(0, item))
        executor.submit(task(1, 7))
        found = collect(executor, 2)
    assert isinstance(found[0].lost, InterlockError)
    assert found[0].lost.code == code
    assert values(found[1]) == [7]


def test_a_worker_that_cannot_start_is_told_to_the_driver(tmp_path: Path) -> None:
    """Only the first worker starts at once; here the second finds its model gone."""
    options = {"path": str(tmp_path / "model")}
    Path(options["path"]).touch()
    executor = LocalExecutor(
        "support.work:loads_once", workers=2, kind="processes", options=options
    )
    # The first worker is never free for both.
    for number in range(2):
        executor.submit(task(number, "hang"))
    with executor:
        with pytest.raises(ConfigError, match="the model is missing"):
            collect(executor, 2)
        executor.cancel()


def test_cancelling_ends_processes_that_hang() -> None:
    executor = LocalExecutor(WORK, workers=2, kind="processes")
    for number in range(4):
        executor.submit(task(number, "hang"))
    executor.completed(0.5)
    children = [lane._worker.pid for lane in executor._lanes]  # type: ignore[attr-defined]
    executor.cancel()
    executor.close()
    for pid in filter(None, children):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(ValueError, match="no more tasks"):
        executor.submit(task(9, 1))


def test_cancelling_leaves_a_thread_that_hangs_behind() -> None:
    release = threading.Event()

    def wait(items: Sequence[int]) -> list[Outcome[int]]:
        release.wait(END)
        return square(items)

    executor = LocalExecutor(wait)
    executor.submit(task(0, 1))
    executor.cancel()
    executor.close()
    assert executor.completed(None) == []
    release.set()


def test_closing_waits_once_for_all_threads_that_hang() -> None:
    workers = 100
    running, release = threading.Barrier(workers + 1), threading.Event()

    def wait(items: Sequence[int]) -> list[Outcome[int]]:
        running.wait(END)
        release.wait(2 * END)
        return square(items)

    executor = LocalExecutor(wait, workers=workers)
    for number in range(workers):
        executor.submit(task(number, number))
    running.wait(END)
    executor.cancel()
    closing = threading.Thread(target=executor.close, daemon=True)
    closing.start()
    # The deadline stands between one wait and one for each thread, which takes minutes.
    closing.join(END / 2)
    assert not closing.is_alive()
    release.set()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_run_items_gives_every_outcome(ordered: bool, batch: int) -> None:
    def late(items: Sequence[int]) -> list[Outcome[int]]:
        time.sleep(0.002 if items[0] % 3 else 0.0)
        return square(items)

    found: list[Any] = [
        outcome.value
        for outcome in run_items(late, range(50), workers=4, batch=batch, ordered=ordered)
    ]
    assert (found if ordered else sorted(found)) == [n * n for n in range(50)]


def test_run_items_in_processes_survives_a_killer() -> None:
    outcomes = list(
        run_items(WORK, [1, 2, "die", 3], workers=2, kind="processes", batch=4, ordered=True)
    )
    assert [o.status for o in outcomes] == [Status.ACCEPTED] * 2 + [Status.FAILED, Status.ACCEPTED]
    assert outcomes[2].reasons == ("worker: engine_crash",)
    assert outcomes[2].steps[0].attempts == 2


def test_run_items_reads_no_further_than_it_must() -> None:
    read = []

    def source() -> Any:
        for number in range(100_000):
            read.append(number)
            yield number

    results = run_items(square, source(), workers=2, ordered=True)
    for number in range(100):
        assert next(results).value == number * number
        # In flight, in the window behind the oldest, and one looked at.
        assert len(read) <= number + 1 + 4 * 4 + 4 + 1
    results.close()


def test_run_items_refuses_wrong_options_at_the_call() -> None:
    with pytest.raises(ConfigError, match="batch is 0"):
        run_items(square, [1], batch=0)


def test_run_items_passes_on_what_the_source_raises() -> None:
    def source() -> Any:
        yield 1
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="gone"):
        list(run_items(square, source()))
