"""Errors that cross processes: the same class and words, nothing that a message might quote."""

from __future__ import annotations

import errno
import os
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock import errors
from interlock.kernel.errors import (
    ConnectionLostError,
    EngineError,
    InputError,
    InterlockError,
    MissingExtraError,
    RunChangedError,
    TransientError,
)
from interlock.kernel.remote_errors import describe, rebuild

EVERY_CLASS = [getattr(errors, name) for name in errors.__all__]


def crossed(error: BaseException) -> InterlockError:
    return rebuild(*msgspec.msgpack.decode(msgspec.msgpack.encode(describe(error))))


def made(kind: type[InterlockError]) -> InterlockError:
    if issubclass(kind, MissingExtraError):
        return kind("zk", "proving")
    if issubclass(kind, RunChangedError):
        return kind("differs", changes=("seed: 1 -> 2",))
    return kind("x is 1", hint="send 2")


@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_every_class_of_the_tree_crosses_whole(kind: type[InterlockError]) -> None:
    sent = made(kind)
    got = crossed(sent)
    assert type(got) is kind
    assert str(got) == str(sent)
    assert got.to_dict() == sent.to_dict()
    for name in ("extra", "changes"):
        assert getattr(got, name, None) == getattr(sent, name, None)


def test_a_wait_crosses_where_it_is_sane() -> None:
    for wait, kept in ((2.5, 2.5), (None, None), (1e9, None), (-1.0, None), (float("nan"), None)):
        got = crossed(TransientError("busy", wait_seconds=wait))
        assert isinstance(got, TransientError)
        assert got.wait_seconds == kept


@pytest.mark.parametrize("sent", [True, False])
def test_whether_a_request_was_sent_crosses(sent: bool) -> None:
    got = crossed(ConnectionLostError("cut", sent=sent))
    assert isinstance(got, ConnectionLostError)
    assert got.sent is sent


def test_a_class_of_the_users_own_arrives_as_the_nearest_of_the_tree() -> None:
    class TooHotError(InputError):
        code = "too_hot"

    got = crossed(TooHotError("x is 1"))
    assert type(got) is InputError
    assert got.message == "x is 1"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("secret"),
        OSError(errno.ENOMEM, "secret"),
        ImportError(f"secret.so: {os.strerror(errno.ENOMEM)}"),
    ],
)
def test_running_out_of_memory_is_told_in_many_ways(error: BaseException) -> None:
    got = crossed(error)
    assert got.code == "memory_limit"
    assert "secret" not in str(got)


@pytest.mark.parametrize(
    "error", [ValueError("secret"), OSError(errno.ENOENT, "secret"), SystemExit("secret")]
)
def test_a_foreign_exception_tells_its_type_alone(error: BaseException) -> None:
    got = crossed(error)
    assert type(got) is EngineError
    assert type(error).__name__ in got.message
    assert "secret" not in str(got.to_dict())


junk = st.none() | st.integers() | st.text() | st.lists(st.integers() | st.text(), max_size=3)


@given(
    st.lists(st.sampled_from([kind.code for kind in EVERY_CLASS]) | junk, max_size=3),
    st.text(),
    st.text(),
    st.dictionaries(st.sampled_from(["wait_seconds", "extra", "changes", "args"]), junk),
)
def test_any_description_gives_an_error_that_can_be_shown(
    codes: list[Any], message: str, hint: str, told: dict[Any, Any]
) -> None:
    got = rebuild(codes, message, hint, told)
    assert isinstance(got, InterlockError)
    assert got.message.isprintable()
    assert got.hint.isprintable()
    assert got.args == (got.message,)
