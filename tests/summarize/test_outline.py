"""What a file defines, in every language that has a grammar here."""

from pathlib import Path

import pytest
from support.source_trees import MODULE, RUST, write_tree

from interlock.summarize.outline import Outline, comment_text, first_paragraph, one_line, outline
from interlock.summarize.tree import read_tree


def outlined(directory: Path, name: str, text: str) -> Outline:
    write_tree(directory, {name: text})
    [file] = read_tree(directory).files
    found = outline(file)
    assert found is not None
    return found


def names(found: Outline) -> list[tuple[str, str, int]]:
    return [(symbol.kind, symbol.name, symbol.depth) for symbol in found.symbols]


def test_python(tmp_path: Path) -> None:
    found = outlined(tmp_path, "a.py", MODULE)
    assert found.doc == "Counts words of a text."
    assert names(found) == [
        ("def", "count_words", 0),
        ("class", "Counter", 0),
        ("def", "add_word", 1),
    ]
    count, counter, add = found.symbols
    assert count.signature == "def count_words(text)"
    assert count.doc == "How many words a text has."
    assert (count.first, count.last) == (6, 8)
    assert (counter.doc, add.doc) == ("Keeps totals by word.", "")


def test_rust(tmp_path: Path) -> None:
    found = outlined(tmp_path, "a.rs", RUST)
    assert found.doc == "Listens for connections."
    assert names(found) == [("struct", "Acceptor", 0), ("impl", "Acceptor", 0), ("fn", "bind", 1)]
    assert found.symbols[0].doc == "Accepts connections until it is closed."
    assert found.symbols[2].signature == "pub fn bind(address: &str) -> Acceptor"


def test_rust_items_inside_a_macro_are_found_where_they_stand(tmp_path: Path) -> None:
    text = "cfg_net! {\n    /// A socket.\n    pub struct Socket;\n\n    pub fn open() {}\n}\n"
    found = outlined(tmp_path, "a.rs", text)
    assert names(found) == [("struct", "Socket", 0), ("fn", "open", 0)]
    assert found.symbols[0].doc == "A socket."
    assert found.symbols[1].first == 5


@pytest.mark.parametrize(
    ("name", "text", "expected", "doc"),
    [
        (
            "a.c",
            "#ifndef A\n#define A\n#define LIMIT 9\n"
            "/* Adds. */\nint add(int a, int b) { return a; }\n"
            "typedef struct { int x; } point;\nint *find(void);\nstruct node { int v; };\n#endif\n",
            {"LIMIT", "add", "point", "find", "node"},
            "Adds.",
        ),
        (
            "a.cpp",
            "namespace geo {\n// A circle.\nclass Circle {\n public:\n"
            "  double area() const { return 1; }\n};\n"
            "template <typename T> T twice(T a) { return a; }\n}\n"
            "int Circle::size() { return 1; }\n",
            {"geo", "Circle", "area", "twice", "Circle::size"},
            "A circle.",
        ),
        (
            "a.go",
            "package a\n\n// Open opens.\nfunc Open() error { return nil }\n\n"
            "type Reader struct { n int }\n\n"
            "func (r *Reader) Read() int { return r.n }\n\nconst Limit = 3\n",
            {"Open", "Reader", "Read", "Limit"},
            "Open opens.",
        ),
        (
            "A.java",
            "package a;\n\n/** A list of names. */\npublic class Names {\n  /** Adds one. */\n"
            "  public void add(String name) { }\n  Names() { }\n}\nenum Kind { ONE }\n",
            {"Names", "add", "Kind"},
            "A list of names.",
        ),
        (
            "a.js",
            "/** Joins paths. */\nfunction join(a) { return a; }\nclass Router { route() {} }\n"
            "export const load = (a) => a;\napp.use = function use(fn) {};\nvar n = 3;\n",
            {"join", "Router", "route", "load", "app.use"},
            "Joins paths.",
        ),
        (
            "a.ts",
            "/** A shape. */\nexport interface Shape { area(): number }\ntype Name = string;\n"
            "export default class Square implements Shape { area(): number { return 1; } }\n"
            "enum Colour { Red }\n",
            {"Shape", "Name", "Square", "area", "Colour"},
            "A shape.",
        ),
        ("a.tsx", "export function View() { return <b>hello</b>; }\n", {"View"}, ""),
    ],
)
def test_other_languages(
    tmp_path: Path, name: str, text: str, expected: set[str], doc: str
) -> None:
    found = outlined(tmp_path, name, text)
    assert {symbol.name for symbol in found.symbols} == expected
    documented = {symbol.doc for symbol in found.symbols} | {found.doc}
    assert doc in documented


def test_code_that_does_not_parse_still_gives_what_can_be_told(tmp_path: Path) -> None:
    found = outlined(tmp_path, "a.py", "def good():\n    pass\n\ndef ((( broken\n")
    assert ("def", "good", 0) in names(found)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a.py", "".join(f"{' ' * n}if x:\n" for n in range(800)) + f"{' ' * 800}pass\n"),
        ("a.rs", f"{'m!{' * 1000}{'}' * 1000}\n"),
        ("a.rs", f"{'mod a {' * 1000}{'}' * 1000}\n"),
        ("a.c", "#if 1\n" * 1000 + "int a(void);\n" + "#endif\n" * 1000),
        ("a.c", 'extern "C" {' * 1000 + "int a(void);" + "}" * 1000 + "\n"),
        ("a.js", "{\n" * 1000 + "}\n" * 1000),
    ],
)
def test_nesting_deeper_than_the_interpreter_calls_is_not_entered(
    tmp_path: Path, name: str, code: str
) -> None:
    before = {"py": "def before(): pass\n", "rs": "fn before() {}\n", "c": "int before(void);\n"}
    first = before.get(name[2:], "function before() {}\n")
    found = outlined(tmp_path, name, first + code)
    assert found.symbols[0].name == "before"


def test_a_language_without_a_grammar_has_no_outline(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.rb": "def a\nend\n"})
    [file] = read_tree(tmp_path).files
    assert outline(file) is None


def test_a_licence_at_the_top_says_nothing_of_the_file(tmp_path: Path) -> None:
    text = "/* Copyright 2020 Someone. All rights reserved. */\nint main(void) { return 0; }\n"
    assert outlined(tmp_path, "a.c", text).doc == ""


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        ("/// One.\n/// Two.", "One.\nTwo."),
        ("/**\n * One.\n * Two.\n */", "One.\nTwo."),
        ("# One.", "One."),
        ("//! One.", "One."),
        ("/* One. */", "One."),
    ],
)
def test_comments_lose_their_marks(comment: str, text: str) -> None:
    assert comment_text(comment) == text


def test_a_paragraph_ends_at_an_empty_line_and_a_long_one_at_a_word() -> None:
    assert first_paragraph("\nOne\ntwo.\n\nThree.") == "One two."
    assert one_line("one two three", 9) == "one two…"
    assert len(one_line("x" * 50, 9)) == 9
