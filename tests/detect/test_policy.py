"""What is done with a text is written in a file, and no file may let an unjudged text pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.detect.policy import Action, Band, load_policy
from interlock.detect.rules import Severity
from interlock.errors import ConfigError
from interlock.kernel.outcome import Status


def write(directory: Path, text: str, name: str = "policy.toml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_the_shipped_policy() -> None:
    policy = load_policy()
    assert policy.decide(place="auto") is Action.ALLOW
    assert policy.decide(place="auto", band=Band.MEDIUM, attack=True) is Action.FLAG
    assert policy.decide(place="auto", band=Band.HIGH, attack=True) is Action.BLOCK
    assert policy.decide(place="auto", faults=["no_model"]) is Action.ESCALATE
    assert policy.decide(place="auto", faults=["cut"]) is Action.FLAG
    assert policy.decide(place="auto", band=Band.HIGH, faults=["cut"]) is Action.BLOCK


def test_the_first_rule_that_fits_decides(tmp_path: Path) -> None:
    policy = load_policy(
        write(
            tmp_path,
            """
            schema = 1
            otherwise = "flag"
            [[rules]]
            place = ["document"]
            family = ["exfiltration"]
            action = "block"
            [[rules]]
            severity = ["high"]
            action = "escalate"
            [[rules]]
            band = ["none"]
            action = "allow"
            """,
        )
    )
    assert policy.decide(place="document", family="exfiltration") is Action.BLOCK
    assert policy.decide(place="user", family="exfiltration") is Action.ALLOW
    assert policy.decide(place="user", severity=Severity.HIGH) is Action.ESCALATE
    assert policy.decide(place="user", band=Band.LOW) is Action.FLAG


def test_json_says_the_same(tmp_path: Path) -> None:
    text = '{"schema": 1, "rules": [{"action": "block", "attack": true}]}'
    policy = load_policy(write(tmp_path, text, "policy.json"))
    assert policy.decide(place="user", attack=True) is Action.BLOCK
    assert len(policy.digest) == 64


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("schema = 2", "schema"),
        ("schema = 1\nmoon = 1", "moon"),
        ('[[rules]]\naction = "hide"', "action"),
        ('[[rules]]\naction = "allow"\nplace = ["moon"]', "moon"),
        ('[unjudged]\nno_model = "allow"', "no_model"),
        ('[unjudged]\nerror = "allow"', "error"),
        ('[unjudged]\ncut = "allow"', "cut"),
        ('digest = "x"', "digest"),
        ('[[rules]]\naction = "block"\nfamily = []', "family is empty"),
        ("[", "policy"),
        ("", "neither rules nor otherwise"),
        ("schema = 1\nrules = []", "neither rules nor otherwise"),
        ('[unjudged]\nanomaly = "flag"', "neither rules nor otherwise"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_policy(write(tmp_path, text))


def test_an_anomaly_alone_may_be_allowed(tmp_path: Path) -> None:
    policy = load_policy(write(tmp_path, 'otherwise = "allow"\n[unjudged]\nanomaly = "allow"'))
    assert policy.decide(place="auto", faults=["anomaly"]) is Action.ALLOW


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"policy moon\.toml"):
        load_policy("moon.toml")


def test_each_action_has_its_status() -> None:
    assert [action.status for action in Action] == [
        Status.ACCEPTED,
        Status.FLAGGED,
        Status.REFUSED,
        Status.REFUSED,
    ]
