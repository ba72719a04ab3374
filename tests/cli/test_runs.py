"""`interlock runs`, called as a person or a script calls it."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from interlock.cli.app import run as call
from interlock.kernel.journal import Item, Journal
from interlock.kernel.outcome import Outcome, Status

RUNS = ["one", "two", "three"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three runs: `one` and `two` done, `three` interrupted."""
    path = tmp_path / "data" / "journal.sqlite"
    with Journal.open(path) as journal:
        for name in RUNS:
            items = [Item("a", "a prompt"), Item("b", "another")]
            run = journal.create_run(f"test {name}", config={"tau": 0.5}, items=items, run_id=name)
            run.record([("a", Outcome(Status.ACCEPTED, value="an answer"))])
            if name != "three":
                run.record([("b", Outcome(Status.REFUSED))])
                run.finish("done")
    return path


class Command:
    """Calls `interlock runs`, answers its question, and keeps what it printed."""

    def __init__(
        self,
        path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.path, self.capsys, self.monkeypatch = path, capsys, monkeypatch

    def __call__(self, *arguments: str, answer: str | None = None, exit_code: int = 0) -> str:
        def ask(prompt: str = "", *_: Any, **__: Any) -> str:
            assert answer is not None, f"it asked {prompt!r}"
            return answer

        self.monkeypatch.setattr("click.termui.visible_prompt_func", ask)
        self.capsys.readouterr()
        assert call(["runs", *arguments, "--journal", str(self.path)]) == exit_code
        output = self.capsys.readouterr()
        return output.out + output.err

    def json(self, *arguments: str, exit_code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", exit_code=exit_code))

    def left(self) -> list[str]:
        with Journal.open(self.path) as journal:
            return [run.run_id for run in journal.runs()]


@pytest.fixture
def runs(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.setenv("COLUMNS", "200")
    return Command(path, capsys, monkeypatch)


def test_list(runs: Command) -> None:
    text = runs("list")
    for name in RUNS:
        assert f"test {name}" in text
    assert "1 accepted, 1 refused" in text
    document = runs.json("list")
    assert [run["run_id"] for run in document["runs"]] == RUNS
    assert [run["state"] for run in document["runs"]] == ["done", "done", "interrupted"]
    assert document["runs"][2]["pending"] == 1


def test_show(runs: Command) -> None:
    text = runs("show", "three")
    assert "interrupted" in text
    assert "0.5" in text
    document = runs.json("show", "three")
    assert document["counts"] == {"accepted": 1, "flagged": 0, "refused": 0, "failed": 0}
    assert document["settings"] == {"tau": 0.5}
    assert "no run 'absent'" in runs("show", "absent", exit_code=1)
    assert runs.json("show", "absent", exit_code=1)["error"]["code"] == "run_not_found"


def test_neither_list_nor_show_prints_prompts_or_answers(runs: Command) -> None:
    for arguments in (["list"], ["show", "one"], ["list", "--json"], ["show", "one", "--json"]):
        text = runs(*arguments)
        assert "a prompt" not in text
        assert "an answer" not in text


@pytest.mark.parametrize("age", ["999999w", "3x", "-1d", ""])
def test_an_age_out_of_range_is_a_usage_error(runs: Command, age: str) -> None:
    assert "--older-than" in runs("prune", "--older-than", age, "--dry-run", exit_code=2)
    assert runs.left() == RUNS


def test_export(runs: Command, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in runs("export", "three").splitlines()]
    assert [line["key"] for line in lines] == ["a", "b"]
    assert lines[0]["outcome"]["value"] == "an answer"
    assert runs.json("export", "three") == {"run_id": "three", "items": lines}

    target = tmp_path / "three.jsonl"
    assert "2 items written" in runs("export", "three", "--output", str(target))
    assert [json.loads(line) for line in target.read_text().splitlines()] == lines
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    document = runs.json("export", "three", "-o", str(target))
    assert document == {"run_id": "three", "path": str(target), "items": 2}


def test_export_as_json_keeps_every_kind_of_line_end_in_a_text(runs: Command) -> None:
    text = "a\nb\r\nc\x0bd\x0ce\x1cf\x1dg\x1eh\x85i\u2028j\u2029k"
    with Journal.open(runs.path) as journal:
        journal.create_run("lines", config={}, items=[Item("a", text)], run_id="lines").close()
    (item,) = runs.json("export", "lines")["items"]
    assert item["payload"] == text


def test_delete_asks_and_takes_no_for_an_answer(runs: Command) -> None:
    assert "nothing was deleted" in runs("delete", "one", answer="n", exit_code=1)
    assert runs.left() == RUNS
    text = runs("delete", "one", "three", answer="y")
    assert "deleted one" in text
    assert "deleted three" in text
    assert runs.left() == ["two"]


def test_delete_of_a_missing_run_deletes_none(runs: Command) -> None:
    runs("delete", "one", "absent", "--yes", exit_code=1)
    assert runs.left() == RUNS


def test_delete_with_json_never_asks(runs: Command) -> None:
    assert runs.json("delete", "one", exit_code=2)["error"]["hint"] == "add --yes"
    assert runs.left() == RUNS
    assert runs.json("delete", "one", "one", "--yes") == {"deleted": ["one"]}
    assert runs.left() == ["two", "three"]


@pytest.mark.parametrize("arguments", [["delete", "one"], ["prune", "--keep", "0"]])
@pytest.mark.parametrize("redirection", ["</dev/null", "<&-"])
def test_where_nobody_answers_the_option_is_named(
    runs: Command, path: Path, arguments: list[str], redirection: str
) -> None:
    command = [sys.executable, "-m", "interlock", "runs", *arguments, "--journal", str(path)]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *command], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.endswith(
        "interlock: nobody answers here\n  hint: --yes deletes without asking\n"
    )
    assert runs.left() == RUNS


def test_an_interruption_of_the_question_deletes_none(
    runs: Command, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    def interrupted(*_: Any, **__: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("click.termui.visible_prompt_func", interrupted)
    assert call(["runs", "delete", "one", "--journal", str(path)]) == 130
    assert runs.left() == RUNS


def test_a_run_that_is_held_is_not_deleted(runs: Command) -> None:
    with (
        Journal.open(runs.path) as journal,
        journal.resume_run("three", config={"tau": 0.5}, items=None),
    ):
        assert "held by process" in runs("delete", "three", "--yes", exit_code=1)
        assert "held by process" in runs("show", "three")
    assert runs.left() == RUNS


def test_prune(runs: Command) -> None:
    assert runs.json("prune", "--keep", "1", "--dry-run") == {"would_delete": ["one"]}
    assert runs("prune", "--keep", "0", "--dry-run") == "one\ntwo\n"
    assert runs("prune", "--older-than", "1d") == "nothing to delete\n"
    assert runs.left() == RUNS
    assert runs.json("prune", "--keep", "1", exit_code=2)["error"]["hint"] == "add --yes"
    assert "nothing was deleted" in runs("prune", "--keep", "0", answer="n", exit_code=1)
    assert runs.left() == RUNS
    assert "deleted one" in runs("prune", "--keep", "1", answer="y")
    assert runs.json("prune", "--older-than", "0m", "--unfinished", "--yes") == {
        "deleted": ["two", "three"]
    }
    assert runs.left() == []
    assert runs("list").startswith("no runs in")


@pytest.mark.parametrize(
    "arguments", [[], ["--older-than", "soon"], ["--older-than", "-1d"], ["--keep", "-1"]], ids=str
)
def test_prune_needs_to_know_what(runs: Command, arguments: list[str]) -> None:
    runs("prune", *arguments, exit_code=2)
    assert runs.left() == RUNS


@pytest.mark.parametrize(
    "arguments", ["list", "show one", "export one", "delete one --yes", "prune --keep 1"]
)
def test_a_missing_journal_is_an_error_and_is_not_created(
    runs: Command, tmp_path: Path, arguments: str
) -> None:
    runs.path = tmp_path / "absent" / "journal.sqlite"
    assert "there is no journal at" in runs(*arguments.split(), exit_code=1)
    assert runs.json(*arguments.split(), exit_code=1)["error"]["code"] == "run_not_found"
    assert not runs.path.parent.exists()


def test_without_a_path_it_is_the_one_in_the_users_data(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "platformdirs.user_data_path", lambda name: {"interlock": path.parent}[name]
    )
    assert call(["runs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["journal"] == str(path)


def test_the_help_says_what_a_journal_holds_and_who_may_read_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(["runs", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "holds the prompts and answers" in text
    assert "readable by its owner only" in text


@pytest.mark.parametrize("journal", ["{}/\udcff.sqlite", "{}/loop", "~no-such-user/j"])
def test_an_odd_path_ends_in_one_document(
    journal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert call(["runs", "list", "--json", "--journal", journal.format(tmp_path)]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] in ("run_not_found", "storage")


def test_an_id_that_is_not_unicode_text_is_not_found(runs: Command) -> None:
    assert runs.json("show", "\udcff", exit_code=1)["error"]["code"] == "run_not_found"
