"""Digests that anyone can compute again, and settings that never show a text or a secret."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.errors import InputError
from interlock.kernel import journal_digest
from interlock.kernel.journal import Item, Journal

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text().filter(lambda key: not key.startswith("$")), inner, max_size=4)
    ),
    max_leaves=10,
)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_digests_are_those_of_the_documented_json(tmp_path: Path) -> None:
    items = [Item("b", {"y": "ü", "x": [1, None]}), Item("a", None, "0" * 64), Item("c")]
    with Journal.open(tmp_path / "journal.sqlite") as journal:
        config = {"z": 1.5, "a": {"d": True, "c": "x"}}
        info = journal.info(journal.create_run("t", config=config, items=items).run_id)
        assert info.config_digest == sha256('{"a":{"c":"x","d":true},"z":1.5}')
        of_b, of_c = sha256('{"x":[1,null],"y":"ü"}'), sha256("null")
        lines = f'["a","{"0" * 64}"]\n["b","{of_b}"]\n["c","{of_c}"]\n'
        assert info.inputs_digest == sha256(lines)


@given(value=JSON)
def test_canonical_json_is_json_that_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    def reverse(value: Any) -> Any:
        match value:
            case dict():
                return {key: reverse(item) for key, item in reversed(value.items())}
            case list():
                return [reverse(item) for item in value]
        return value

    canonical = journal_digest.canonical_json(value, "value")
    assert json.loads(canonical) == value
    assert journal_digest.canonical_json(reverse(value), "value") == canonical


@settings(deadline=None)
@given(old=st.dictionaries(st.text(), JSON), new=st.dictionaries(st.text(), JSON))
def test_settings_differ_wherever_the_configuration_does(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    try:
        same = journal_digest.canonical_json(old, "") == journal_digest.canonical_json(new, "")
    except InputError:
        return  # a key starts with "$"
    lines = journal_digest.describe_changes(
        journal_digest.settings(old), journal_digest.settings(new)
    )
    assert bool(lines) == (not same)


@pytest.mark.parametrize(
    "value",
    [
        "Say what you see.",
        "a\nb",
        "x" * 41,
        "sk-ant-api03-Zx8Qw2Er5Ty7Ui9Op0",
        "4f3c2b1a0d9e8f7a6b5c",
        "hunter2hunter2",
        "AKIAIOSFODNN7EXAMPLE",
        "https://user:pass@host/",
        "",
    ],
)
def test_text_and_what_looks_like_a_secret_is_not_shown(value: str) -> None:
    for key in ("prompt", "model"):
        setting = journal_digest.settings({key: value})[key]
        assert setting.text == "(not shown)"
        assert setting.digest == sha256(json.dumps(value))


@pytest.mark.parametrize(
    "key", ["api_key", "ANTHROPIC_API_KEY", "token", "client_secret", "password", "Authorization"]
)
def test_a_name_that_promises_a_secret_hides_its_text(key: str) -> None:
    assert journal_digest.settings({key: "short"})[key].text == "(not shown)"
    nested = journal_digest.settings({key: {"value": ["short"]}})
    assert [setting.text for setting in nested.values()] == ["(not shown)"]


@pytest.mark.parametrize(
    "value",
    [1, 0.25, True, None, "claude-sonnet-4-20250514", "HuggingFaceTB/SmolLM2-135M", "fp16", [], {}],
)
def test_plain_values_are_shown(value: Any) -> None:
    assert journal_digest.settings({"model": value})["model"].text == json.dumps(value)


def test_a_prompt_that_serves_as_a_key_is_not_shown() -> None:
    prompt = "Write a poem about the sea, please!"
    (path,) = journal_digest.settings({"judge": {prompt: 1}})
    assert path.startswith("judge[text ")
    assert "poem" not in path


def test_keys_with_dots_are_not_confused_with_nesting() -> None:
    first = journal_digest.settings({"a.b": 1, "a": {"b": 2}})
    second = journal_digest.settings({"a.b": 2, "a": {"b": 1}})
    assert len(journal_digest.describe_changes(first, second)) == 2


def test_a_configuration_that_json_cannot_carry_is_refused_without_its_text(
    tmp_path: Path,
) -> None:
    with Journal.open(tmp_path / "journal.sqlite") as journal:
        for config, reason in (
            ({"a": object()}, "type object"),
            ({"a": "secret \ud800"}, "lone surrogate"),
            ({"a": 10**5000}, "too long"),
            ({1: 2}, "keys must be strings"),
        ):
            with pytest.raises(InputError, match=f"config: .*{reason}") as caught:
                journal.create_run("t", config=config, items=[])  # type: ignore[arg-type]
            assert "secret" not in str(caught.value)


def test_a_bundles_digest_is_shown_and_a_bare_one_is_not() -> None:
    """Which bundle ran is what one wants to see; bare hexadecimal digits may be a key."""
    digits = "0123456789abcdef" * 4
    found = journal_digest.settings(
        {"bundle": f"sha256:{digits}", "other": digits, "token": f"sha256:{digits}"}
    )
    assert found["bundle"].text == f'"sha256:{digits}"'
    assert found["other"].text == found["token"].text == "(not shown)"
