"""Digests that stand for texts: one key, and a clear word about a wrong one."""

from __future__ import annotations

import os

import pytest

from interlock.detect.digesting import KEY_VARIABLE, Digester
from interlock.errors import ConfigError


def test_one_key_gives_one_digest_and_no_key_a_digest_of_its_own() -> None:
    assert Digester(b"key")("text") == Digester(b"key")("text")
    assert Digester(b"key")("text") != Digester(b"other")("text")
    assert Digester()("text") != Digester()("text")


def test_the_variable_may_hold_any_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    key = b"\xff\xfe not UTF-8"
    monkeypatch.setenv(KEY_VARIABLE, os.fsdecode(key))
    assert Digester()("text") == Digester(key)("text")


@pytest.mark.parametrize("value", ["", "k" * 65])
def test_a_variable_that_is_no_key_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(KEY_VARIABLE, value)
    with pytest.raises(ConfigError, match=f"{KEY_VARIABLE} has {len(value)} bytes"):
        Digester()
