"""Chat providers under names, and their options checked before anything runs."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.fake_llm import FakeLLM, Plan
from support.markdown import ROOT

from interlock.engines.chat_registry import (
    CHAT_PROVIDERS,
    make_chat_provider,
    read_options,
    register_chat_provider,
)
from interlock.errors import ConfigError, MissingExtraError


class Options(msgspec.Struct, forbid_unknown_fields=True):
    api_key: str
    retries: int = 3


def test_the_providers_that_ship_are_known() -> None:
    assert {"claude", "gemini", "local", "openai"} <= set(CHAT_PROVIDERS.names())


def test_a_program_adds_its_own() -> None:
    class Parrot:
        async def answer(self, request: object, *, deadline: object) -> None: ...

    def parrot(options: Mapping[str, Any], *, base: Path) -> Parrot:
        return Parrot()

    register_chat_provider("parrot", parrot)
    try:
        assert isinstance(make_chat_provider("parrot", base=Path()), Parrot)
    finally:
        CHAT_PROVIDERS.unregister("parrot")


def test_an_unknown_type_is_told_with_those_like_it() -> None:
    with pytest.raises(ConfigError, match="unknown model type 'cloude'") as found:
        make_chat_provider("cloude", base=Path())
    assert found.value.hint.startswith("known are: claude")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"api_key": "k", "retrys": 1}, "x: unknown option 'retrys'", "did you mean 'retries'?"),
        ({"api_key": "k", "zzz": 1}, "x: unknown option 'zzz'", "known are: api_key, retries"),
        ({}, "missing required field", ""),
        ({"api_key": 7}, "x: option 'api_key': Expected `str`", ""),
        ({"api_key": "k", "retries": "secret"}, "x: option 'retries': Expected `int`", ""),
    ],
)
def test_a_wrong_option_is_named_and_its_value_is_not(
    options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as found:
        read_options(Options, options, "x")
    assert message in found.value.message
    assert "secret" not in found.value.message
    assert found.value.hint == hint


KEYS = {"claude": "ANTHROPIC_API_KEY", "gemini": "GOOGLE_API_KEY", "openai": "OPENAI_API_KEY"}


@pytest.mark.parametrize("name", ["claude", "gemini", "openai"])
def test_a_key_that_was_never_set_is_found_before_anything_is_sent(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = {"claude": "anthropic", "gemini": "google.genai", "openai": "openai"}
    pytest.importorskip(packages[name])
    for variable in KEYS.values():
        monkeypatch.delenv(variable, raising=False)
    for key in (None, "", "${ANTHROPIC_API_KEY}"):
        with pytest.raises(ConfigError, match=f"{name}: no api_key") as found:
            make_chat_provider(name, {"api_key": key}, base=Path())
        assert "_API_KEY" in found.value.hint
    with pytest.raises(ConfigError, match="no header can carry"):
        make_chat_provider(name, {"api_key": "kéy"}, base=Path())
    with pytest.raises(ConfigError, match="must begin with http"):
        make_chat_provider(name, {"api_key": "k", "base_url": "localhost:1"}, base=Path())


@pytest.mark.parametrize("name", ["claude", "gemini"])
def test_the_vendors_variable_is_used_without_a_key_and_for_the_vendor_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip({"claude": "anthropic", "gemini": "google.genai"}[name])
    monkeypatch.setenv(KEYS[name], "sk-secret")
    assert "sk-secret" not in repr(vars(make_chat_provider(name, {}, base=Path())))
    with pytest.raises(ConfigError, match="no api_key"):
        make_chat_provider(name, {"base_url": "http://localhost:1"}, base=Path())


@pytest.mark.parametrize("name", ["claude", "gemini", "openai"])
@pytest.mark.parametrize(
    "extra", [{"n": 4}, {"max_tokens": 9}, {"generationConfig": {"candidateCount": 4}}]
)
def test_extra_body_does_not_change_what_the_request_sets(name: str, extra: dict[str, Any]) -> None:
    pytest.importorskip({"gemini": "google.genai", "claude": "anthropic"}.get(name, name))
    with pytest.raises(ConfigError, match=r"extra_body holds (n|max_tokens|candidateCount),"):
        make_chat_provider(name, {"api_key": "k", "extra_body": extra}, base=Path())


@pytest.mark.parametrize("name", ["claude", "gemini", "local", "openai"])
def test_a_missing_package_is_one_line_that_names_the_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    options = {"model_path": "x"} if name == "local" else {"api_key": "k"}
    extra = "hf" if name == "local" else name
    with pytest.raises(MissingExtraError) as found:
        make_chat_provider(name, options, base=Path())
    assert found.value.message == f"model type '{name}' needs the extra '{extra}'"
    assert found.value.hint == f"pip install 'interlock[{extra}]'"


def test_the_fake_server_ends_with_its_input() -> None:
    server = FakeLLM(Plan())
    process = server._process
    server.close()
    assert process.returncode == 0


def test_every_option_is_in_the_reference() -> None:
    from interlock.engines.claude import ClaudeOptions
    from interlock.engines.gemini import GeminiOptions
    from interlock.engines.huggingface import LocalOptions
    from interlock.engines.onnx_chat import OnnxOptions
    from interlock.engines.openai import OpenAIOptions

    page = (ROOT / "docs" / "reference" / "providers.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(\w+)` \|", page, flags=re.M))
    schemas: list[type[msgspec.Struct]] = [
        ClaudeOptions,
        GeminiOptions,
        LocalOptions,
        OnnxOptions,
        OpenAIOptions,
    ]
    # Every type that ships is there, under the extra that it needs.
    for point in entry_points(group="interlock.chat_providers"):
        if point.value.startswith("interlock."):
            row = rf"^\| `{point.name}` \|.*\| `{point.extras[0]}` \|"
            assert re.search(row, page, flags=re.M), point.name
    for schema in schemas:
        assert {each.name for each in msgspec.structs.fields(schema)} <= named
