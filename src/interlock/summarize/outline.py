"""What a file defines, from its syntax tree: names, signatures, doc comments, and their lines."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from interlock.kernel.errors import MissingExtraError
from interlock.summarize.languages import PYTHON, RUST, Grammar
from interlock.summarize.tree import SourceFile

Node = Any
"""A node of tree-sitter's."""

_LONGEST_SIGNATURE = 300
_LONGEST_DOC = 400
_DEEPEST = 12
_MOST_NESTED = 100


@dataclass(frozen=True, slots=True)
class Symbol:
    """One definition.

    kind       what a reader of the language calls it
    signature  from its start to its body, on one line
    first, last  its lines, from 1, both included
    depth      how many definitions it stands in
    doc        the first paragraph of its documentation
    """

    kind: str
    name: str
    signature: str
    first: int
    last: int
    depth: int
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Outline:
    """A file's definitions in order, the first paragraph of the file's own documentation, the byte
    ranges of comments in its lines joined by LF, and the lines (from 1) of its top-level items.
    """

    symbols: tuple[Symbol, ...]
    doc: str
    comments: tuple[tuple[int, int], ...]
    items: tuple[tuple[int, int], ...]


def outline(file: SourceFile) -> Outline | None:
    """The outline of a file, or None where its language has no grammar here.

    Code that does not parse is no error: what can be told of it is in the outline. Raises
    MissingExtraError without the extra `source`.
    """
    grammar = file.language.grammar
    if grammar is None:
        return None
    # A lone surrogate, which UTF-16 files may hold, must cost no more than its own character.
    data = "\n".join(file.lines).encode("utf-8", "replace")
    parse = _Parse(grammar, data)
    root = parse.tree()
    symbols = sorted(parse.symbols(root), key=lambda symbol: (symbol.first, symbol.depth))
    return Outline(
        tuple(symbols),
        parse.file_doc(root),
        parse.comments(root),
        parse.items(root),
    )


