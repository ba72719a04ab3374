"""Imports go one way, `import interlock` stays light, and every module imports on its own."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import interlock

PACKAGE = Path(interlock.__file__).parent

# A room may import itself and the rooms in the rows above its own; the rooms of one row never
# import one another.
ROWS = (
    {"kernel"},
    {"bundle", "report"},
    {"engines"},
    {"strict", "verified", "detect", "experiment", "summarize"},
    {"serve"},
    {"demo"},
    {"cli"},
)
RANK = {room: rank for rank, row in enumerate(ROWS) for room in row}

# Files beside the rooms, and the room whose rules they follow.
BESIDE = {
    "interlock": "kernel",
    "interlock.ort": "kernel",
    "interlock.errors": "kernel",
    "interlock.__main__": "cli",
}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room that a module of ours belongs to."""
    if module in BESIDE:
        return BESIDE[module]
    return module.split(".")[1]


def imports_of(source: str, module: str, is_package: bool) -> set[str]:
    """Modules of ours that `source` imports anywhere: in functions and for type checking too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            # `from interlock import x` may name a module or something in one; both are in x's room.
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).split(".")[-1]
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                found.add(node.args[0].value)
    return {name for name in found if name.split(".")[0] == "interlock"}


def wrong_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """What `source`, as the file of `module`, must not import."""
    own = room_of(module)
    wrong = []
    for name in sorted(imports_of(source, module, is_package)):
        if name in ("interlock", "interlock.__version__"):
            continue
        other = room_of(".".join(name.split(".")[:2]))
        if other != own and not RANK.get(other, len(ROWS)) < RANK[own]:
            wrong.append(f"{module} imports {name}: {own} stands below {other} or beside it")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_one_way(path: Path) -> None:
    module = module_of(path)
    assert room_of(module) in RANK, f"{path} is in no room: give it one in ROWS"
    assert wrong_imports(path.read_text("utf-8"), module, path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("interlock.kernel.route", "import interlock.bundle.load"),
        ("interlock.kernel.route", "from interlock import strict"),
        ("interlock.kernel.route", "from interlock.cli.output import print_json"),
        ("interlock.kernel.route", "from ..engines import onnx"),
        ("interlock.kernel.route", "def f():\n    from interlock.report.page import Page"),
        ("interlock.kernel.route", "if TYPE_CHECKING:\n    from interlock.report.page import Page"),
        ("interlock.kernel.route", "import_module('interlock.engines.onnx')"),
        ("interlock.bundle.load", "import interlock.report.page"),
        ("interlock.strict.decode", "from interlock.detect import score"),
        ("interlock.verified.slices", "import interlock.strict"),
        ("interlock.engines.onnx", "from interlock.strict.decode import strict_inference"),
        ("interlock.demo.arm", "from interlock.cli import output"),
        ("interlock.errors", "import interlock.bundle"),
    ],
)
def test_the_rule_finds_what_it_forbids(module: str, source: str) -> None:
    assert len(wrong_imports(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("interlock.kernel.route", "from interlock.kernel.batch import Array\nimport numpy"),
        ("interlock.kernel.route", "from . import batch\nfrom .batch import Array"),
        ("interlock.strict.decode", "from interlock.engines.onnx import OnnxEngine"),
        ("interlock.strict.decode", "from interlock import __version__, errors"),
        ("interlock.cli.demo", "from interlock.demo.arm import run"),
        ("interlock.__main__", "from interlock.cli import main"),
    ],
)
def test_the_rule_allows_the_rest(module: str, source: str) -> None:
    assert wrong_imports(source, module) == []


def run_python(code: str, *arguments: str) -> Any:
    """What `code` prints as JSON, in a fresh interpreter with the same import path."""
    search = [str(PACKAGE.parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {search!r}\n{code}", *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def loaded_by(module: str) -> set[str]:
    """The modules that `import module` adds to a fresh interpreter."""
    added: list[str] = run_python(
        "import json\n"
        "before = set(sys.modules)\n"
        f"import {module}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    return set(added)


def foreign(modules: set[str]) -> set[str]:
    """The packages among `modules` that are neither ours nor the standard library's."""
    return {name.split(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"interlock"}


def test_import_interlock_loads_nothing_but_the_error_tree() -> None:
    loaded = loaded_by("interlock")
    assert foreign(loaded) == set()
    ours = {name for name in loaded if name.startswith("interlock")}
    assert ours == {"interlock", "interlock.errors", "interlock.kernel", "interlock.kernel.errors"}
    assert len(loaded) <= 30


KERNEL = [module_of(path) for path in FILES if room_of(module_of(path)) == "kernel"]


def test_the_kernel_needs_only_small_packages() -> None:
    """Heavy ones (onnx, onnxruntime, torch, rich, jinja2, click) have no place in it.

    msgspec imports typing_extensions where it is installed.
    """
    loaded = loaded_by(", ".join(KERNEL))
    small = {"numpy", "msgspec", "typing_extensions", "filelock", "platformdirs"}
    assert foreign(loaded) <= small


def test_the_command_line_starts_without_what_a_verb_may_need() -> None:
    loaded = foreign(loaded_by("interlock.cli"))
    assert not loaded & {"numpy", "onnx", "onnxruntime", "torch", "rich", "jinja2"}


# What needs an extra at import; nothing imports these before the extra is asked for.
NEEDS = {
    "interlock.detect.training.assemble": "torch",
    "interlock.detect.training.encoder": "torch",
    "interlock.detect.training.minilm": "torch",
    "interlock.detect.training.recipe": "torch",
    "interlock.engines.huggingface_decode": "torch",
    "interlock.engines.huggingface_draw": "torch",
    "interlock.engines.huggingface_load": "torch",
    "interlock.strict.decode_numba": "numba",
    "interlock.strict.decode_torch": "torch",
    "interlock.strict.export_torch": "torch",
    "interlock.strict.wrapper": "torch",
}


def test_every_module_imports_on_its_own() -> None:
    """In an order of its own, a cycle between two modules may hide behind a third."""
    modules = [module_of(path) for path in FILES]
    here = [m for m in modules if m not in NEEDS or importlib.util.find_spec(NEEDS[m])]
    assert set(NEEDS) <= set(modules)
    failed = run_python(
        "import importlib, json, traceback\n"
        "failed = {}\n"
        "for module in sys.argv[1:]:\n"
        "    for name in [n for n in sys.modules if n.split('.')[0] == 'interlock']:\n"
        "        del sys.modules[name]\n"
        "    try:\n"
        "        importlib.import_module(module)\n"
        "    except BaseException:\n"
        "        failed[module] = traceback.format_exc()\n"
        "print(json.dumps(failed))",
        *here,
    )
    assert failed == {}


def test_onnxruntime_is_imported_in_one_place_only() -> None:
    """The one that turns its telemetry off first."""
    statement = re.compile(r"^\s*(import|from) onnxruntime|import_module\(.onnxruntime", re.M)
    importers = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if statement.search(path.read_text(encoding="utf-8"))
    }
    assert importers == {"ort.py"}
