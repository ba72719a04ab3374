"""Texts drawn from grammars: the generated part of the training set, the same for a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

from interlock.kernel.errors import ConfigError

_SYMBOL = re.compile(r"<([a-z][a-z0-9_]*)>")
_CHOICE = re.compile(r"\[([^\[\]]*\|[^\[\]]*)\]")
_DEEPEST = 40


class Grammar:
    """Symbols and what each may become.

    A file has a line `@name` for each symbol, and below it one production a line. In a production
    `<name>` stands for a symbol, `[a|b|]` for one of its parts and `\\n` for a line's end. Lines
    that start with `#` are comments.
    """

    def __init__(self, productions: Mapping[str, tuple[str, ...]]) -> None:
        self.productions = dict(productions)
        for name, lines in self.productions.items():
            for line in lines:
                for used in _SYMBOL.findall(line):
                    if used not in self.productions:
                        raise ConfigError(f"grammar: {name} uses <{used}>, which is not there")

    def draw(self, symbol: str, rng: random.Random) -> str:
        """A text of `symbol`. Raises ConfigError for an unknown symbol and for endless nesting."""
        if symbol not in self.productions:
            raise ConfigError(f"grammar: there is no <{symbol}>")
        return _tidy(self._expand(f"<{symbol}>", rng, 0))

    def _expand(self, text: str, rng: random.Random, depth: int) -> str:
        if depth > _DEEPEST:
            raise ConfigError(f"grammar: endless nesting at {text[:60]!r}")
        text = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), text)
        return _SYMBOL.sub(
            lambda found: self._expand(rng.choice(self.productions[found[1]]), rng, depth + 1),
            text,
        )


def _tidy(text: str) -> str:
    """Line ends put in, no doubled spaces, none before a stop, a capital at the start."""
    text = text.replace("\\n", "\n").replace("\\|", "|").strip(" ")
    text = re.sub(r"(?<=\S) {2,}", " ", text)
    text = re.sub(r"(?<=\w) (?=[.!?](?:\s|$))", "", text)
    return text[:1].upper() + text[1:]


@lru_cache(maxsize=1)
def shipped() -> Grammar:
    """The grammar in this package, of all its files together."""
    found: dict[str, tuple[str, ...]] = {}
    folder = resources.files("interlock.detect.training") / "grammar"
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".txt"):
            for name, lines in parse(file.read_text("utf-8"), file.name).items():
                found[name] = found.get(name, ()) + lines
    return Grammar(found)


def parse(text: str, name: str) -> dict[str, tuple[str, ...]]:
    """The productions of a grammar file. Raises ConfigError for a production without a symbol."""
    found: dict[str, list[str]] = {}
    symbol: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("@"):
            symbol = line[1:].strip()
            found.setdefault(symbol, [])
        elif symbol is None:
            raise ConfigError(f"{name}, line {number}: a production without a symbol")
        else:
            found[symbol].append(line.strip())
    return {key: tuple(lines) for key, lines in found.items()}
