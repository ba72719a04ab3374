"""Which language a file is in, and what its grammar calls definitions and comments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True, eq=False)
class Grammar:
    """A tree-sitter grammar, and the node types of it that an outline is made of.

    module       package that holds the compiled grammar
    function     its function that returns it
    definitions  node type -> what a reader calls it
    containers   types whose body is looked into for further definitions
    wrappers     types that only wrap a definition, such as an export or a decorator
    comments     types of comments
    """

    module: str
    definitions: dict[str, str]
    containers: frozenset[str]
    wrappers: frozenset[str] = frozenset()
    comments: tuple[str, ...] = ("comment",)
    function: str = "language"


@dataclass(frozen=True, slots=True)
class Language:
    """A language by name, with its grammar where there is one."""

    name: str
    grammar: Grammar | None = None


RUST = Grammar(
    "tree_sitter_rust",
    {
        "function_item": "fn",
        "function_signature_item": "fn",
        "struct_item": "struct",
        "enum_item": "enum",
        "union_item": "union",
        "trait_item": "trait",
        "impl_item": "impl",
        "mod_item": "mod",
        "macro_definition": "macro",
        "type_item": "type",
        "const_item": "const",
        "static_item": "static",
    },
    frozenset({"trait_item", "impl_item", "mod_item", "foreign_mod_item"}),
    comments=("line_comment", "block_comment"),
)
PYTHON = Grammar(
    "tree_sitter_python",
    {"function_definition": "def", "class_definition": "class"},
    frozenset({"class_definition"}),
    frozenset({"decorated_definition", "if_statement", "try_statement"}),
)
_C_DEFINITIONS = {
    "function_definition": "function",
    "struct_specifier": "struct",
    "union_specifier": "union",
    "enum_specifier": "enum",
    "type_definition": "typedef",
    "preproc_def": "#define",
    "preproc_function_def": "#define",
    "declaration": "declaration",
}
_C_CONTAINERS = frozenset(
    {"preproc_ifdef", "preproc_if", "preproc_else", "preproc_elif", "linkage_specification"}
)
C = Grammar("tree_sitter_c", _C_DEFINITIONS, _C_CONTAINERS)
CPP = Grammar(
    "tree_sitter_cpp",
    _C_DEFINITIONS
    | {
        "class_specifier": "class",
        "namespace_definition": "namespace",
        "alias_declaration": "using",
        "concept_definition": "concept",
    },
    _C_CONTAINERS | {"class_specifier", "struct_specifier", "namespace_definition"},
    frozenset({"template_declaration"}),
)
GO = Grammar(
    "tree_sitter_go",
    {
        "function_declaration": "func",
        "method_declaration": "func",
        "type_spec": "type",
        "type_alias": "type",
        "const_spec": "const",
        "var_spec": "var",
    },
    frozenset({"type_declaration", "const_declaration", "var_declaration", "var_spec_list"}),
)
JAVA = Grammar(
    "tree_sitter_java",
    {
        "class_declaration": "class",
        "interface_declaration": "interface",
        "enum_declaration": "enum",
        "record_declaration": "record",
        "annotation_type_declaration": "@interface",
        "method_declaration": "method",
        "constructor_declaration": "constructor",
    },
    frozenset(
        {
            "class_declaration",
            "interface_declaration",
            "enum_declaration",
            "enum_body_declarations",
            "record_declaration",
        }
    ),
    comments=("line_comment", "block_comment"),
)
_JS_DEFINITIONS = {
    "function_declaration": "function",
    "generator_function_declaration": "function",
    "class_declaration": "class",
    "method_definition": "method",
    "variable_declarator": "const",
    "assignment_expression": "assignment",
}
_JS_CONTAINERS = frozenset({"class_declaration"})
_JS_WRAPPERS = frozenset(
    {"export_statement", "lexical_declaration", "variable_declaration", "expression_statement"}
)
JAVASCRIPT = Grammar("tree_sitter_javascript", _JS_DEFINITIONS, _JS_CONTAINERS, _JS_WRAPPERS)
_TS_DEFINITIONS = _JS_DEFINITIONS | {
    "interface_declaration": "interface",
    "type_alias_declaration": "type",
    "enum_declaration": "enum",
    "abstract_class_declaration": "class",
    "abstract_method_signature": "method",
    "internal_module": "namespace",
}
_TS_CONTAINERS = _JS_CONTAINERS | {"abstract_class_declaration", "internal_module"}
TYPESCRIPT = Grammar(
    "tree_sitter_typescript",
    _TS_DEFINITIONS,
    _TS_CONTAINERS,
    _JS_WRAPPERS | {"ambient_declaration"},
    function="language_typescript",
)
TSX = Grammar(
    "tree_sitter_typescript",
    _TS_DEFINITIONS,
    _TS_CONTAINERS,
    _JS_WRAPPERS | {"ambient_declaration"},
    function="language_tsx",
)

PLAIN = Language("text")

_BY_SUFFIX = {
    suffix: language
    for language, suffixes in {
        Language("Rust", RUST): ".rs",
        Language("Python", PYTHON): ".py .pyi .pyw",
        Language("C", C): ".c .h",
        Language("C++", CPP): ".cc .cpp .cxx .hh .hpp .hxx .ipp .inl",
        Language("Go", GO): ".go",
        Language("Java", JAVA): ".java",
        Language("JavaScript", JAVASCRIPT): ".js .mjs .cjs .jsx",
        Language("TypeScript", TYPESCRIPT): ".ts .mts .cts",
        Language("TypeScript", TSX): ".tsx",
        Language("Ruby"): ".rb .rake .gemspec",
        Language("PHP"): ".php",
        Language("Perl"): ".pl .pm .t",
        Language("Lua"): ".lua",
        Language("Kotlin"): ".kt .kts",
        Language("Swift"): ".swift",
        Language("Scala"): ".scala",
        Language("C#"): ".cs",
        Language("F#"): ".fs",
        Language("Haskell"): ".hs",
        Language("OCaml"): ".ml .mli",
        Language("Erlang"): ".erl .hrl",
        Language("Elixir"): ".ex .exs",
        Language("Clojure"): ".clj .cljs",
        Language("Julia"): ".jl",
        Language("R"): ".r",
        Language("Zig"): ".zig",
        Language("Nim"): ".nim",
        Language("Dart"): ".dart",
        Language("Objective-C"): ".m .mm",
        Language("Fortran"): ".f .f90 .f95",
        Language("Assembly"): ".s .asm",
        Language("SQL"): ".sql",
        Language("Protocol Buffers"): ".proto",
        Language("shell"): ".sh .bash .zsh .fish",
        Language("PowerShell"): ".ps1",
        Language("batch"): ".bat .cmd",
        Language("HTML"): ".html .htm .xhtml .jinja .j2",
        Language("CSS"): ".css .scss .sass .less",
        Language("Vue"): ".vue",
        Language("Markdown"): ".md .markdown",
        Language("reStructuredText"): ".rst",
        Language("AsciiDoc"): ".adoc",
        Language("TeX"): ".tex",
        Language("TOML"): ".toml",
        Language("YAML"): ".yml .yaml",
        Language("INI"): ".ini .cfg .conf",
        Language("make"): ".mk .mak",
        Language("CMake"): ".cmake",
        Language("Nix"): ".nix",
        Language("Terraform"): ".tf",
        Language("XML"): ".xml .xsd .xsl",
    }.items()
    for suffix in suffixes.split()
}

_BY_NAME = {
    "makefile": Language("make"),
    "gnumakefile": Language("make"),
    "dockerfile": Language("Dockerfile"),
    "cmakelists.txt": Language("CMake"),
    "rakefile": Language("Ruby"),
    "gemfile": Language("Ruby"),
    "build": Language("Starlark"),
    "build.bazel": Language("Starlark"),
}

_BY_INTERPRETER = {
    "python": _BY_SUFFIX[".py"],
    "bash": _BY_SUFFIX[".sh"],
    "dash": _BY_SUFFIX[".sh"],
    "zsh": _BY_SUFFIX[".sh"],
    "sh": _BY_SUFFIX[".sh"],
    "node": _BY_SUFFIX[".js"],
    "ruby": _BY_SUFFIX[".rb"],
    "perl": _BY_SUFFIX[".pl"],
    "lua": _BY_SUFFIX[".lua"],
}

NAMES = frozenset(language.name for language in (*_BY_SUFFIX.values(), *_BY_NAME.values(), PLAIN))
"""Every language's name, so that a summary that names another one can be told."""


