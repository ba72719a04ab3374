"""What the documents show works, and what they point at exists."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.markdown import ROOT, blocks, documents, links

from interlock.cli.app import VERBS, interlock

# Shown as commands of a shell, but too large to run inside the suite that they start.
MAKE_TARGETS = {
    line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if "##" in line
}


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_code_blocks_run_in_order(path: Path, tmp_path: Path) -> None:
    """Each document's Python and shell blocks run, in one directory, in the order they stand.

    A block that begins with a comment naming a file, such as `# root.py`, is saved there as well.
    """
    for block in blocks(path):
        if block.language == "python":
            if named := re.match(r"# (\w+\.py)\n", block.text):
                (tmp_path / named[1]).write_text(block.text)
            _run([sys.executable, "-W", "error", "-c", block.text], tmp_path, path, block.line)
        elif block.language == "sh":
            for line in block.text.splitlines():
                _run_shell_line(line, tmp_path, path, block.line)


def _run_shell_line(line: str, directory: Path, path: Path, number: int) -> None:
    words = shlex.split(line, comments=True)
    if not words or words[0] in ("pip", "python"):
        return
    if words[0] == "make":
        assert set(words[1:]) <= MAKE_TARGETS, f"{path.name}: no such target in {line!r}"
        return
    assert words[0] == "interlock", f"{path.name}: {line!r} is neither make nor interlock"
    _run([sys.executable, "-m", *words], directory, path, number)


def _run(command: list[str], directory: Path, path: Path, line: int) -> None:
    environment = {**os.environ, "XDG_DATA_HOME": str(directory), "COLUMNS": "100"}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{path.name}, block at line {line}:\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    missing = [
        target for target in links(path) if not (path.parent / target.split("#")[0]).exists()
    ]
    assert missing == []


def test_every_verb_is_in_the_command_line_reference() -> None:
    """`docs/reference/cli.md` has a heading for every command and names each of its options."""
    text = (ROOT / "docs" / "reference" / "cli.md").read_text()
    sections = dict(re.findall(r"^#+ `([^`]+)`\n(.*?)(?=^#|\Z)", text, flags=re.M | re.S))
    documented = {name: set(re.findall(r"--[a-z-]+", body)) for name, body in sections.items()}
    expected = {
        name: {option for option in options if option.startswith("--")}
        for name, options in _commands().items()
    }
    assert documented.keys() == expected.keys()
    for name, options in expected.items():
        assert options <= documented[name], f"{name}: {options - documented[name]} undocumented"


def test_every_command_takes_json() -> None:
    without = [name for name, options in _commands().items() if "--json" not in options]
    assert without == []


def _commands() -> dict[str, set[str]]:
    """Every command that does something, as a user types it, with the options that it takes."""
    import click

    context = click.Context(interlock)
    found: dict[str, set[str]] = {}

    def walk(name: str, command: click.Command) -> None:
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                inner = command.get_command(context, child)
                assert inner is not None
                walk(f"{name} {child}", inner)
        else:
            found[name] = {option for parameter in command.params for option in parameter.opts}

    for verb in VERBS:
        command = interlock.get_command(context, verb)
        assert command is not None
        walk(f"interlock {verb}", command)
    return found


def test_contributing_names_files_that_exist() -> None:
    """The table "to change this, open that" in CONTRIBUTING.md points at what is there."""
    rows = re.findall(r"^\|.*\|$", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.M)
    paths = [path for row in rows for path in re.findall(r"`([^`]+)`", row.split("|")[2])]
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_option_named_in_a_document_is_one_of_ours() -> None:
    known = set().union(*_commands().values())
    unknown = [
        (path.name, option)
        for path in documents()
        for option in re.findall(r"`(--[a-z][a-z-]+)", path.read_text())
        if option not in known | {"--help"} and not option.startswith("--no-")
    ]
    assert unknown == []
