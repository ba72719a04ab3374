"""A tree may be a path, or a Git repository on this disk, a bare one among them."""

import os
import subprocess
from pathlib import Path

import pytest
from support.source_trees import small_tree

from interlock.errors import InputError
from interlock.summarize.checkout import local_path, open_tree
from interlock.summarize.tree import read_tree


def git(*arguments: str) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    identity = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    subprocess.run(["git", *identity, *arguments], check=True, env=environment, capture_output=True)


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_bare_repository_is_read_at_its_head(tmp_path: Path, form: str) -> None:
    tree = small_tree(tmp_path / "tree")
    git("init", "-q", str(tree))
    git("-C", str(tree), "add", ".")
    git("-C", str(tree), "commit", "-qm", "one")
    git("clone", "-q", "--bare", str(tree), str(tmp_path / "words.git"))
    with open_tree(form.format(tmp_path / "words.git")) as opened:
        assert opened.name == "words"
        paths = [file.path for file in read_tree(opened).files]
    assert paths == [file.path for file in read_tree(tree).files]
    assert not opened.exists()


def committed(tree: Path, *more: str) -> Path:
    """The tree, with all of it in a commit of its own repository."""
    git("init", "-q", *more, str(tree))
    git("-C", str(tree), "add", ".")
    git("-C", str(tree), "commit", "-qm", "one")
    return tree


@pytest.mark.parametrize("packed", [False, True])
def test_a_bare_repository_of_sha_256_objects_is_read(tmp_path: Path, packed: bool) -> None:
    tree = committed(small_tree(tmp_path / "tree"), "--object-format=sha256")
    bare = tmp_path / "words.git"
    git("clone", "-q", "--bare", str(tree), str(bare))
    if packed:
        git("--git-dir", str(bare), "gc", "-q")
    with open_tree(str(bare)) as opened:
        found = [(file.path, file.digest) for file in read_tree(opened).files]
    assert found == [(file.path, file.digest) for file in read_tree(tree).files]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("extensions.objectFormat=sha512", "has the object format 'sha512'"),
        ("extensions.refStorage=reftable", "keeps its references as 'reftable'"),
    ],
)
def test_a_format_that_is_not_read_is_named(tmp_path: Path, setting: str, told: str) -> None:
    tree = committed(small_tree(tmp_path / "tree"))
    bare = tmp_path / "words.git"
    git("clone", "-q", "--bare", str(tree), str(bare))
    git("config", "--file", str(bare / "config"), *setting.split("="))
    with pytest.raises(InputError, match=told), open_tree(str(bare)):
        pass


def test_a_repositorys_configuration_takes_nothing_in(tmp_path: Path) -> None:
    """What it includes could be any file of this machine, or one that never ends."""
    tree = committed(small_tree(tmp_path / "tree"))
    bare = tmp_path / "words.git"
    git("clone", "-q", "--bare", str(tree), str(bare))
    (tmp_path / "more").write_text("[extensions]\n\tobjectformat = sha256\n")
    git("config", "--file", str(bare / "config"), "include.path", str(tmp_path / "more"))
    with open_tree(str(bare)) as opened:
        assert read_tree(opened).files


@pytest.mark.parametrize("name", ["HEAD", "config", "refs", "packed-refs"])
def test_a_part_that_cannot_be_copied_is_an_input_error(tmp_path: Path, name: str) -> None:
    tree = committed(small_tree(tmp_path / "tree"))
    bare = tmp_path / "words.git"
    git("clone", "-q", "--bare", str(tree), str(bare))
    if name == "refs":
        os.mkfifo(bare / "refs" / "pipe")
    else:
        (bare / name).write_bytes(b"\x00[no\n")
    with (
        pytest.raises(InputError, match="bare repository that git cannot read"),
        open_tree(str(bare)),
    ):
        pass


@pytest.mark.parametrize("target", ["/etc", "../../outside", "README.md"])
def test_a_link_in_a_bare_repository_is_left_out_as_in_a_work_tree(
    tmp_path: Path, target: str
) -> None:
    tree = small_tree(tmp_path / "tree")
    (tree / "link").symlink_to(target)
    git("init", "-q", str(tree))
    git("-C", str(tree), "add", ".")
    git("-C", str(tree), "commit", "-qm", "one")
    git("clone", "-q", "--bare", str(tree), str(tmp_path / "words.git"))
    with open_tree(str(tmp_path / "words.git")) as opened:
        found = read_tree(opened)
        assert not (opened / "link").exists() or target == "README.md"
    assert found.skipped == read_tree(tree).skipped
    assert [file.path for file in found.files] == [file.path for file in read_tree(tree).files]


def test_a_bare_repository_inside_of_a_tree_is_left_out_and_told(tmp_path: Path) -> None:
    tree = committed(small_tree(tmp_path / "tree"))
    git("clone", "-q", "--bare", str(tree), str(tree / "fixtures" / "words.git"))
    found = read_tree(tree)
    assert not [file.path for file in found.files if file.path.startswith("fixtures")]
    told = {item.path: item.reason for item in found.skipped}
    assert told["fixtures/words.git"] == "a bare Git repository"


