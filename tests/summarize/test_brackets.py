"""Bracket expressions of ignore patterns are Git's."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.counts import count

from interlock.errors import ConfigError
from interlock.summarize.brackets import plain_brackets
from interlock.summarize.ignore import globs
from interlock.summarize.tree import read_tree

NAMES = [f"{character}x" for character in map(chr, range(33, 127)) if character not in "/"]


def ignored_by_git(root: Path) -> set[str]:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    git = ["git", "-C", str(root)]
    if not (root / ".git").exists():
        subprocess.run([*git, "init", "-q"], check=True, env=environment, capture_output=True)
    found = subprocess.run(
        [*git, "ls-files", "-z", "--others", "--ignored", "--exclude-standard"],
        check=True,
        env=environment,
        capture_output=True,
    ).stdout
    return {name for name in found.decode().split("\0") if name}


def ignored_here(root: Path) -> set[str]:
    skipped = read_tree(root).skipped
    return {item.path for item in skipped if item.reason == "ignored by .gitignore"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for every printable character of ASCII, which its name begins with."""
    root = tmp_path_factory.mktemp("tree")
    for name in NAMES:
        (root / name).write_text("x = 1\n")
    return root


EXPRESSIONS = [
    "[[:alpha:]]",
    "[[:digit:]x-]",
    "[![:punct:]]",
    "[[:upper:][:digit:]]",
    "[[:nonsense:]]",
    "[[:alpha:]",
    "[[:a]",
    "[z-a]",
    "[a--b]",
    "[a-\\]]",
    "[\\]]",
    "[\\d]",
    "[]-a]",
    "[^]a]",
    "[!!]",
    "[\\!^]",
    "[-^]",
    "[[=a=]]",
    "[a&&b]",
    "[",
    "[]",
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_git_ignores_the_same(tree: Path, expression: str) -> None:
    (tree / ".gitignore").write_text(f"{expression}x\n")
    assert ignored_here(tree) == ignored_by_git(tree)


@given(inner=st.text("a-z]![^\\:lowerdigt09.", min_size=1, max_size=8))
@settings(
    max_examples=count(25, 400),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@pytest.mark.filterwarnings("ignore")
def test_git_ignores_the_same_whatever_is_in_brackets(tree: Path, inner: str) -> None:
    (tree / ".gitignore").write_text(f"[{inner}]x\n")
    assert ignored_here(tree) == ignored_by_git(tree)


def test_no_bracket_matches_a_slash(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c").write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text("a[!b]c\na[.-0]c\n")
    assert ignored_here(tmp_path) == ignored_by_git(tmp_path) == set()


def test_one_line_that_is_no_pattern_costs_no_other(tmp_path: Path) -> None:
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text("[z-a]\n[[:nonsense:]]\none.py\n")
    assert ignored_here(tmp_path) == {"one.py"}


def test_a_line_that_is_not_unicode_names_its_file(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.py")
    (tmp_path / name).write_text("x = 1\n")
    (tmp_path / ".gitignore").write_bytes(b"caf\xe9.py\n")
    assert ignored_here(tmp_path) == {"caf\\xe9.py"}


@pytest.mark.parametrize("pattern", ["!", "a\\"])
def test_a_pattern_of_the_user_that_cannot_be_read_is_told(pattern: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(pattern))):
        globs((pattern,))


def test_a_pattern_of_the_user_that_matches_nothing_is_taken() -> None:
    assert not globs(("[z-a]",)).match_file("a")
    assert globs(("[[:digit:]]*", "[z-a]")).match_file("1a")
    assert globs((r"[\!^]",)).match_file("^")


def test_what_stands_outside_of_brackets_stays() -> None:
    assert plain_brackets(r"a\[b*?/c") == r"a\[b*?/c"