class _Parse:
    def __init__(self, grammar: Grammar, data: bytes) -> None:
        self._grammar = grammar
        self._data = data

    def tree(self) -> Node:
        """The root node."""
        language, sitter = _load(self._grammar.module, self._grammar.function)
        return sitter.Parser(language).parse(self._data).root_node

    def inner(self, node: Node) -> Node:
        """The root node of the tree of what stands between a node's delimiters."""
        language, sitter = _load(self._grammar.module, self._grammar.function)
        first, last = node.children[0], node.children[-1]
        between = sitter.Range(first.end_point, last.start_point, first.end_byte, last.start_byte)
        return sitter.Parser(language, included_ranges=[between]).parse(self._data).root_node

    def symbols(self, parent: Node, depth: int = 0, level: int = 0) -> Iterator[Symbol]:
        """Definitions below `parent`, but not those inside of functions.

        `depth` counts the definitions around it, `level` all that is nested.
        """
        if depth > _DEEPEST or level > _MOST_NESTED:
            return
        level += 1
        grammar = self._grammar
        for node in parent.named_children:
            kind = grammar.definitions.get(node.type)
            if kind is not None:
                symbol = self._symbol(node, kind, depth)
                if symbol is not None:
                    yield symbol
                if node.type in grammar.containers:
                    yield from self.symbols(
                        node.child_by_field_name("body") or node, depth + 1, level
                    )
                elif node.type in ("variable_declarator", "type_spec"):
                    continue
            elif node.type in grammar.containers or node.type in grammar.wrappers:
                yield from self.symbols(node.child_by_field_name("body") or node, depth, level)
            elif node.type in ("block", "declaration_list", "else_clause", "statement_block"):
                yield from self.symbols(node, depth, level)
            elif grammar is RUST and (block := _macro_block(node)) is not None:
                # Items that stand in a macro's braces, such as those of conditional compilation.
                yield from self.symbols(self.inner(block), depth, level)

    def comments(self, root: Node) -> tuple[tuple[int, int], ...]:
        """Byte ranges of all comments."""
        language, sitter = _load(self._grammar.module, self._grammar.function)
        query = _comment_query(self._grammar.module, self._grammar.function, self._grammar.comments)
        captured = sitter.QueryCursor(query).captures(root)
        del language
        found = {(node.start_byte, node.end_byte) for nodes in captured.values() for node in nodes}
        return tuple(sorted(found))

    def items(self, root: Node) -> tuple[tuple[int, int], ...]:
        """First and last line of every top-level item, with the comments before it."""
        found: list[tuple[int, int]] = []
        lead: int | None = None
        for node in root.named_children:
            first, last = node.start_point[0] + 1, _last_line(node)
            if node.type in self._grammar.comments or node.type == "attribute_item":
                lead = first if lead is None else lead
                continue
            first, lead = (first if lead is None else lead), None
            if found and first <= found[-1][1]:
                found[-1] = (found[-1][0], max(last, found[-1][1]))
            else:
                found.append((first, last))
        return tuple(found)

    def file_doc(self, root: Node) -> str:
        """The first paragraph of the comments, or of the docstring, that a file begins with."""
        texts: list[str] = []
        for node in root.named_children:
            if node.type in self._grammar.comments:
                text = self._text(node)
                if not texts and text.startswith("#!"):
                    continue
                texts.append(text)
            elif node.type == "inner_attribute_item":
                continue
            elif self._grammar is PYTHON and node.type == "expression_statement" and not texts:
                return first_paragraph(_docstring(self._text(node)))
            else:
                break
        inner = [text for text in texts if text.startswith(("//!", "/*!"))]
        paragraphs = first_paragraph(comment_text("\n".join(inner or texts)))
        # A licence at the top says nothing of the file.
        return "" if _is_licence(paragraphs) else paragraphs

    def _symbol(self, node: Node, kind: str, depth: int) -> Symbol | None:
        name = self._name(node, kind)
        if not name:
            return None
        outer = node
        while outer.parent is not None and outer.parent.type in self._grammar.wrappers:
            outer = outer.parent
        return Symbol(
            kind=kind,
            name=name,
            signature=self._signature(node, outer),
            first=outer.start_point[0] + 1,
            last=_last_line(node),
            depth=depth,
            doc=self._doc(node, outer),
        )

    def _name(self, node: Node, kind: str) -> str:
        if kind in ("const", "assignment") and node.type in (
            "variable_declarator",
            "assignment_expression",
        ):
            value = node.child_by_field_name("value") or node.child_by_field_name("right")
            if value is None or not _is_callable(value):
                return ""
            target = node.child_by_field_name("name") or node.child_by_field_name("left")
            return "" if target is None else one_line(self._text(target), 80)
        if node.type == "preproc_def" and node.child_by_field_name("value") is None:
            return ""
        if node.type in ("struct_specifier", "union_specifier", "enum_specifier") and (
            node.child_by_field_name("body") is None
        ):
            return ""
        if node.type == "impl_item":
            target = node.child_by_field_name("type")
            return "" if target is None else one_line(self._text(target), 80)
        named = node.child_by_field_name("name")
        if named is None:
            named = _declared(node)
        return "" if named is None else one_line(self._text(named), 80)

    def _signature(self, node: Node, outer: Node) -> str:
        body = node.child_by_field_name("body")
        if body is None:
            value = node.child_by_field_name("value") or node.child_by_field_name("right")
            if value is not None and _is_callable(value):
                body = value.child_by_field_name("body")
        if node.type == "macro_definition":
            return f"macro_rules! {self._name(node, 'macro')}"
        start = outer.start_byte
        if outer.type == "decorated_definition":
            start = node.start_byte
        end = node.end_byte if body is None else body.start_byte
        text = self._data[start:end].decode("utf-8", "replace")
        return one_line(text, _LONGEST_SIGNATURE).rstrip(" {:=")

    def _doc(self, node: Node, outer: Node) -> str:
        body = node.child_by_field_name("body")
        if body is not None and body.type == "block" and body.named_children:
            first = body.named_children[0]
            if first.type in ("expression_statement", "string"):
                text = self._text(first)
                if text.lstrip("rRbBuU").startswith(("'", '"')):
                    return first_paragraph(_docstring(text))
        texts: list[str] = []
        before, line = outer.prev_named_sibling, outer.start_point[0]
        while before is not None and before.type in (*self._grammar.comments, "attribute_item"):
            if _last_line(before) < line:
                break
            if before.type != "attribute_item":
                text = self._text(before)
                if self._grammar is RUST and not text.startswith(("///", "/**")):
                    break
                texts.append(text)
            line, before = before.start_point[0], before.prev_named_sibling
        return first_paragraph(comment_text("\n".join(reversed(texts))))

    def _text(self, node: Node) -> str:
        return self._data[node.start_byte : node.end_byte].decode("utf-8", "replace")


