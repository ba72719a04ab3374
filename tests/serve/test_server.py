"""The server's own start, in this process."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import models
from support.processes import children

from interlock.errors import ConfigError
from interlock.serve import server
from interlock.serve.hosting import Hosting
from interlock.serve.settings import ModelSettings, Settings


@pytest.fixture(autouse=True)
def interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def test_of_two_servers_that_start_at_once_on_one_port_the_later_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both may bind before either listens; one that went on would be asked nothing, for ever."""
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    before = children(os.getpid())
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))

        class Beaten(Hosting):
            """The other one has loaded its models first."""

            def start(self, *arguments: Any) -> None:
                super().start(*arguments)
                other.listen()

        monkeypatch.setattr(server, "Hosting", Beaten)
        settings = Settings(
            port=other.getsockname()[1],
            log="none",
            models={"affine": ModelSettings(path="affine.onnx")},
        )

        def on_start(*_: object) -> None:
            raise AssertionError("it says that it listens")

        with pytest.raises(ConfigError, match=r"cannot listen on .* in use"):
            server.serve(settings, tmp_path, on_start)
    assert children(os.getpid()) == before
