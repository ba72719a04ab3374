"""Where a setting comes from, and what is refused before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from interlock.errors import ConfigError
from interlock.serve.config_file import Effective, is_config, load_config

FILE = """
environment = "staging"

[common]
port = 9000
degraded_ms = 20.0

[common.models.arm]
path = "bundles/arm"
workers = 2

[production]
port = 80
tokens_file = "tokens"

[staging]
rate = 5.0

[staging.models.arm]
workers = 3

[development.models.arm-next]
path = "bundles/next"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "serve.toml"
    path.write_text(FILE)
    return path


def load(path: Path | None, environ: dict[str, str] | None = None, **options: Any) -> Effective:
    return load_config(path, environ=environ or {}, **options)


def test_a_section_counts_over_what_all_share_and_the_rest_is_default(path: Path) -> None:
    found = load(path)
    assert found.environment == "staging"
    assert found.settings.port == 9000
    assert found.settings.rate == 5.0
    assert found.settings.models["arm"].workers == 3
    assert found.settings.models["arm"].path == "bundles/arm"
    told = {key: source for key, _, source in found.rows()}
    assert told["port"] == "serve.toml [common]"
    assert told["rate"] == "serve.toml [staging]"
    assert told["models.arm.workers"] == "serve.toml [staging]"
    assert told["models.arm.path"] == "serve.toml [common]"
    assert told["host"] == "default"


def test_the_environment_chooses_the_section_and_the_command_line_wins(path: Path) -> None:
    assert load(path, {"ENVIRONMENT": "development"}).environment == "development"
    both = {"ENVIRONMENT": "development", "INTERLOCK_ENVIRONMENT": "production"}
    assert load(path, both).environment == "production"
    assert load(path, both, environment="staging").environment == "staging"


def test_every_value_can_be_set_by_a_variable(path: Path) -> None:
    environ = {
        "INTERLOCK_SERVE_PORT": "7000",
        "INTERLOCK_SERVE_ANONYMOUS": "true",
        "INTERLOCK_SERVE_TOKEN": "a-token-of-the-tests",
        "INTERLOCK_SERVE_MODELS_ARM_NEXT_MEMORY_MB": "256",
        "INTERLOCK_SERVE_MODELS_ARM_WORKERS": "4",
    }
    found = load(path, environ, environment="development", arguments={"port": 7001})
    assert found.settings.port == 7001
    assert found.settings.anonymous is True
    assert found.settings.models["arm-next"].memory_mb == 256
    assert found.settings.models["arm"].workers == 4
    told = {key: (value, source) for key, value, source in found.rows()}
    assert told["port"] == (7001, "command line")
    assert told["anonymous"] == (True, "INTERLOCK_SERVE_ANONYMOUS")
    assert told["token"] == ("(set)", "INTERLOCK_SERVE_TOKEN")


def test_the_key_of_a_collector_is_not_shown(path: Path) -> None:
    environ = {"INTERLOCK_SERVE_OTLP_ENDPOINT": "https://me:secret@collector:4318/x"}
    shown = {key: value for key, value, _ in load(path, environ, environment="staging").rows()}
    assert shown["otlp_endpoint"] == "https://(set)@collector:4318/x"


def test_every_setting_has_a_variable(path: Path) -> None:
    """A known one may be refused for its value, never as unknown."""
    refused = []
    for key, _, _ in load(path, environment="development").rows():
        variable = "INTERLOCK_SERVE_" + key.upper().replace(".", "_").replace("-", "_")
        try:
            load(path, {variable: "\x00no"}, environment="development")
        except ConfigError as error:
            refused.append(error.message)
    assert len(refused) > 20
    assert [message for message in refused if "is no setting" in message] == []


def test_a_variable_can_take_a_value_back(path: Path) -> None:
    found = load(path, {"INTERLOCK_SERVE_TOKENS_FILE": "null"}, environment="production")
    assert found.settings.tokens_file is None
    assert ("tokens_file", None, "INTERLOCK_SERVE_TOKENS_FILE") in found.rows()
    with pytest.raises(ConfigError, match="the value does not fit"):
        load(path, {"INTERLOCK_SERVE_PORT": "null"}, environment="production")


@pytest.mark.parametrize(
    "key", ["STATE", "TOKENS_FILE", "LOG", "HOST", "TOKEN", "MODELS_ARM_POLICY", "MODELS_ARM_PATH"]
)
def test_an_empty_variable_is_no_value(path: Path, key: str) -> None:
    """An empty path would be the configuration's own directory."""
    with pytest.raises(ConfigError) as refused:
        load(path, {f"INTERLOCK_SERVE_{key}": ""}, environment="production")
    assert refused.value.message.startswith(f"INTERLOCK_SERVE_{key}: ")
    assert refused.value.message.endswith(f"{key.rpartition('ARM_')[2].lower()} is empty")