_CPP_HEADER = re.compile(
    r"\s*(namespace\s+\w|template\s*<|class\s+\w+\s*[:{]|using\s+\w+\s*=|(public|private):"
    r"|#\s*include\s*<(string|vector|memory|iostream|functional|type_traits|iterator)>)"
)


def language_of(path: str, lines: Sequence[str] = ()) -> Language:
    """The language that a file's name says, else its `#!` line; `PLAIN` where neither does.

    A header `.h` is C++ where a line of it can only be C++.
    """
    name = PurePosixPath(path).name.lower()
    if name in _BY_NAME:
        return _BY_NAME[name]
    found = _BY_SUFFIX.get(PurePosixPath(name).suffix)
    if name.endswith(".h") and any(map(_CPP_HEADER.match, lines)):
        return _BY_SUFFIX[".cpp"]
    if found is not None:
        return found
    if lines and lines[0].startswith("#!"):
        words = lines[0][2:].split()
        program = PurePosixPath(words[0]).name if words else ""
        if program == "env":
            # Behind its options and the variables that it sets.
            named = (word for word in words[1:] if not word.startswith("-") and "=" not in word)
            program = PurePosixPath(next(named, "")).name
        return _BY_INTERPRETER.get(program.rstrip("0123456789."), PLAIN)
    return PLAIN
