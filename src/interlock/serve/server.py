"""The running server: uvicorn around the gate and the endpoints, draining when told to stop."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from interlock.kernel.errors import ConfigError
from interlock.serve.app import Endpoints
from interlock.serve.connection import limited_protocol
from interlock.serve.gate import Gate, Tokens, has_admin, is_loopback
from interlock.serve.hosting import Hosting
from interlock.serve.metrics import Metrics
from interlock.serve.open_files import raise_limit
from interlock.serve.rollout.rollouts import Rollouts
from interlock.serve.server_log import LibraryHandler, Log, open_log
from interlock.serve.settings import Settings

_SWITCH = 0.0005  # seconds that one thread keeps the interpreter from others that want it
OnStart = Callable[[str, int, Hosting], None]
"""Told the host, the port and the models when the server listens."""


def check_exposure(settings: Settings, tokens: Tokens) -> None:
    """Raise ConfigError for a server that other machines could use without a token."""
    if has_admin(settings) and settings.admin_remote and settings.tls_cert is None:
        raise ConfigError(
            "admin_remote is true without TLS, so that the admin token could be read on the way",
            hint="set tls_cert and tls_key",
        )
    if settings.feedback == "admin" and not has_admin(settings):
        raise ConfigError("feedback is for the admin, and no admin token is set")
    if tokens or settings.anonymous or is_loopback(settings.host):
        return
    raise ConfigError(
        f"host is {settings.host}, which other machines can reach, and no token is set",
        hint="set tokens_file, or anonymous = true where something in front asks for tokens",
    )


def check(settings: Settings) -> tuple[Tokens, Tokens]:
    """The clients' tokens and the admin's.

    Raises ConfigError for what can be told to be wrong before anything is loaded: files of tokens,
    a server that would stand open, certificates that cannot be used, a log that is a directory, an
    address of no collector.
    """
    tokens, admin = Tokens.of(settings), Tokens.of_admin(settings)
    check_exposure(settings, tokens)
    if settings.tls_cert is not None:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(settings.tls_cert, settings.tls_key, _no_passphrase)
        except OSError as error:  # SSLError is one
            why = getattr(error, "reason", None) or error.strerror
            raise ConfigError(
                f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key} cannot be used: {why}"
            ) from None
    if settings.log not in ("stderr", "none") and Path(settings.log).is_dir():
        raise ConfigError(f"log is {settings.log}, which is a directory")
    if settings.otlp_endpoint is not None:
        from interlock.serve.telemetry import endpoint_of

        endpoint_of(settings)
    return tokens, admin


def _no_passphrase() -> str:
    """Called where OpenSSL would ask for one on the terminal."""
    raise ConfigError(
        "tls_key is encrypted, and a server has nobody to ask for the passphrase",
        hint="give it a key without one, in a file that only its owner can read",
    )


def serve(settings: Settings, base: Path, on_start: OnStart = lambda *_: None) -> bool:
    """Serve until SIGTERM or SIGINT; whether every model was ready.

    Relative paths of models start at `base`. Raises ConfigError for a host or port that cannot
    be used, for certificates that cannot, and for a server that would stand open; InputError where
    the system does not allow as many open files as the connections may take.
    """
    tokens, admin = check(settings)
    raise_limit(settings)
    log = open_log(settings.log)
    metrics = Metrics()
    telemetry = None
    if settings.otlp_endpoint is not None:
        from interlock.serve.telemetry import Telemetry

        telemetry = Telemetry(settings, metrics.registry)
    # A thread that brings an answer waits this long for a busy event loop, several times a request.
    sys.setswitchinterval(_SWITCH)
    listening = _listen(settings)
    try:
        hosting = Hosting(settings, base, metrics, log)
        rollouts = Rollouts(hosting, settings, metrics, log)
        endpoints = Endpoints(hosting, rollouts, settings, metrics, base)
        app = endpoints.app()
        gate = Gate(
            app,
            settings=settings,
            tokens=tokens,
            metrics=metrics,
            log=log,
            admin=admin,
            telemetry=telemetry,
        )

        @asynccontextmanager
        async def lifespan(_: object) -> AsyncIterator[None]:
            yield
            # The requests under way have been answered; what waits belongs to clients that left.
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, rollouts.close)
            await loop.run_in_executor(None, hosting.close, 0.0)

        app.router.lifespan_context = lifespan
        with _libraries_log(log):
            hosting.start(rollouts.begin)
            rollouts.start()
            try:
                _begin_to_listen(listening, settings)
            except ConfigError:
                rollouts.close()
                hosting.close(0.0)
                raise
            if telemetry is not None:
                telemetry.start()
            host, port = listening.getsockname()[:2]

            def listens() -> None:
                on_start(host, port, hosting)
                log("listening", host=host, port=port, tls=settings.tls_cert is not None)

            server = _Server(_config(gate, settings), gate, endpoints, log, listens)
            server.run(sockets=[listening])
            if telemetry is not None:
                telemetry.close()
            log("stopped")
            return hosting.ready
    finally:
        listening.close()


class _Server(uvicorn.Server):
    """Tells gate and endpoints of a signal at once, before connections are closed."""

    def __init__(
        self,
        config: uvicorn.Config,
        gate: Gate,
        endpoints: Endpoints,
        log: Log,
        listens: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._gate = gate
        self._endpoints = endpoints
        self._log = log
        self._listens = listens

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so when connections are accepted."""
        await super().startup(sockets)
        self._listens()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain: readiness goes red and further requests are refused."""
        self._gate.draining = self._endpoints.draining = True
        if not self.should_exit:
            asyncio.get_running_loop().call_soon_threadsafe(self._log, "draining")
        super().handle_exit(sig, frame)
        # uvicorn raises the signals again when it has stopped; this server's end is its answer.
        self._captured_signals.clear()


def _config(gate: Gate, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        gate,
        http=limited_protocol(
            head_bytes=int(settings.header_kb * 1024),
            head_seconds=settings.header_seconds,
            send_seconds=settings.send_seconds,
            connections=settings.connections,
        ),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.idle_seconds,  # type: ignore[arg-type]
        timeout_graceful_shutdown=settings.drain_seconds,  # type: ignore[arg-type]
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )


def _listen(settings: Settings) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, proto)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except BaseException:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
        why = error.strerror if isinstance(error, OSError) else "it is no name of a host"
        raise _cannot_listen(settings, why) from None
    return listening


def _begin_to_listen(listening: socket.socket, settings: Settings) -> None:
    """Raise ConfigError where another process listens by now.

    Binding tells nothing of one that is starting as well, and uvloop nothing of a failure here.
    """
    try:
        listening.listen()
    except OSError as error:
        raise _cannot_listen(settings, error.strerror) from None


def _cannot_listen(settings: Settings, why: str | None) -> ConfigError:
    return ConfigError(f"cannot listen on {settings.host} port {settings.port}: {why}")


@contextmanager
def _libraries_log(log: Log) -> Iterator[None]:
    """Meanwhile, warnings of the libraries below go to the server's log, and only there."""
    handler = LibraryHandler(log)
    loggers = [logging.getLogger(name) for name in ("uvicorn", "asyncio", "opentelemetry")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True