def test_paths_start_at_the_file(path: Path) -> None:
    found = load(path, environment="production")
    assert found.settings.tokens_file == str(path.parent / "tokens")
    assert found.base == path.parent


@pytest.mark.parametrize(
    ("environ", "told", "hint"),
    [
        ({"INTERLOCK_SERVE_PROT": "1"}, "INTERLOCK_SERVE_PROT is no setting", "SERVE_PORT?"),
        ({"INTERLOCK_SERVE_MODELS_ARM_SIZE": "1"}, "is no setting", ""),
        ({"INTERLOCK_SERVE_PORT": "many"}, "INTERLOCK_SERVE_PORT: the value does not fit", ""),
        ({"INTERLOCK_SERVE_PORT": "70000"}, "INTERLOCK_SERVE_PORT: port is 70000", ""),
        ({"ENVIRONMENT": "prod"}, "ENVIRONMENT is 'prod'; it must be one of", ""),
    ],
)
def test_a_wrong_variable_is_named(
    path: Path, environ: dict[str, str], told: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load(path, environ)
    assert told in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"productoin": {}}, "the key 'productoin' is unknown"),
        ({"production": {"prot": 1}}, "[production]: the key 'prot' is unknown"),
        ({"production": {"port": "80"}}, "[production]: port: Expected `int`"),
        ({"production": {"port": -1}}, "[production]: port is -1; it must be within"),
        ({"production": []}, "must be a table"),
        ({"production": {"models": {"a": {"pth": "x"}}}}, "models.a: the key 'pth' is unknown"),
        ({"production": {"models": {"a": {}}}}, "models.a.path is missing"),
        (
            {"production": {"models": {"a": {"path": "x", "workers": 0}}}},
            "models.a.workers is 0; it must be within 1 and 256",
        ),
        ({"production": {"models": {"a/b": {"path": "x"}}}}, "the model name 'a/b'"),
        (
            {"production": {"models": {"a.b": {"path": "x"}, "a_b": {"path": "x"}}}},
            "two models share the variable",
        ),
        ({"production": {"tls_cert": "c"}}, "tls_cert and tls_key must be given together"),
        ({"production": {"token": "short"}}, "token has fewer than 16 characters"),
        ({"production": {"client_header": "x-kundé"}}, "client_header must have letters of ASCII"),
        ({"staging": {}}, "has no section 'production', which counts where no environment is"),
        ({"environment": "staging"}, "serve.json: environment asks for"),
        ({"production": {"port": 0}}, "[production]: models is empty"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(
    tmp_path: Path, document: dict[str, Any], told: str
) -> None:
    path = tmp_path / "serve.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert told in refused.value.message
    assert "short" not in refused.value.message


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "serve.json",
            '{"production": {"models": {"m": {"path": "a", "workers": 2}, "m": {"path": "b"}}}}',
            "serve.json: the key 'm' is given twice",
        ),
        (
            "serve.json",
            '{"production": {"tokens_file": "tokens", "models": {}}, "production": {}}',
            "serve.json: the key 'production' is given twice",
        ),
        ("serve.json", '{"production": {"rate": NaN}}', "NaN is not a JSON number"),
        ("serve.json", "[" * 100_000, "nested too deeply"),
        ("serve.json", '{"production": ', "serve.json: "),
        (
            "serve.toml",
            '[production.models.m]\npath = "a"\n[production.models.m]\npath = "b"\n',
            "serve.toml: ",
        ),
    ],
)
def test_a_file_that_says_a_thing_twice_says_nothing(
    tmp_path: Path, name: str, text: str, told: str
) -> None:
    """The last one would count, and the one above it, with its tokens, would be passed over."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert told in refused.value.message


def test_labels_that_nobody_may_give_are_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    text = '[production]\nfeedback = "off"\n[production.models.m]\npath = "m.onnx"\n'
    path.write_text(text + "min_labels = 0\n")
    load_config(path, environ={})
    path.write_text(text + "min_labels = 20\n")
    with pytest.raises(ConfigError, match=r"feedback is 'off', and models\.m\.min_labels is 20"):
        load_config(path, environ={})


def test_a_hint_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "serve.json"
    model = {"path": "a.onnx", "candidate": "b.onnx"}
    path.write_text(json.dumps({"production": {"models": {"a": model}}}))
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert refused.value.hint.startswith("set state to a directory")


def test_a_configuration_is_told_from_a_route_file(path: Path, tmp_path: Path) -> None:
    route = tmp_path / "route.toml"
    route.write_text('schema = 1\nname = "r"\notherwise = "refuse"\nstep = []\n')
    assert is_config(path)
    assert not is_config(route)
    assert not is_config(tmp_path)
    assert not is_config(tmp_path / "model.onnx")
