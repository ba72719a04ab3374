"""Configurations: comments, environment variables, and mistakes that are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import ConfigError
from interlock.experiment.config import expand, load_config, parse_config, parse_json
from interlock.experiment.plan import sample_seed, variants

MODEL = {"name": "m", "type": "claude", "temperature": 0.0}


def test_comments_are_left_out_and_strings_stay(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        '{\n  // a comment with "quotes"\n'
        '  "base_url": "http://host//v1", // after a value\n'
        '  "text": "a \\" // b",\n'
        '  "requests_per_minute": 20  // Reduce from 60\n}'
    )
    assert load_config(path) == {
        "base_url": "http://host//v1",
        "text": 'a " // b',
        "requests_per_minute": 20,
    }


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())))
def test_json_without_comments_is_read_as_json_is(value: dict[str, Any]) -> None:
    import json

    assert parse_json(json.dumps(value), "config") == value
    assert parse_json(json.dumps(value, indent=1, ensure_ascii=False), "config") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n"a": 1,\n// x\n"b" 2}', "line 4, column 5"),
        ('{"seed": 1, "seed": 2}', "'seed' is there twice"),
        ("[1]", "must be an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1', "line 1"),
        ('{"seed": ' + "1" * 5000 + "}", "a number with too many digits"),
    ],
)
def test_what_is_not_json_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_json(text, "config")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modles": []}, "modles is not known; is it models"),
        ({"max_retries": -1}, "max_retries is -1"),
        ({"seed": 1.5}, "seed is the number 1.5; it must be a whole number"),
        ({"num_prompts": 0}, "num_prompts is 0"),
        ({"num_prompts": 10**400}, "num_prompts is too large"),
        ({"budget_usd": 10**400}, "budget_usd is too large"),
        ({"description": "\ud800"}, "description holds a lone surrogate"),
        ({"\ud800": 1}, "the name of a field holds a lone surrogate"),
        ({"models": [MODEL | {"system": "\ud800"}]}, r"models\[0\].system holds a lone surrogate"),
        (
            {"models": [MODEL | {"options": {"extra_body": {"a": ["b", "\udfff"]}}}]},
            r"models\[0\].options.extra_body.a\[1\] holds a lone surrogate",
        ),
        ({"requests_per_minute": "60"}, "requests_per_minute is text; it must be a number"),
        ({"budget_usd": True}, "budget_usd is true; it must be a number"),
        ({"on_not_applied": "drop"}, "on_not_applied"),
        ({"models": []}, "models is an array; it must be an array of models, one at least"),
        ({"models": "m"}, "models is text"),
        ({"models": [{"name": "m"}]}, r"models\[0\].type is missing"),
        ({"models": [MODEL | {"temprature": 1}]}, r"models\[0\].temprature .* temperature"),
        (
            {"models": [MODEL | {"model": "x"}]},
            r"models\[0\].model is not known.* stands in options",
        ),
        ({"models": [MODEL | {"temperature": 3}]}, r"models\[0\].temperature is 3"),
        ({"models": [MODEL | {"temperature": []}]}, "empty array"),
        ({"models": [MODEL | {"temperature": [0, 0.0]}]}, "one temperature twice"),
        ({"models": [MODEL, MODEL]}, "both called 'm'"),
        ({"models": [MODEL | {"label": "a|b"}]}, "names no model"),
        ({"models": [MODEL | {"api_key": "sk-123"}]}, "api_key is not of the form"),
        ({"models": [MODEL | {"api_key": "sk-${K}"}]}, "api_key holds more than"),
        (
            {"models": [MODEL | {"options": {"api_key": "sk-123"}}]},
            r"models\[0\].options.api_key is not of the form",
        ),
        (
            {"models": [MODEL | {"options": {"extra_body": {"auth": [{"X-Api-Key": "sk"}]}}}]},
            r"models\[0\].options.extra_body.auth\[0\].X-Api-Key is not of the form",
        ),
        ({"models": [MODEL | {"base_url": "https://u:pw@h/v1"}]}, "base_url holds credentials"),
        ({"models": [MODEL | {"base_url": "https://h/v1?key=abc"}]}, "base_url holds credentials"),
    ],
)
def test_every_mistake_is_named_by_its_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as found:
        parse_config({"models": [MODEL]} | change)
    assert str(found.value).encode()


def test_all_mistakes_are_told_at_once_and_no_key_among_them() -> None:
    raw = {"sed": 1, "samples": "two", "models": [MODEL | {"api_key": "sk-123", "device": 0}]}
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    message = caught.value.message
    assert "4 problems" in message
    for name in ("sed", "samples", "api_key", "device"):
        assert name in message
    assert "sk-123" not in message


def test_variables_are_replaced_where_they_are_used_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_KEY", "k")
    config = parse_config({"models": [MODEL | {"api_key": "${ACME_KEY}"}]})
    assert config.models[0].options["api_key"] == "${ACME_KEY}"
    assert expand("a ${ACME_KEY} $ACME_KEY ${", "x") == "a k $ACME_KEY ${"
    monkeypatch.delenv("ACME_KEY")
    with pytest.raises(ConfigError, match="models: the environment variable ACME_KEY is not set"):
        expand("${ACME_KEY}", "models")


def test_a_model_has_what_the_experiment_has_unless_it_says_otherwise() -> None:
    config = parse_config(
        {
            "max_tokens": 100,
            "system": "Be brief.",
            "requests_per_minute": 60,
            "models": [
                MODEL | {"temperature": [0, 0.7], "system": "", "max_tokens": 5, "top_p": 0.9},
                {"name": "n", "type": "openai", "requests_per_minute": 10},
            ],
        }
    )
    first, second = config.models
    assert (first.system, first.sampling.max_tokens, first.sampling.top_p) == ("", 5, 0.9)
    assert (second.system, second.sampling.max_tokens) == ("Be brief.", 100)
    assert (first.limits["requests_per_minute"], second.limits["requests_per_minute"]) == (60, 10)
    labels = [variant.label for variant in variants(config)]
    assert labels == ["m_temp0.0", "m_temp0.7", "n_tempdefault"]


def test_models_that_share_key_and_server_share_an_account() -> None:
    models: list[dict[str, Any]] = [
        {"name": "a", "type": "claude", "api_key": "${K}"},
        {"name": "b", "type": "claude", "api_key": "${K}"},
        {"name": "c", "type": "claude", "api_key": "${OTHER}"},
    ]
    accounts = [model.account for model in parse_config({"models": models}).models]
    assert accounts[0] == accounts[1] != accounts[2]
    models[1]["requests_per_minute"] = 10
    with pytest.raises(ConfigError, match=r"'a' and 'b' share an account, .* differ: none and 10"):
        parse_config({"models": models})
    models[1]["account"] = "b"
    parse_config({"models": models})


def test_local_models_give_logprobs_unless_told_otherwise() -> None:
    def logprobs(**entry: Any) -> int | None:
        model = {"name": "m", "type": "local", **entry}
        return parse_config({"models": [model]}).models[0].sampling.logprobs

    assert logprobs() == 5
    assert logprobs(logprobs=2) == 2
    assert logprobs(logprobs=None) is None
    assert logprobs(type="openai") is None


@given(st.integers(0, 2**31 - 1), st.text(), st.integers(0, 10**6))
def test_a_samples_seed_fits_every_provider(seed: int, prompt_id: str, sample: int) -> None:
    found = sample_seed(seed, prompt_id.encode(errors="replace").decode(), sample)
    assert 0 <= found < 2**31