def comment_text(comment: str) -> str:
    """A comment, or several in a row, without what marks it as one."""
    lines = []
    for raw in comment.split("\n"):
        line = raw.strip()
        line = re.sub(r"^(/\*[*!]?|//[/!]?|\*/|\*(?!\*)|#+!?|--)\s?", "", line)
        lines.append(re.sub(r"\s*\*/$", "", line).rstrip())
    return "\n".join(lines).strip("\n")


def first_paragraph(text: str) -> str:
    """The text up to its first empty line, on one line, cut at a word where it is long."""
    paragraph: list[str] = []
    for line in text.strip().split("\n"):
        if not line.strip():
            if paragraph:
                break
            continue
        paragraph.append(line.strip().lstrip("#").strip())
    return one_line(" ".join(paragraph), _LONGEST_DOC)


def one_line(text: str, most: int) -> str:
    """The text with all white space as single spaces, cut at a word with … where it is longer."""
    flat = " ".join(text.split())
    if len(flat) <= most:
        return flat
    cut = flat[: most - 1]
    return (cut[: cut.rfind(" ")] if " " in cut[most // 2 :] else cut).rstrip() + "…"


_LICENCE = re.compile(r"copyright|licen[cs]ed? |spdx-license|all rights reserved", re.IGNORECASE)


def _is_licence(text: str) -> bool:
    return bool(_LICENCE.search(text))


def _docstring(literal: str) -> str:
    """What stands between the quotes of a Python string literal; nothing for anything else."""
    found = re.fullmatch(r"[rRbBuU]*('''|\"\"\"|'|\")(.*)\1", literal.strip(), re.DOTALL)
    return "" if found is None else found[2]


def _is_callable(value: Node) -> bool:
    return value.type in (
        "arrow_function",
        "function_expression",
        "function",
        "generator_function",
        "class",
    )


def _declared(node: Node) -> Node | None:
    """The name that a C declarator declares, where it is a function's or a type's."""
    found = node.child_by_field_name("declarator")
    function = node.type == "type_definition"
    while found is not None:
        function = function or found.type == "function_declarator"
        inner = found.child_by_field_name("declarator")
        if inner is None and found.type == "reference_declarator" and found.named_children:
            inner = found.named_children[-1]
        if inner is None:
            return found if function else None
        found = inner
    return None


def _macro_block(node: Node) -> Node | None:
    """The braces of a Rust macro that is called where an item may stand."""
    if node.type == "expression_statement" and node.named_children:
        node = node.named_children[0]
    if node.type != "macro_invocation":
        return None
    block = node.named_children[-1]
    braces = (
        block.type == "token_tree" and len(block.children) > 2 and block.children[0].type == "{"
    )
    return block if braces else None


def _last_line(node: Node) -> int:
    """The last line of a node, from 1; a node that ends with a line break ends on that line."""
    row, column = node.end_point
    return int(row if column == 0 and row > node.start_point[0] else row + 1)


@cache
def _load(module: str, function: str) -> tuple[Any, Any]:
    """A grammar, and tree-sitter itself."""
    try:
        sitter = importlib.import_module("tree_sitter")
        package = importlib.import_module(module)
    except ImportError:
        raise MissingExtraError("source", "reading the syntax of source files") from None
    return sitter.Language(getattr(package, function)()), sitter


@cache
def _comment_query(module: str, function: str, comments: tuple[str, ...]) -> Any:
    language, sitter = _load(module, function)
    return sitter.Query(language, " ".join(f"({comment}) @c" for comment in comments))
