"""Names stand for factories, which packages offer as entry points and programs register."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.routes import Says, accept

from interlock.errors import BundleIntegrityError, ConfigError, MissingExtraError
from interlock.kernel.registry import (
    ENGINES,
    GUARDS,
    ROUTES,
    Registry,
    register_engine,
    register_guard,
    register_route,
)
from interlock.kernel.route import Route, RouteStep

HERE = Path()


def says(options: Mapping[str, Any], *, base: Path) -> Says:
    """A factory whose engine answers what its option `value` says."""
    return Says(options.get("value", 1.0))


def registry() -> Registry:
    """An empty registry of its own, in a group that no package uses."""
    return Registry("engine", "interlock.tests", lambda made: hasattr(made, "answer"))


PACKAGE = """
from dataclasses import dataclass

@dataclass
class Engine:
    options: dict
    base: object
    def answer(self, item, *, deadline):
        return self.options["value"]

def make(options, *, base):
    return Engine(options, base)

def needs_a_library(options, *, base):
    import a_library_that_is_not_installed

def broken(options, *, base):
    raise RuntimeError("key=" + options["key"])
"""


def install(site: Path, distribution: str, entries: str, modules: Mapping[str, str]) -> None:
    """What an installer leaves behind: modules, and a .dist-info with entry points."""
    for name, code in modules.items():
        (site / f"{name}.py").write_text(code)
    info = site / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[interlock.engines]\n{entries}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on the import path with one installed package, acme."""
    install(
        tmp_path,
        "acme",
        "acme-model = acme_engines:make\n"
        "acme-torch = acme_engines:needs_a_library [torch]\n"
        "acme-bare = acme_engines:needs_a_library\n"
        "acme-gone = acme_no_such_module:make [torch]\n"
        "acme-attribute = acme_engines:no_such_name\n"
        "acme-broken = acme_engines:broken\n",
        {"acme_engines": PACKAGE},
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("acme_engines", None)


# What packages offer


def test_a_packages_engine_is_known_by_name_and_imported_only_when_used(site: Path) -> None:
    assert "acme-model" in ENGINES.names()
    assert "acme_engines" not in sys.modules
    engine = ENGINES.make("acme-model", {"value": 3}, base=site)
    assert "acme_engines" in sys.modules
    assert (engine.options, engine.base) == ({"value": 3}, site)


@pytest.mark.parametrize("name", ["acme-torch", "acme-gone"])
def test_a_missing_library_names_the_extra_that_brings_it(site: Path, name: str) -> None:
    with pytest.raises(MissingExtraError, match=name) as caught:
        ENGINES.make(name, base=HERE)
    assert caught.value.extra == "torch"
    assert caught.value.hint == "pip install 'acme[torch]'"
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_missing_library_without_an_extra_is_named_itself(site: Path) -> None:
    with pytest.raises(ConfigError, match="a_library_that_is_not_installed"):
        ENGINES.make("acme-bare", base=HERE)


def test_a_factory_that_breaks_is_named_and_no_option_is_quoted(site: Path) -> None:
    with pytest.raises(ConfigError, match=r"acme-attribute.*AttributeError"):
        ENGINES.make("acme-attribute", base=HERE)
    with pytest.raises(ConfigError, match=r"acme-broken.*RuntimeError") as caught:
        ENGINES.make("acme-broken", {"key": "s3cret"}, base=HERE)
    assert "s3cret" not in str(caught.value)


def test_a_name_that_means_two_things_is_refused(site: Path) -> None:
    install(site, "rival", "acme-model = acme_engines:make", {})
    with pytest.raises(ConfigError, match="by acme and by rival"):
        ENGINES.make("acme-model", base=HERE)


def test_a_package_cannot_be_shadowed_by_the_program_either(site: Path) -> None:
    register_engine("acme-model", says)
    try:
        with pytest.raises(ConfigError, match="by acme and by this process"):
            ENGINES.make("acme-model", base=HERE)
    finally:
        ENGINES.unregister("acme-model")


# What programs register


def test_a_registered_factory_makes_what_its_options_say() -> None:
    engines = registry()
    engines.register("says", says)
    assert engines.names() == ["says"]
    assert engines.make("says", {"value": 7}, base=HERE).value == 7
    assert engines.make("says", base=HERE).value == 1.0


def test_a_factory_cannot_change_its_callers_options() -> None:
    def greedy(options: Any, *, base: Path) -> Says:
        options.clear()
        return Says(1.0)

    engines, options = registry(), {"value": 7}
    engines.register("greedy", greedy)
    engines.make("greedy", options, base=HERE)
    assert options == {"value": 7}


def test_an_unknown_name_lists_the_known_ones_those_most_like_it_first() -> None:
    engines = registry()
    with pytest.raises(ConfigError, match="'onnx'") as caught:
        engines.make("onnx", base=HERE)
    assert caught.value.hint == "no engine is registered"
    for name in ("analytic", "onnx-pool", "onnx", "prover"):
        engines.register(name, says)
    with pytest.raises(ConfigError, match="'onnx-pol'") as caught:
        engines.make("onnx-pol", base=HERE)
    assert caught.value.hint == "known are: onnx-pool, onnx, analytic, prover"


@pytest.mark.parametrize("name", ["", "os:system", "a b", "../x", "-x", "é", "a\n", "a/b"])
def test_a_name_is_never_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        registry().register(name, says)


def test_a_module_path_is_just_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match="unknown engine 'os:system'"):
        ENGINES.make("os:system", base=HERE)


def test_a_name_is_registered_once() -> None:
    engines = registry()
    engines.register("says", says)
    with pytest.raises(ConfigError, match="already"):
        engines.register("says", says)
    engines.unregister("says")
    engines.register("says", says)
    with pytest.raises(ConfigError, match="'other'"):
        engines.unregister("other")


def test_our_own_errors_pass_as_they_are() -> None:
    def tampered(options: Mapping[str, Any], *, base: Path) -> Any:
        raise BundleIntegrityError("model.onnx: the digest differs")

    engines = registry()
    engines.register("tampered", tampered)
    with pytest.raises(BundleIntegrityError):
        engines.make("tampered", base=HERE)


@pytest.mark.parametrize(
    ("kind", "register", "good", "bad"),
    [
        (ENGINES, register_engine, Says(1.0), accept()),
        (GUARDS, register_guard, accept(), Says(1.0)),
        (ROUTES, register_route, Route("r", (RouteStep("a", Says(1)),), "refuse"), accept()),
    ],
)
def test_each_kind_refuses_what_is_of_another(
    kind: Registry, register: Any, good: Any, bad: Any
) -> None:
    register("test-good", lambda options, *, base: good)
    register("test-bad", lambda options, *, base: bad)
    try:
        assert kind.make("test-good", base=HERE) is good
        message = f"made a {type(bad).__name__}, which is no {kind.kind}"
        with pytest.raises(ConfigError, match=re.escape(message)):
            kind.make("test-bad", base=HERE)
    finally:
        kind.unregister("test-good")
        kind.unregister("test-bad")