def test_a_path_is_itself(tmp_path: Path) -> None:
    with open_tree(str(tmp_path)) as opened:
        assert opened == tmp_path


def test_a_url_that_leads_elsewhere_is_not_fetched() -> None:
    with pytest.raises(InputError, match="only file://"), open_tree("https://localhost/a.git"):
        pass


def test_a_file_url_of_another_machine_is_not_fetched() -> None:
    with pytest.raises(InputError, match="on 'elsewhere'"), open_tree("file://elsewhere/a.git"):
        pass


def test_an_empty_bare_repository_is_an_input_error(tmp_path: Path) -> None:
    git("init", "-q", "--bare", str(tmp_path / "empty.git"))
    with (
        pytest.raises(InputError, match="cannot read at HEAD"),
        open_tree(str(tmp_path / "empty.git")),
    ):
        pass


def test_a_repository_runs_no_program_of_its_own(tmp_path: Path) -> None:
    """Its configuration could name one for each file that is unpacked."""
    tree = small_tree(tmp_path / "tree")
    (tree / ".gitattributes").write_text("* filter=own\n")
    git("init", "-q", str(tree))
    git("-C", str(tree), "add", ".")
    git("-C", str(tree), "commit", "-qm", "one")
    bare = tmp_path / "words.git"
    git("clone", "-q", "--bare", str(tree), str(bare))
    ran = tmp_path / "ran"
    git("--git-dir", str(bare), "config", "filter.own.smudge", f"touch {ran}; cat")
    git("--git-dir", str(bare), "archive", "--format=tar", "HEAD")
    assert ran.exists(), "git itself runs it"
    ran.unlink()
    with open_tree(str(bare)) as opened:
        paths = [file.path for file in read_tree(opened).files]
    assert paths == [file.path for file in read_tree(tree).files]
    assert not ran.exists()


@pytest.mark.parametrize("form", ["tree/.git", "tree/.git/"])
def test_a_work_trees_own_repository_is_read_at_its_head(tmp_path: Path, form: str) -> None:
    tree = small_tree(tmp_path / "tree")
    git("init", "-q", str(tree))
    git("-C", str(tree), "add", ".")
    git("-C", str(tree), "commit", "-qm", "one")
    (tree / "later.py").write_text("later = 1\n")
    with open_tree(str(tmp_path / form)) as opened:
        assert opened.name == "tree"
        paths = [file.path for file in read_tree(opened).files]
    assert "later.py" not in paths
    assert "README.md" in paths


def test_a_bare_repository_may_be_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = small_tree(tmp_path / "tree")
    git("init", "-q", str(tree))
    git("-C", str(tree), "add", ".")
    git("-C", str(tree), "commit", "-qm", "one")
    git("clone", "-q", "--bare", str(tree), str(tmp_path / "words.git"))
    monkeypatch.chdir(tmp_path / "words.git")
    with open_tree(".") as opened:
        assert opened.name == "words"
        assert read_tree(opened).files


def test_nothing_that_an_archive_would_leave_out_or_rewrite_is_lost(tmp_path: Path) -> None:
    """`export-ignore` and `export-subst` are for releases; a summary is of the source."""
    tree = small_tree(tmp_path / "tree")
    (tree / ".gitattributes").write_text("README.md export-ignore\nstamp.py export-subst\n")
    (tree / "stamp.py").write_text('COMMIT = "$Format:%H$"\n')
    git("init", "-q", str(tree))
    git("-C", str(tree), "add", ".")
    git("-C", str(tree), "commit", "-qm", "one")
    git("clone", "-q", "--bare", str(tree), str(tmp_path / "words.git"))
    with open_tree(str(tmp_path / "words.git")) as opened:
        found = [(file.path, file.digest) for file in read_tree(opened).files]
    assert found == [(file.path, file.digest) for file in read_tree(tree).files]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///a/b%20c", "/a/b c"),
        ("file://localhost/a/b", "/a/b"),
        ("file:///a#b", "/a#b"),
        ("file:///a?b=c#d", "/a?b=c#d"),
        ("file:///a%23b", "/a#b"),
        ("file:///a//b", "/a/b"),
        ("a#b", "a#b"),
    ],
)
def test_a_url_names_all_of_its_path(url: str, path: str) -> None:
    assert local_path(url) == Path(path)


def test_brackets_that_no_address_can_have_are_an_input_error_in_a_url_alone() -> None:
    with pytest.raises(InputError, match="is no URL"):
        local_path("file://[words")
    assert local_path("//[words") == Path("//[words")


def test_no_path_is_not_the_working_directory() -> None:
    with pytest.raises(InputError, match="PATH is empty"), open_tree(""):
        pass


def test_packed_references_are_found(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    git("init", "-q", str(tree))
    git("-C", str(tree), "add", ".")
    git("-C", str(tree), "commit", "-qm", "one")
    bare = tmp_path / "words.git"
    git("clone", "-q", "--bare", str(tree), str(bare))
    git("--git-dir", str(bare), "pack-refs", "--all")
    with open_tree(str(bare)) as opened:
        assert read_tree(opened).files
