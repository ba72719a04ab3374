"""Prices: dated, the user's before the shipped, and worst cases that hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.engines.chat import ChatRequest, Message, Sampling, Usage
from interlock.errors import ConfigError
from interlock.experiment.config import ModelConfig, parse_config
from interlock.experiment.prices import OVERHEAD, Price, PriceTable


@pytest.fixture(autouse=True)
def _no_table_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def model(name: str, kind: str, **more: Any) -> ModelConfig:
    """A model of a configuration."""
    return parse_config({"models": [{"name": name, "type": kind, **more}]}).models[0]


def test_the_shipped_table_is_dated_and_knows_releases_by_their_name() -> None:
    table = PriceTable()
    assert table.as_of["the shipped price table"] >= "2025-11-01"
    dated = table.price(model("claude-3-5-sonnet-20241022", "claude"))
    assert dated == table.price(model("claude-3-5-sonnet", "claude"))
    assert table.price(model("gemini-1.5-pro-002", "gemini")) is not None
    # The first release of this one costs more than those that its bare name stands for.
    assert table.price(model("gpt-4o-2024-05-13", "openai")) == Price(5.0, 15.0, 5.0)
    assert table.price(model("gpt-4o-2024-11-20", "openai")) == Price(2.5, 10.0, 1.25)
    # A name that begins alike is another model, and may cost ten times as much.
    assert table.price(model("gpt-5-pro", "openai")) is None
    assert table.price(model("gpt-4o", "claude")) is None
    # Only what ends the name is a release: a tuned model has a price of its own.
    assert table.price(model("gemini-2.0-flash-001-tuned", "gemini")) is None
    assert table.price(model("gpt-4o-2024-11-20-mini", "openai")) is None


def test_another_server_has_prices_of_its_own(tmp_path: Path) -> None:
    there = model("gpt-4o", "openai", base_url="http://127.0.0.1/v1")
    assert PriceTable().price(there) is None
    mine = tmp_path / "mine.toml"
    mine.write_text('as_of = 2026-01-01\n[openai]\n"gpt-4o" = { input = 1.0, output = 2.0 }\n')
    assert PriceTable(mine).price(there) == Price(1.0, 2.0, 1.0)


def test_a_table_in_the_configuration_directory_is_found(tmp_path: Path) -> None:
    own = tmp_path / "config" / "interlock" / "prices.toml"
    own.parent.mkdir(parents=True)
    own.write_text("as_of = 2026-01-01\n[acme]\nm = { input = 1, output = 2, cached = 0 }\n")
    assert PriceTable().price(model("m", "acme")) == Price(1, 2, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[claude]", "as_of is missing"),
        ("as_of = 2026-01-01\nclaude = 3", "claude must be a table"),
        ("as_of = 2026-01-01\n[claude]\nm = 3", "claude.m must be a table"),
        ("as_of = 2026-01-01\n[claude]\nm = { input = 1 }", "input and output"),
        ("as_of = 2026-01-01\n[claude]\nm = { input = -1, output = 1 }", "m.input must be"),
        ("as_of = 2026-01-01\n[claude]\nm = { input = 1, output = 1, x = 1 }", "m.x is not known"),
        ("as_of =", "is not TOML"),
    ],
)
def test_a_malformed_table_is_named_by_its_entry(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        PriceTable(path)


def test_a_cost_counts_cached_input_apart() -> None:
    price = Price(input=10.0, output=100.0, cached=1.0)
    cost = price.cost(Usage(input=1_000_000, output=10_000, cached=900_000))
    assert cost == pytest.approx(1.0 + 0.9 + 1.0)
    assert price.cost(Usage(input=3)) is None


@given(
    text=st.text(max_size=200),
    output=st.integers(0, 2048),
    prices=st.tuples(st.floats(0, 100), st.floats(0, 100)),
)
def test_no_answer_within_the_limits_costs_more_than_the_worst_case(
    text: str, output: int, prices: tuple[float, float]
) -> None:
    price = Price(prices[0], prices[1], prices[0])
    text = text.encode(errors="replace").decode()
    asked = ChatRequest("m", (Message("user", text),), Sampling(max_tokens=2048))
    most = len(text.encode()) + OVERHEAD
    cost = price.cost(Usage(input=most, output=output))
    assert cost is not None
    assert cost <= price.worst(asked) * (1 + 1e-12)
    assert price.expected(asked) <= price.worst(asked) * (1 + 1e-12)
