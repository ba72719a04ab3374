"""Who may use the admin API."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interlock.errors import ConfigError
from interlock.serve.gate import Gate, Tokens
from interlock.serve.metrics import Metrics
from interlock.serve.server import check_exposure
from interlock.serve.settings import Settings

ADMIN = "token-of-the-admin-0002"


def asked(client: str, path: str = "/v1/admin/rollouts", **settings: Any) -> int:
    """The status that a client of that address gets, with the right token."""
    return asked_in_turn(client, path, **settings)[0]


def asked_in_turn(client: str, *paths: str, **settings: Any) -> list[int]:
    """The same of one server for several requests."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    own = Settings(admin_token=ADMIN, **settings)
    gate = Gate(
        app,
        settings=own,
        tokens=Tokens.of(own),
        metrics=Metrics(),
        log=lambda event, **fields: None,
        admin=Tokens.of_admin(own),
    )
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    for path in paths:
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "headers": [(b"authorization", f"Bearer {ADMIN}".encode())],
            "client": (client, 5),
        }
        asyncio.run(gate(scope, receive, send))
    return statuses


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_this_machine_may_ask(client: str) -> None:
    assert asked(client) == 200


@pytest.mark.parametrize("client", ["203.0.113.7", "2001:db8::1", "::ffff:203.0.113.7", ""])
def test_the_admin_api_answers_this_machine_only(client: str) -> None:
    assert asked(client) == 401
    assert asked(client, "/v1/feedback", feedback="admin") == 401
    assert asked(client, admin_remote=True) == 200
    assert asked(client, "/v2") == 200


def test_the_token_must_not_cross_a_network_in_the_open() -> None:
    with pytest.raises(ConfigError, match="admin_remote is true without TLS"):
        check_exposure(Settings(admin_token=ADMIN, admin_remote=True), Tokens(()))
    secured = Settings(admin_token=ADMIN, admin_remote=True, tls_cert="c", tls_key="k")
    check_exposure(secured, Tokens(()))
    with pytest.raises(ConfigError, match="no admin token is set"):
        check_exposure(Settings(feedback="admin"), Tokens(()))


def test_a_short_admin_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="admin_token has fewer than 16"):
        Settings(admin_token="short")


def test_a_client_that_floods_from_the_same_address_keeps_no_admin_from_rolling_back() -> None:
    """Behind a proxy on the same machine all have one address."""
    admin = "/v1/admin/rollouts"
    statuses = asked_in_turn("127.0.0.1", "/v2", "/v2", admin, admin, "/v2", rate=0.01, burst=1)
    assert statuses == [200, 429, 200, 200, 429]
