"""What of a chunk the model sees: all of it, all but comments, or signatures and doc comments."""

from pathlib import Path

import pytest
from support.source_trees import MODULE, RUST, write_tree

from interlock.summarize.tree import read_tree
from interlock.summarize.views import FileViews, View, views_of


def viewed(directory: Path, name: str, text: str) -> FileViews:
    write_tree(directory, {name: text})
    [file] = read_tree(directory).files
    return views_of(file)


def test_the_full_view_is_the_lines_themselves(tmp_path: Path) -> None:
    file = viewed(tmp_path, "a.py", MODULE)
    seen = file.see("full", 6, 8)
    assert seen.text == "\n".join(MODULE.split("\n")[5:8])
    assert (seen.view, seen.note) == ("full", "")


def test_signatures_hold_names_and_docs_and_no_bodies(tmp_path: Path) -> None:
    seen = viewed(tmp_path, "a.py", MODULE).see("signatures", 1, 16)
    assert seen.view == "signatures"
    assert seen.text.split("\n") == [
        "Counts words of a text.",
        "",
        "def count_words(text)  // How many words a text has.",
        "class Counter  // Keeps totals by word.",
        "  def add_word(self, word)",
    ]


def test_signatures_are_those_that_begin_in_the_chunk(tmp_path: Path) -> None:
    seen = viewed(tmp_path, "a.py", MODULE).see("signatures", 11, 16)
    assert seen.text.split("\n")[0].startswith("class Counter")
    assert "count_words" not in seen.text


@pytest.mark.parametrize(
    ("name", "text", "gone", "kept"),
    [
        ("a.rs", RUST, "Accepts connections", "pub struct Acceptor"),
        ("a.py", "x = 1  # a note\n# another\ny = '# no comment'\n", "note", "# no comment"),
        (
            "a.c",
            'int a; /* one\n two */ int b;\n// three\nchar *s = "/* kept */";\n',
            "two",
            "kept",
        ),
        ("a.go", "package a\n// gone away\nvar A = `// kept here`\n", "gone", "kept"),
        ("a.js", "var a = 1; // gone\nvar b = '//kept';\n", "gone", "kept"),
        ("A.java", 'class A { /* gone */ String s = "/* kept */"; }\n', "gone", "kept"),
    ],
)
def test_comments_are_stripped_and_strings_are_not(
    tmp_path: Path, name: str, text: str, gone: str, kept: str
) -> None:
    file = viewed(tmp_path, name, text)
    seen = file.see("stripped", 1, len(file.file.lines))
    assert seen.view == "stripped"
    assert gone not in seen.text
    assert kept in seen.text
    assert all(line.strip() for line in seen.text.split("\n"))


def test_a_comment_that_begins_above_the_chunk_is_stripped_in_it(tmp_path: Path) -> None:
    file = viewed(tmp_path, "a.c", "/* one\ntwo\nthree */\nint a;\n")
    assert file.see("stripped", 2, 4).text == "int a;"


@pytest.mark.parametrize("view", ["stripped", "signatures"])
def test_what_cannot_be_had_is_seen_in_full_and_said(tmp_path: Path, view: View) -> None:
    file = viewed(tmp_path, "a.rb", "# a comment\ndef a\nend\n")
    seen = file.see(view, 1, 3)
    assert (seen.view, seen.note) == ("full", "full text: no grammar for Ruby")
    assert "a comment" in seen.text


def test_a_chunk_that_defines_nothing_is_seen_in_full(tmp_path: Path) -> None:
    seen = viewed(tmp_path, "a.py", "import re\nprint(1)\n").see("signatures", 1, 2)
    assert (seen.view, seen.note) == ("full", "full text: nothing is defined here")


def test_nothing_but_comments_is_seen_in_full(tmp_path: Path) -> None:
    seen = viewed(tmp_path, "a.py", "# one\n# two\n").see("stripped", 1, 2)
    assert (seen.view, seen.text) == ("full", "# one\n# two")
