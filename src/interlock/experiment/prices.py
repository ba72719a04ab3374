"""What tokens cost: a dated table, the user's own entries over those that are shipped."""

from __future__ import annotations

import datetime
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs

from interlock.engines.chat import ChatRequest, Usage
from interlock.experiment.config import ModelConfig
from interlock.kernel.errors import ConfigError

MILLION = 1_000_000
EXPECTED_OUTPUT = 400
"""Output tokens an answer that an estimate assumes, where `max_tokens` allows as many."""
BYTES_A_TOKEN = 4
"""English text, about: an estimate's assumption."""
OVERHEAD = 64
"""Tokens that a chat template may add to a prompt."""

# 20250514, 2025-05-14, 002, latest
_RELEASE = re.compile(r"-(\d{8}|\d{4}-\d\d-\d\d|\d{3}|latest)$")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars a million tokens; `cached` for input that came from a cache."""

    input: float
    output: float
    cached: float

    def cost(self, usage: Usage) -> float | None:
        """US dollars of a request, None where the provider did not count."""
        if usage.input is None or usage.output is None:
            return None
        cached = min(usage.cached or 0, usage.input)
        fresh = usage.input - cached
        return (fresh * self.input + cached * self.cached + usage.output * self.output) / MILLION

    def worst(self, request: ChatRequest) -> float:
        """The most that a request can cost: a token a byte of the prompt, and all of max_tokens.

        Byte-level tokenizers make no more tokens than that of a text.
        """
        spent = prompt_bytes(request) + OVERHEAD
        return (spent * self.input + request.sampling.max_tokens * self.output) / MILLION

    def expected(self, request: ChatRequest) -> float:
        """An estimate before anything is known: four bytes a token, and 400 tokens of answer."""
        output = min(request.sampling.max_tokens, EXPECTED_OUTPUT)
        return (prompt_bytes(request) / BYTES_A_TOKEN * self.input + output * self.output) / MILLION


FREE = Price(0.0, 0.0, 0.0)


def prompt_bytes(request: ChatRequest) -> int:
    """The bytes of all messages in UTF-8."""
    return sum(len(message.content.encode()) for message in request.messages)


class PriceTable:
    """Prices by provider type and model, with their date. Raises ConfigError for a malformed file.

    The shipped table, then the user's in the configuration directory, then `path`; later ones
    replace what they name.
    """

    def __init__(self, path: Path | None = None) -> None:
        shipped = shipped_text()
        self.as_of: dict[str, str] = {}
        self._shipped: dict[tuple[str, str], Price] = {}
        self._own: dict[tuple[str, str], Price] = {}
        self._read(shipped, "the shipped price table", self._shipped)
        own = user_path()
        if own.exists():
            self._read(_text(own), str(own), self._own)
        if path is not None:
            self._read(_text(path), str(path), self._own)

    def price(self, model: ModelConfig) -> Price | None:
        """The price of a model's tokens, None where it is not known.

        What is shipped does not hold for another server (`base_url`): it has prices of its own.
        """
        tables = [self._own] if model.options.get("base_url") else [self._own, self._shipped]
        for table in tables:
            exact = table.get((model.type, model.name))
            if exact is not None:
                return exact
            bare = _RELEASE.sub("", model.name)
            if (model.type, bare) in table:
                return table[model.type, bare]
        return None

    def entries(self) -> list[tuple[str, str, Price]]:
        """Provider type, model and price of every entry, the user's in place of the shipped."""
        merged = self._shipped | self._own
        return [(*name, merged[name]) for name in sorted(merged)]

    def _read(self, text: str, what: str, table: dict[tuple[str, str], Price]) -> None:
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{what} is not TOML: {error}") from None
        date = document.pop("as_of", None)
        if not isinstance(date, datetime.date):
            raise ConfigError(f"{what}: as_of is missing; it must be a date such as 2026-01-31")
        self.as_of[what] = date.isoformat()
        for provider, models in document.items():
            if not isinstance(models, dict):
                raise ConfigError(f"{what}: {provider} must be a table of models")
            for model, entry in models.items():
                table[provider, model] = _price(entry, f"{what}: {provider}.{model}")


def _price(entry: Any, what: str) -> Price:
    if not isinstance(entry, dict) or not {"input", "output"} <= entry.keys():
        raise ConfigError(f"{what} must be a table with input and output")
    unknown = entry.keys() - {"input", "output", "cached"}
    if unknown:
        raise ConfigError(f"{what}.{min(unknown)} is not known")
    for name, value in entry.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
            raise ConfigError(f"{what}.{name} must be dollars a million tokens, 0 or more")
    return Price(entry["input"], entry["output"], entry["cached" if "cached" in entry else "input"])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"prices {path} is not UTF-8") from None
    except OSError as error:
        raise ConfigError(f"prices {path} cannot be read: {error.strerror}") from None


def shipped_text() -> str:
    """The shipped table, for a copy to edit."""
    return resources.files("interlock.experiment").joinpath("prices.toml").read_text("utf-8")


def user_path() -> Path:
    """Where the user's own table is looked for."""
    return platformdirs.user_config_path("interlock") / "prices.toml"
