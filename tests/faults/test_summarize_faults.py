"""Hostile trees, broken instances and full disks: each a clear outcome, nothing lost."""

import itertools
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.source_trees import MODULE, small_tree, write_tree
from support.summary_models import NamingModel

from interlock.errors import ConfigError, DeadlineError, InputError, StorageError
from interlock.kernel.executor import LocalExecutor
from interlock.kernel.journal import Journal
from interlock.kernel.outcome import Outcome
from interlock.summarize import Options, Selection, Summarized, summarize
from interlock.summarize.asked import Written
from interlock.summarize.tree import read_tree

OPTIONS = Options(view="full", chunk_lines=40, instances=2)


def summarised(tree: Path, output: Path, model: Any = None, **named: Any) -> Summarized:
    return summarize(tree, output, OPTIONS, model=model or NamingModel(), **named)


def test_a_line_of_five_megabytes_is_cut_and_flagged(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = ("".join(name) for name in itertools.product(letters, repeat=4))
    line = " ".join(f"word_{name}_word" for name in itertools.islice(names, 334_000))
    assert len(line) > 5_000_000
    write_tree(tmp_path / "tree", {"data.txt": line, "a.py": MODULE})
    done = summarised(tmp_path / "tree", tmp_path / "out")
    key = "chunk data.txt:1-1"
    outcome = done.finished.outcomes[key]
    assert outcome.status == "flagged"
    assert "characters: the budget is" in outcome.steps[-1].reason
    assert "characters: the budget is" in done.finished.plan.nodes[key].notes[0]


def test_a_chunk_longer_than_the_context_is_split(tmp_path: Path) -> None:
    text = "".join(f"value_{n} = compute_{n}(argument_{n})\n" for n in range(40))
    write_tree(tmp_path / "tree", {"a.py": text})
    done = summarised(tmp_path / "tree", tmp_path / "out", NamingModel(context=340))
    chunks = done.finished.plan.level("chunk")
    assert len(chunks) > 1
    assert all(node.tokens is not None and node.tokens <= 100 for node in chunks)
    assert all(outcome.status.usable for outcome in done.finished.outcomes.values())


def test_a_context_too_small_for_anything_is_said_before_work_starts(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", {"a.py": MODULE})
    with pytest.raises(ConfigError, match="tokens are left for an input"):
        summarised(tmp_path / "tree", tmp_path / "out", NamingModel(context=200))
    assert not (tmp_path / "out").exists()


def test_invalid_utf8_is_read_as_latin1_and_noted(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", {"a.py": "def größe(): pass\n".encode("latin-1")})
    done = summarised(tmp_path / "tree", tmp_path / "out")
    assert "not UTF-8: read as Latin-1" in done.finished.plan.nodes["chunk a.py:1-1"].notes


def test_symbolic_links_are_not_followed_so_a_loop_ends_nothing(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", {"a/b.py": MODULE})
    (tree / "a" / "loop").symlink_to(tree)
    (tree / "self").symlink_to("self")
    (tree / "gone.py").symlink_to("nowhere")
    (tree / "outside").symlink_to("/etc")
    done = summarised(tree, tmp_path / "out")
    assert [file.file.path for file in done.finished.plan.files] == ["a/b.py"]
    skipped = {item.path: item.reason for item in done.finished.plan.tree.skipped}
    assert skipped == dict.fromkeys(("a/loop", "gone.py", "outside", "self"), "symbolic link")


def test_a_root_that_is_a_loop_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("self")
    with pytest.raises(InputError, match="PATH"):
        summarised(tmp_path / "self", tmp_path / "out")


def test_pipes_and_unreadable_files_are_left_out_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_tree(tmp_path / "tree", {"a.py": MODULE, "closed.py": MODULE})
    os.mkfifo(tree / "pipe.py")
    opened = os.open

    def deny(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        # Permissions do not bind root, whom tests may run as.
        if str(path).endswith("closed.py"):
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", deny)
    skipped = {item.path: item.reason for item in read_tree(tree).skipped}
    assert skipped == {
        "closed.py": "cannot be read: Permission denied",
        "pipe.py": "not a regular file",
    }


def test_a_file_that_changes_each_time_it_is_read_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_tree(tmp_path / "tree", {"a.py": MODULE, "log.py": MODULE})
    stat = os.fstat
    touched = 0

    def growing(descriptor: int) -> os.stat_result:
        nonlocal touched
        found = stat(descriptor)
        if found.st_ino == (tree / "log.py").stat().st_ino:
            touched += 1
            with (tree / "log.py").open("a") as file:
                file.write(f"x = {touched}\n")
        return found

    monkeypatch.setattr(os, "fstat", growing)
    tree_read = read_tree(tree)
    assert [file.path for file in tree_read.files] == ["a.py"]
    assert [item.reason for item in tree_read.skipped] == ["changed while it was read"]


def test_a_file_that_changes_once_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_tree(tmp_path / "tree", {"a.py": MODULE})
    stat = os.fstat
    calls = 0

    def once(descriptor: int) -> os.stat_result:
        nonlocal calls
        calls += 1
        if calls == 2:
            with (tree / "a.py").open("a") as file:
                file.write("x = 1\n")
        return stat(descriptor)

    monkeypatch.setattr(os, "fstat", once)
    [file] = read_tree(tree).files
    assert file.lines[-1] == "x = 1"


def test_an_edit_during_the_run_does_not_mix_into_it(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")

    def edit(key: str, outcome: Outcome[Any]) -> None:
        (tree / "words" / "handlers.py").write_text("def other(): pass\n")

    done = summarised(tree, tmp_path / "out", on_result=edit)
    texts = [node.asked.ground for node in done.finished.plan.level("chunk")]
    assert not any("other" in text for text in texts)
    again = summarised(tree, tmp_path / "out")
    assert "chunk words/handlers.py:1-1" not in again.finished.reused


def test_an_instance_that_hangs_is_over_time_and_costs_its_own_chunk(tmp_path: Path) -> None:
    class Hanging(NamingModel):
        def write(self, messages: Any, *, seed: int | None, deadline: Any) -> Written:
            if "TcpListener::bind" in messages[-1].content:
                # As the engine does: it gives up when the deadline has passed.
                assert deadline.at is not None
                raise DeadlineError("no answer in time")
            return super().write(messages, seed=seed, deadline=deadline)

    tree = small_tree(tmp_path / "tree")
    done = summarised(tree, tmp_path / "out", Hanging())
    hung = {key for key, outcome in done.finished.outcomes.items()
            if any(step.result == "over_time" for step in outcome.steps)}  # fmt: skip
    assert hung == {"chunk net/acceptor.rs:1-15"}
    assert all(outcome.status.usable for outcome in done.finished.outcomes.values())


def killing_work(marker: str, always: bool) -> Any:
    """Work whose process is killed at the chunk that holds `Acceptor`: once, or every time."""
    from interlock.summarize.route import Summarizer

    work = Summarizer(NamingModel())

    def killed(items: Any) -> Any:
        first = not Path(marker).exists()
        if any("Acceptor" in item["ground"] for item in items) and (always or first):
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return work(items)

    return killed


@pytest.mark.parametrize("always", [False, True])
def test_an_instance_that_is_killed_costs_at_most_its_own_chunk(
    tmp_path: Path, always: bool
) -> None:
    tree = write_tree(
        tmp_path / "tree", {"a/a.py": MODULE, "b/b.py": "class Acceptor:\n    limit = 3\n"}
    )
    options = {"marker": str(tmp_path / "marker"), "always": always}
    work = "faults.test_summarize_faults:killing_work"
    with LocalExecutor(work, workers=2, kind="processes", queued=0, options=options) as executor:
        done = summarised(tree, tmp_path / "out", executor=executor)
    outcomes = done.finished.outcomes
    assert outcomes["chunk a/a.py:1-15"].status.usable
    assert outcomes["chunk b/b.py:1-2"].status.usable is not always
    if always:
        assert "engine_crash" in outcomes["chunk b/b.py:1-2"].reasons[0]
        # The next run asks again for what failed, and for nothing else but what is above it.
        again = summarised(tree, tmp_path / "out")
        anew = set(again.finished.plan.nodes) - again.finished.reused
        assert anew == {"chunk b/b.py:1-2", "file b/b.py", "folder b", "repository"}
        assert all(outcome.status.usable for outcome in again.finished.outcomes.values())


FULL_DISK = """
import resource, sys
from pathlib import Path
from support.summary_models import NamingModel
from interlock.errors import StorageError
from interlock.summarize import Options, summarize

limit = int(sys.argv[3])
if limit:
    # A write beyond the limit fails as one to a full disk does, root or not.
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    summarize(
        Path(sys.argv[1]), Path(sys.argv[2]), Options(view="full", chunk_lines=4),
        model=NamingModel(), on_result=lambda key, _: print(key, flush=True),
    )
except StorageError as error:
    print(f"storage: {error.message}", file=sys.stderr)
    sys.exit(1)
"""


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY

    def start(limit: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", FULL_DISK, str(tree), str(tmp_path / "out"), str(limit)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    full = start(90_000)
    assert full.returncode == 1, full.stderr
    assert "storage:" in full.stderr
    assert "Traceback" not in full.stderr
    with Journal.open(tmp_path / "out" / "journal.sqlite") as journal:
        kept = {key for run in journal.runs() for key, _ in journal.outcomes(run.run_id)}
    assert set(full.stdout.split("\n")) - {""} <= kept
    freed = start(0)
    assert freed.returncode == 0, freed.stderr
    assert not kept & set(freed.stdout.split("\n"))
    assert (tmp_path / "out" / "summary.json").exists()


def test_outputs_that_cannot_be_written_are_a_storage_error_and_the_journal_stays(
    tmp_path: Path,
) -> None:
    tree = small_tree(tmp_path / "tree")
    output = tmp_path / "out"
    # What a writer that was killed may leave is a file; a folder cannot be replaced by one.
    (output / ".summary.json.partial").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"summary\.json"):
        summarised(tree, output)
    (output / ".summary.json.partial").rmdir()
    model = NamingModel()
    summarised(tree, output, model)
    assert model.asked == []


def test_an_empty_tree_is_an_input_error_that_says_why(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", {"logo.png": b"\x89PNG\0\0\0"})
    with pytest.raises(InputError, match=r"nothing in PATH .* is to be summarised: binary"):
        summarised(tmp_path / "tree", tmp_path / "out")
    chosen = Options(selection=Selection(exclude=("*",)))
    with pytest.raises(InputError, match="excluded"):
        summarize(tmp_path / "tree", tmp_path / "out", chosen, model=None)
