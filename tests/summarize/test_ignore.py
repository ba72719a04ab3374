"""`.gitignore` files are read as Git reads them."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.counts import count
from support.source_trees import write_tree

from interlock.summarize.tree import read_tree


def taken(root: Path) -> set[str]:
    """The files that are taken in, `.gitignore` files aside."""
    files = {file.path for file in read_tree(root).files}
    return {path for path in files if not path.endswith(".gitignore")}


def run_git(root: Path, *arguments: str) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    identity = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    command = ["git", "-C", str(root), *identity, *arguments]
    subprocess.run(command, check=True, env=environment, capture_output=True)


def listed_by_git(root: Path) -> set[str]:
    """What Git would track."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    git = ["git", "-C", str(root)]
    if not (root / ".git").exists():
        subprocess.run([*git, "init", "-q"], check=True, env=environment, capture_output=True)
    found = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        env=environment,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    return {path for path in found if path and not path.endswith(".gitignore")}


def test_a_nearer_file_takes_back_what_a_farther_one_ignored(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            ".gitignore": "*.log\n/out/\n!keep.log\n",
            "a/.gitignore": "!special.log\n",
            "a/special.log.py": "x = 1\n",
            "keep.log": "text here\n",
            "out/b.py": "x = 1\n",
            "a/out/b.py": "x = 1\n",
        },
    )
    assert taken(tmp_path) == listed_by_git(tmp_path) - {"keep.log"}  # data, by its name
    reasons = {item.path: item.reason for item in read_tree(tmp_path).skipped}
    assert reasons["out"] == "ignored by .gitignore"


def test_patterns_above_the_root_hold_as_far_as_the_repository_reaches(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            ".gitignore": "*.py\n",
            "repository/.git/HEAD": "ref: refs/heads/main\n",
            "repository/.git/info/exclude": "*.rs\n",
            "repository/.gitignore": "inner/secret.c\n",
            "repository/inner/secret.c": "int secret;\n",
            "repository/inner/open.c": "int open;\n",
            "repository/inner/a.py": "x = 1\n",
            "repository/inner/a.rs": "fn a() {}\n",
        },
    )
    assert taken(tmp_path / "repository" / "inner") == {"open.c", "a.py"}


def test_a_line_that_is_no_pattern_is_passed_over(tmp_path: Path) -> None:
    write_tree(tmp_path, {".gitignore": "!\nb.py\n", "a.py": "x = 1\n", "b.py": "x = 1\n"})
    assert taken(tmp_path) == {"a.py"}


def test_a_byte_order_mark_and_carriage_returns_are_no_part_of_a_pattern(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": "x = 1\n", "b.py": "x = 1\n", "c.py": "x = 1\n"})
    (tmp_path / ".gitignore").write_bytes(b"\xef\xbb\xbfa.py\r\nb.py\r\n")
    assert taken(tmp_path) == listed_by_git(tmp_path) == {"c.py"}


@pytest.mark.parametrize("line", ["a\t", "a\\ ", "a\\  ", "a\\ \r", "a \r", "a\r\r", "\\", "a\\ b"])
def test_white_space_at_the_end_of_a_line_is_gits(tmp_path: Path, line: str) -> None:
    for name in ("a", "a ", "a\t", "a b"):
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / ".gitignore").write_bytes(f"{line}\n".encode())
    assert taken(tmp_path) == listed_by_git(tmp_path)


def test_a_file_may_hold_thousands_of_patterns(tmp_path: Path) -> None:
    patterns = [f"build{n}/**/[a-z]*.o" for n in range(6_000)]
    write_tree(tmp_path, {"a.py": "x = 1\n", "b.py": "x = 1\n"})
    (tmp_path / ".gitignore").write_text("\n".join([*patterns, "b.py"]))
    assert taken(tmp_path) == {"a.py"}


def test_patterns_behind_a_link_do_not_hold(tmp_path: Path) -> None:
    write_tree(tmp_path, {"patterns": "a.py\n", "a.py": "x = 1\n"})
    (tmp_path / ".gitignore").symlink_to("patterns")
    assert taken(tmp_path) == listed_by_git(tmp_path) == {"a.py", "patterns"}


def test_a_repository_inside_another_has_patterns_of_its_own(tmp_path: Path) -> None:
    """As a submodule has, whose `.git` is a file that says where its repository is."""
    write_tree(
        tmp_path,
        {
            ".gitignore": "*.py\n",
            "a.py": "x = 1\n",
            "sub/.gitignore": "*.rs\n",
            "sub/b.py": "x = 1\n",
            "sub/b.rs": "fn b() {}\n",
        },
    )
    run_git(tmp_path / "sub", "init", "-q", "--separate-git-dir", str(tmp_path / ".git-of-sub"))
    assert (tmp_path / "sub" / ".git").is_file()
    assert listed_by_git(tmp_path / "sub") == {"b.py"}
    assert {path for path in taken(tmp_path) if path.startswith("sub/")} == {"sub/b.py"}


def test_a_second_work_tree_shares_what_the_repository_excludes(tmp_path: Path) -> None:
    write_tree(tmp_path / "one", {"a.py": "x = 1\n", "b.py": "x = 1\n"})
    one, two = tmp_path / "one", tmp_path / "two"
    run_git(one, "init", "-q")
    run_git(one, "add", ".")
    run_git(one, "commit", "-qm", "one")
    run_git(one, "worktree", "add", "-q", str(two))
    (one / ".git" / "info").mkdir(exist_ok=True)
    (one / ".git" / "info" / "exclude").write_text("*.txt\n")
    (two / "notes.txt").write_text("words of a note\n")
    assert taken(two) == listed_by_git(two) == {"a.py", "b.py"}


NAMES = st.sampled_from(["a", "b", "ab", "c.py"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
PATTERNS = st.builds(
    lambda negated, anchored, body, directory: f"{negated}{anchored}{body}{directory}",
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "/"]),
    st.sampled_from(["a", "b", "*", "a*", "**/b", "a/**", "a/b", "?", "[ab]", "c.py", "*.py"]),
    st.sampled_from(["", "", "/"]),
)


@pytest.mark.filterwarnings("ignore")
@given(
    paths=st.sets(PATHS, min_size=1, max_size=6),
    rules=st.dictionaries(
        st.sampled_from(["", "a/", "b/", "a/b/"]), st.lists(PATTERNS, max_size=4), max_size=3
    ),
)
@settings(
    max_examples=count(25, 400),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_git_takes_the_same_files(
    tmp_path_factory: pytest.TempPathFactory, paths: set[str], rules: dict[str, list[str]]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    files = {path for path in paths if not any(other.startswith(f"{path}/") for other in paths)}
    write_tree(root, dict.fromkeys(files, "text to read\n"))
    for folder, lines in rules.items():
        if (root / folder).is_dir():
            (root / folder / ".gitignore").write_text("\n".join(lines) + "\n")
    assert taken(root) == listed_by_git(root)
