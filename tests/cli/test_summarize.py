"""`interlock summarize`, without a model: counting, estimating, writing, failing well."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.source_trees import MODULE, small_tree, write_tree

from interlock.cli.app import run
from interlock.errors import InterruptedRunError
from interlock.kernel.journal import Item, Journal


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return small_tree(tmp_path / "tree")


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_dry_run_counts_estimates_and_writes_nothing(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["summarize", str(tree), "--output", str(tmp_path / "out"), "--dry-run", "--json"]
    assert run([*arguments, "--chunk-lines", "40"]) == 0
    found = printed(capsys)
    lines = sum(len(file.read_text().splitlines()) for file in tree.rglob("*.*"))
    assert (found["files"], found["lines"], found["chunks"]) == (4, lines, 5)
    assert found["tokens"] > 0
    assert found["seconds"] > 0
    assert not (tmp_path / "out").exists()


def test_summaries_are_written_and_a_second_run_finds_them(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = ["summarize", str(tree), "--output", str(output), "--model", "none", "--json"]
    assert run(arguments) == 0
    first = printed(capsys)
    assert first["counts"] == {"accepted": 11, "flagged": 0, "refused": 0, "failed": 0}
    assert first["contracts"]["success"] == 1.0
    for path in first["outputs"].values():
        assert Path(path).is_file()
    assert run(arguments) == 0
    assert printed(capsys)["reused"] == 11
    assert run([*arguments, "--dry-run"]) == 0
    assert printed(capsys)["reused"] == 11


def test_for_a_person_it_prints_the_summary_and_the_contracts(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["summarize", str(tree), "-o", str(tmp_path / "out"), "--model", "none"]) == 0
    shown = capsys.readouterr().out
    [first, *_] = shown.splitlines()
    assert first.startswith("A project that counts words and accepts connections.")
    assert first.endswith(" (extractive)")
    assert "map.json" in shown
    for name in ("summary.md", "index.html"):
        assert "the model saw" not in (tmp_path / "out" / name).read_text()
    assert "success rate" in shown
    assert "index.html" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "PATH 'missing' cannot be read"),
        (["{tree}", "--chunks", "words"], "'words' is not one of"),
        (["{tree}", "--chunk-lines", "0"], "--chunk-lines"),
        (["{tree}", "--instances", "0"], "--instances"),
        (["{tree}", "--instances", "100000000"], "--instances"),
        (["{tree}", "--isolate", "--memory-limit", "99999999999G"], "--memory-limit is '9999"),
        (["{tree}", "-o", "{tree}"], "--output is the tree itself"),
        (["{tree}", "-o", "{tree}", "--dry-run"], "--output is the tree itself"),
        ([""], "PATH is empty"),
        (["{tree}", "--memory-limit", "1GB"], "--memory-limit is for processes"),
        (["{tree}", "--isolate", "--memory-limit", "much"], "--memory-limit is 'much'"),
        (["https://localhost/a"], "only file://"),
        (["{tree}", "--model-for", "c=x", "--model-for", "C=y"], "--model-for names 'C' twice"),
        (["{tree}", "--model-for", "klingon=mine"], "no language 'klingon'"),
        (["{tree}", "--model-for", "klingon=mine", "--dry-run"], "no language 'klingon'"),
        (["{tree}", "--model", "./absent"], "no model at './absent'"),
        # Told before a model is looked for: opening one takes its time.
        (["missing", "--model", "./absent"], "PATH 'missing' cannot be read"),
    ],
)
def test_a_users_mistake_is_said_and_exits_with_2(
    tree: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [argument.format(tree=tree) for argument in arguments]
    code = run(["summarize", "--model", "none", "-o", str(tmp_path / "out"), *given])
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tree / "journal.sqlite").exists()


@pytest.mark.parametrize("more", [["--dry-run"], ["--model", "./absent"]])
def test_a_users_page_in_the_output_is_told_before_a_model_is_looked_for(
    tree: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tree / "docs", {"index.html": "<p>The user's own.</p>\n"})
    command = ["summarize", str(tree), "-o", str(tree / "docs"), "--model", "none"]
    assert run([*command, *more]) == 2
    told = capsys.readouterr().err
    assert str(tree / "docs" / "index.html") in told
    assert "an empty directory" in told
    assert (tree / "docs" / "index.html").read_text() == "<p>The user's own.</p>\n"


@pytest.mark.parametrize("apart", [False, True])
def test_a_run_under_way_is_told_before_a_model_is_looked_for(
    tree: Path, tmp_path: Path, apart: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    place = tmp_path / "apart.sqlite" if apart else output / "journal.sqlite"
    command = ["summarize", str(tree), "-o", str(output), "--model", "./absent", "--json"]
    items = [Item("repository")]
    with Journal.open(place) as journal, journal.create_run("summarize", config={}, items=items):
        assert run([*command, *(["--journal", str(place)] if apart else [])]) != 0
    error = printed(capsys)["error"]
    assert error["code"] == "run_locked"
    assert "is held by process" in error["message"]
    assert run(command) == 2
    assert printed(capsys)["error"]["message"].startswith("there is no model at")


def test_a_single_files_summary_may_lie_beside_it(tree: Path) -> None:
    source = tree / "README.md"
    assert run(["summarize", str(source), "--model", "none", "-o", str(source.parent)]) == 0
    assert (tree / "summary.json").exists()


def test_a_dry_run_without_the_model_says_how_it_counts(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "out")
    arguments = ["summarize", str(tree), "-o", output, "--model", "./absent", "--dry-run", "--json"]
    assert run(arguments) == 0
    shown = capsys.readouterr()
    assert not json.loads(shown.out)["counted"]
    assert "no tokenizer of ./absent" in shown.err


def test_after_an_interruption_the_hint_is_a_command_that_there_is(
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*given: Any, **named: Any) -> Any:
        raise InterruptedRunError("run 'x' was interrupted")

    monkeypatch.setattr("interlock.summarize.summarize", stopped)
    assert run(["summarize", str(tree), "-o", str(tmp_path / "out"), "--model", "none"]) == 130
    told = capsys.readouterr().err
    assert "run the same command again" in told
    assert "--resume" not in told


def test_the_seeds_mode_keeps_120_characters_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path / "tree", {f"a{n}.py": MODULE for n in range(30)})
    arguments = ["summarize", str(tmp_path / "tree"), "-o", str(tmp_path / "out"), "--json"]
    assert run([*arguments, "--model", "none", "--chunks", "concatenated"]) == 0
    assert printed(capsys)["chunks"] == 2
    document = json.loads((tmp_path / "out" / "summary.json").read_text())
    lines = [line for node in document["nodes"] for line in node["summary"].split("\n")]
    assert max(map(len, lines)) <= 120


def test_a_name_longer_than_a_line_is_whole_where_lines_have_no_limit(tmp_path: Path) -> None:
    name = "count_the_words_of_a_text"
    write_tree(tmp_path / "tree", {"a.py": f"def {name}(text):\n    return len(text.split())\n"})
    output = tmp_path / "out"
    command = ["summarize", str(tmp_path / "tree"), "-o", str(output), "--model", "none"]
    assert run([*command, "--line-width", "20"]) == 0
    document = json.loads((output / "summary.json").read_text())
    said = [node["summary"] for node in document["nodes"] if node["level"] == "chunk"]
    assert said == ["Defines def\ncount_the_words_of_↩\na_text."]
    assert name in (output / "index.html").read_text()
    assert name in (output / "summary.md").read_text().replace("\\", "")


def test_a_source_steers_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steering = "\x1b]0;mine\x07\x1b[2J\x9b1m\u202e"
    write_tree(
        tmp_path / "tree",
        {
            "README.md": f"# {steering}\n\nThe project counts {steering} words of texts.\n",
            f"a{steering}.py": f'"""Counts {steering} words."""\n',
            f"b{steering}.bin": b"\0",
        },
    )
    output = tmp_path / "out"
    assert run(["summarize", str(tmp_path / "tree"), "-o", str(output), "--model", "none"]) == 0
    told = capsys.readouterr()
    written = [(output / name).read_text() for name in ("summary.md", "index.html", "summary.json")]
    for text in (told.out, told.err, *written[:2]):
        assert not set(text) & set(steering) - set("]0;mine[2J1m")
    [top] = [n for n in json.loads(written[2])["nodes"] if n["level"] == "repository"]
    assert top["summary"].startswith("The project counts ]0;mine [2J 1m words of texts.")
