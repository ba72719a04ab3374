"""Engines, guards and routes under names, so that a file can say which one it means.

A name stands for a factory. Packages offer factories as entry points (groups `interlock.engines`,
`interlock.guards`, `interlock.routes`); a program adds its own with `register_engine`,
`register_guard` and `register_route`. Nothing is imported before its name is used. A name is never
a module path: only what a package or the program itself registered can be called.

    [project.entry-points."interlock.engines"]
    classifier = "acme.classifier:make [torch]"

The extra in brackets is named in the message when the factory cannot import what it needs.
"""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from interlock.kernel.errors import ConfigError, InterlockError, MissingExtraError
from interlock.kernel.route import Route

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Factory(Protocol):
    """Makes an engine, a guard or a route.

    `options` are those of the step; `base` is the directory against which relative paths among
    them resolve (the route file's own). Raises ConfigError for an option that is wrong, naming it.
    """

    def __call__(self, options: Mapping[str, Any], *, base: Path) -> Any:
        """The engine (`answer` or `answer_batch`), guard (`check` or `check_batch`) or Route."""
        ...


@dataclass(frozen=True, slots=True)
class _Registered:
    factory: Factory
    extra: str | None


class Registry:
    """Names of one kind of thing: those registered in this process and those of packages."""

    def __init__(self, kind: str, group: str, fits: Callable[[Any], bool]) -> None:
        """`fits` tells whether what a factory made is of this kind."""
        self.kind = kind
        self.group = group
        self._fits = fits
        self._own: dict[str, _Registered] = {}
        self._lock = threading.Lock()

    def register(self, name: str, factory: Factory, *, extra: str | None = None) -> None:
        """Put `factory` under `name`; `extra` is what it needs beyond the core, if anything.

        Raises ConfigError for a malformed name, and for one that is taken in this process.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{self.kind} name {name!r}: letters, digits, '.', '_' and '-' only, "
                "the first a letter or digit"
            )
        with self._lock:
            if name in self._own:
                raise ConfigError(f"the {self.kind} '{name}' is registered already")
            self._own[name] = _Registered(factory, extra)

    def unregister(self, name: str) -> None:
        """Take back what `register` put under `name`; raises ConfigError where there is nothing."""
        with self._lock:
            if self._own.pop(name, None) is None:
                raise ConfigError(f"the {self.kind} '{name}' is not registered in this process")

    def names(self) -> list[str]:
        """Every known name, sorted. Imports nothing that the names stand for."""
        with self._lock:
            own = set(self._own)
        return sorted(own | {entry.name for entry in self._entry_points()})

    def make(self, name: str, options: Mapping[str, Any] | None = None, *, base: Path) -> Any:
        """What the factory under `name` makes of `options`.

        Raises ConfigError where the name is unknown or means two things, where the factory raised
        something foreign and where it made the wrong kind of thing; MissingExtraError where an
        import failed and an extra is named for it; else what the factory raises.
        """
        load, extra, package = self._find(name)
        try:
            made = load()(dict(options or {}), base=base)
        except InterlockError:
            raise
        except ImportError as error:
            if extra is None:
                missing = error.name or "a module"
                raise ConfigError(f"{self.kind} '{name}' cannot import {missing}") from error
            needs = MissingExtraError(extra, f"{self.kind} '{name}'")
            needs.hint = f"pip install '{package}[{extra}]'"
            raise needs from error
        except Exception as error:
            # A foreign message may quote an option, and options may hold keys.
            raise ConfigError(
                f"{self.kind} '{name}': its factory raised {type(error).__name__}"
            ) from error
        if not self._fits(made):
            raise ConfigError(
                f"{self.kind} '{name}': its factory made a {type(made).__name__}, "
                f"which is no {self.kind}"
            )
        return made

    def _find(self, name: str) -> tuple[Callable[[], Factory], str | None, str]:
        """What loads the factory of `name`, the extra that it may need, and the extra's package."""
        with self._lock:
            own = self._own.get(name)
        entries = [entry for entry in self._entry_points() if entry.name == name]
        if len(entries) + (own is not None) > 1:
            sources = [_package(entry) for entry in entries] + ["this process"] * (own is not None)
            raise ConfigError(
                f"the {self.kind} '{name}' is registered by {' and by '.join(sorted(sources))}",
                hint="remove one of them, or rename it",
            )
        if own is not None:
            return (lambda: own.factory), own.extra, "interlock"
        if not entries:
            raise ConfigError(f"unknown {self.kind} '{name}'", hint=self._suggest(name))
        extra = entries[0].extras[0] if entries[0].extras else None
        return entries[0].load, extra, _package(entries[0])

    def _suggest(self, name: str) -> str:
        """The known names, those most like `name` first."""
        known = self.names()
        if not known:
            return f"no {self.kind} is registered"
        close = difflib.get_close_matches(name, known, n=len(known), cutoff=0.6)
        rest = [other for other in known if other not in close]
        return f"known are: {', '.join([*close, *rest])}"

    def _entry_points(self) -> list[EntryPoint]:
        # Read anew each time: an import path may have changed, and lookups are rare.
        from importlib.metadata import entry_points

        return list(entry_points(group=self.group))


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unnamed package"


def _has(*methods: str) -> Callable[[Any], bool]:
    return lambda made: any(callable(getattr(made, method, None)) for method in methods)


ENGINES = Registry("engine", "interlock.engines", _has("answer", "answer_batch"))
GUARDS = Registry("guard", "interlock.guards", _has("check", "check_batch"))
ROUTES = Registry("route", "interlock.routes", lambda made: isinstance(made, Route))


def register_engine(name: str, factory: Factory, *, extra: str | None = None) -> None:
    """Put a factory of engines under `name` for this process. See `Registry.register`."""
    ENGINES.register(name, factory, extra=extra)


def register_guard(name: str, factory: Factory, *, extra: str | None = None) -> None:
    """Put a factory of guards under `name` for this process. See `Registry.register`."""
    GUARDS.register(name, factory, extra=extra)


def register_route(name: str, factory: Factory, *, extra: str | None = None) -> None:
    """Put a factory of whole routes under `name` for this process. See `Registry.register`."""
    ROUTES.register(name, factory, extra=extra)
