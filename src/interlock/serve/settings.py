"""What a server can be told: names, units, defaults and limits of every setting."""

from __future__ import annotations

from typing import Literal

import msgspec

from interlock.kernel.errors import ConfigError
from interlock.serve.rollout.settings import RolloutSettings, not_empty
from interlock.serve.rollout.settings import within as _within

ModelKind = Literal["auto", "bundle", "detector", "onnx", "route", "text", "verified"]


class ModelSettings(RolloutSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model; the settings of its rollouts are among its own.

    path               a bundle, a detector's bundle, an ONNX file, a route file, a verified
                       model's directory, `route:NAME` for a registered route, `text:NAME` for a
                       text model of `interlock models`, or `detector:shipped`; relative to the
                       configuration's file
    kind               what it is; "auto" looks at the path
    workers            processes that run it; each holds the weights. Of a text model: threads of
                       its one process, which share them
    threads            of ONNX Runtime inside one process
    memory_mb          private memory of one process; 0 for no limit. Of a text model: without the
                       `cache_mb`, which come on top
    call_seconds       hard deadline of one inference
    queue              requests that may wait for a process
    standing_queue     requests that may wait in a lasting overload, in which more arrive than can
                       be answered, so that not all of them come late; by default `queue`
    batch_rows         rows that one inference may hold, where requests may be merged
    batch_wait_ms      how long the first request of a batch waits for further ones
    merge              answer rows of several requests together; by default for strict bundles,
                       whose contract is by rows, and for no other model. The self-test looks
                       whether rows depend on one another
    degraded_ms        a canary slower than this makes the health "degraded"; by default the
                       server's `degraded_ms`, and of a text model 500, where that is less
    expected_digest    `sha256:<hex>`; anything else is not served
    require_signature  PEM file of the key that must have signed the bundle
    mode               of a verified model: "auto", "onnx_only" or "ezkl_only"
    proofs             of a verified model: directory that keeps a proof bundle of each answer with
                       a proof in it, and so its inputs and outputs; without it the server verifies
                       proofs and keeps none
    slots              of a text model: texts under way at the same time; further ones wait
    cache_mb           of a text model: most memory of the key-value caches
    text_seconds       of a text model: deadline of one text, waiting included
    answer_tokens      of a text model: most tokens of a text whose request names no limit
    environment        of a detector, whose threshold counts; by default the section's name
    threshold          of a detector, instead of the environment's
    policy             of a detector: its policy file
    calibration        of a detector: a file of `interlock detect calibrate`
    anomaly            of a detector: whether texts unlike all training texts are flagged
    """

    path: str
    kind: ModelKind = "auto"
    workers: int = 1
    threads: int = 1
    memory_mb: int = 1024
    call_seconds: float = 10.0
    queue: int = 64
    standing_queue: int | None = None
    batch_rows: int = 32
    batch_wait_ms: float = 0.0
    merge: bool | None = None
    degraded_ms: float | None = None
    expected_digest: str | None = None
    require_signature: str | None = None
    mode: Literal["auto", "onnx_only", "ezkl_only"] = "auto"
    proofs: str | None = None
    slots: int = 8
    cache_mb: int = 512
    text_seconds: float = 300.0
    answer_tokens: int = 1024
    environment: Literal["production", "staging", "development"] = "production"
    threshold: float | None = None
    policy: str | None = None
    calibration: str | None = None
    anomaly: bool = True

    @property
    def memory_limit(self) -> int | None:
        """`memory_mb` in bytes; None for no limit."""
        return (self.memory_mb << 20) or None

    @property
    def served(self) -> ModelSettings:
        """The settings of the version that is served without a rollout; they name no candidate."""
        own = msgspec.structs.replace(
            self, candidate=None, candidate_digest=None, use_candidate=None
        )
        if not self.use_candidate or self.candidate is None:
            return own
        return msgspec.structs.replace(
            own, path=self.candidate, expected_digest=self.candidate_digest, kind="auto"
        )

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        super().__post_init__()
        _within("workers", self.workers, 1, 256)
        _within("threads", self.threads, 1, 256)
        if self.memory_mb != 0:
            _within("memory_mb", self.memory_mb, 64, 1 << 20)
        _within("call_seconds", self.call_seconds, 0.01, 86_400)
        if self.threshold is not None:
            _within("threshold", self.threshold, 0, 1)
        _within("queue", self.queue, 1, 100_000)
        if self.standing_queue is not None:
            _within("standing_queue", self.standing_queue, 1, self.queue)
        if self.proofs is not None and self.mode == "onnx_only":
            raise ConfigError("proofs is set, and mode is 'onnx_only', which proves nothing")
        _within("batch_rows", self.batch_rows, 1, 100_000)
        _within("batch_wait_ms", self.batch_wait_ms, 0, 10_000)
        if self.degraded_ms is not None:
            _within("degraded_ms", self.degraded_ms, 0.001, 600_000)
        _within("slots", self.slots, 1, 1024)
        _within("cache_mb", self.cache_mb, 1, 1 << 20)
        _within("text_seconds", self.text_seconds, 0.01, 86_400)
        _within("answer_tokens", self.answer_tokens, 1, 1 << 20)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The server.

    host, port         where it listens; port 0 takes a free one
    tls_cert, tls_key  PEM files; both or neither
    tokens_file        file with one bearer token a line; a request must carry one of them
    token              one more token, best given by the environment
    anonymous          serve without tokens to other machines as well
    body_mb            largest body of a request
    header_kb          largest head of a request: line and headers together
    header_seconds     time for a request's head to arrive
    body_seconds       time for its body
    send_seconds       time for a client to take a part of an answer
    idle_seconds       time that a connection may stay open between requests
    connections        that may be open at the same time; each is an open file, and the process's
                       limit of these must have room for them
    rate, burst        requests a second of one client address, and how many at once; rate 0 for
                       no limit
    drain_seconds      time for requests under way when the server is told to stop
    start_seconds      time for a model to load and pass its self-test
    degraded_ms        a canary slower than this makes the health "degraded"
    health_seconds     how long a canary's result counts
    log                "stderr", "none" or the path of a file
    state              directory that keeps rollouts, their decisions and what was promoted; without
                       it there are no rollouts
    admin_token        token of the admin API; without one, or a file of them, there is no such API
    admin_tokens_file  file with one such token a line
    admin_remote       let other machines than this one use the admin API
    client_header      header that names a client to a canary; without it the address does
    feedback           who may label answers: "clients", "admin" or "off"
    recent             answers that are remembered for feedback
    otlp_endpoint      where OpenTelemetry's traces and metrics go, such as http://localhost:4318;
                       none sends nothing
    otlp_seconds       between two sendings of the metrics
    otlp_share         of the requests that are traced where the caller's trace does not say it
    models             by name
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tls_cert: str | None = None
    tls_key: str | None = None
    tokens_file: str | None = None
    token: str | None = None
    anonymous: bool = False
    body_mb: float = 16.0
    header_kb: float = 32.0
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    send_seconds: float = 30.0
    idle_seconds: float = 15.0
    connections: int = 1024
    rate: float = 0.0
    burst: int = 100
    drain_seconds: float = 30.0
    start_seconds: float = 120.0
    degraded_ms: float = 50.0
    health_seconds: float = 1.0
    log: str = "stderr"
    state: str | None = None
    admin_token: str | None = None
    admin_tokens_file: str | None = None
    admin_remote: bool = False
    client_header: str = "x-client-id"
    feedback: Literal["clients", "admin", "off"] = "clients"
    recent: int = 10_000
    otlp_endpoint: str | None = None
    otlp_seconds: float = 15.0
    otlp_share: float = 1.0
    models: dict[str, ModelSettings] = {}

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range, or values that exclude one another."""
        not_empty(self)
        _within("port", self.port, 0, 65_535)
        _within("body_mb", self.body_mb, 0.001, 1024)
        _within("header_kb", self.header_kb, 1, 1024)
        for name in ("header_seconds", "body_seconds", "send_seconds", "idle_seconds"):
            _within(name, getattr(self, name), 0.05, 3600)
        _within("connections", self.connections, 1, 100_000)
        _within("rate", self.rate, 0, 1e6)
        _within("burst", self.burst, 1, 1_000_000)
        _within("drain_seconds", self.drain_seconds, 0, 3600)
        _within("start_seconds", self.start_seconds, 1, 3600)
        _within("degraded_ms", self.degraded_ms, 0.001, 60_000)
        _within("health_seconds", self.health_seconds, 0, 3600)
        _within("otlp_seconds", self.otlp_seconds, 0.1, 3600)
        _within("otlp_share", self.otlp_share, 0, 1)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("tls_cert and tls_key must be given together")
        _within("recent", self.recent, 1, 10_000_000)
        for name in ("token", "admin_token"):
            value = getattr(self, name)
            if value is not None and len(value) < 16:
                raise ConfigError(f"{name} has fewer than 16 characters")
        header = self.client_header
        if not (header.isascii() and all(c.isalnum() or c == "-" for c in header)):
            raise ConfigError("client_header must have letters of ASCII, digits and '-'")
        for name, own in self.models.items():
            if own.candidate is not None and own.use_candidate is None and self.state is None:
                raise ConfigError(
                    f"state is not set, and model '{name}' has a candidate to roll out",
                    hint="set state to a directory, or use_candidate of the model",
                )
            if own.min_labels and self.feedback == "off":
                raise ConfigError(
                    f"feedback is 'off', and models.{name}.min_labels is {own.min_labels}: no "
                    "candidate would ever be promoted",
                    hint="min_labels = 0, or let clients or the admin label answers",
                )
            if not 0 < len(name) <= 100 or not all(c.isalnum() or c in "._-" for c in name):
                raise ConfigError(
                    f"the model name {name[:100]!r} must have 1 to 100 letters, digits, '.', '_' "
                    "or '-'"
                )
