"""What the server is to do: how fast it answers, what fails and when."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

FAULTS: Mapping[str, str] = {
    "ok": "an answer",
    "rate_limit": "429; `retry_after` seconds, told in the form of `retry_form`",
    "quota": "the account has nothing left, as the vendor words it",
    "server_error": "500",
    "unavailable": "503",
    "overloaded": "529",
    "hang": "takes the request and never answers",
    "reset_before": "cuts the connection before the request is read whole; nothing is billed",
    "reset_after": "cuts the connection in place of the answer, which is billed",
    "truncated": "cuts the connection in the middle of the answer's body",
    "slow_drip": "sends the answer's bytes one by one, `drip_seconds` apart",
    "broken_json": "200 with a body that is half an answer, though the length is right",
    "html": "200 with an HTML page, as captive portals and proxies send",
    "empty": "200 and an answer without text",
    "empty_body": "200 and no body",
    "refusal": "the model declines",
    "max_tokens": "the answer is cut at the limit of tokens",
    "content_filter": "a filter holds the answer back",
    "prompt_blocked": "a filter holds the prompt back",
    "bad_request": "400",
    "unauthorized": "401",
    "forbidden": "403",
    "not_found": "404",
    "too_large": "413",
}


@dataclass(frozen=True)
class Fault:
    """What becomes of one request. `latency` of None is the plan's."""

    kind: str = "ok"
    latency: float | None = None
    retry_after: float | None = None
    retry_form: str = "seconds"
    """How the wait is told: seconds, ms (retry-after-ms), date, info (Gemini's RetryInfo)."""
    drip_seconds: float = 0.05

    def __post_init__(self) -> None:
        """Raise ValueError for a kind or form that the server does not know."""
        if self.kind not in FAULTS:
            raise ValueError(f"kind is {self.kind!r}; known are {', '.join(FAULTS)}")
        if self.retry_form not in ("seconds", "ms", "date", "info"):
            raise ValueError(f"retry_form is {self.retry_form!r}")


@dataclass(frozen=True)
class Plan:
    """All that the server is told.

    script      what becomes of the first requests to come, one each; kinds, or faults
    matching    text -> what becomes of the requests that hold it, one each, then as for others
    rates       kind -> share of the requests beyond the script that end so, drawn from `seed`
                and the request's content, so that their order does not matter
    latency     seconds until an answer, of which `jitter` is the random share
    rpm, tpm    requests and tokens that it takes a minute, None for no limit
    burst       seconds' worth of either that it takes at once
    declared    it tells its limits and what is left of them in headers
    answer      the text of every answer; None for one made from the prompt
    tokens      length of made answers, in tokens of about four characters
    keep        requests and answers to keep for `FakeLLM.log`
    """

    script: tuple[Fault | str, ...] = ()
    matching: Mapping[str, tuple[Fault | str, ...]] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    latency: float = 0.0
    jitter: float = 0.0
    rpm: float | None = None
    tpm: float | None = None
    burst: float = 1.0
    declared: bool = True
    answer: str | None = None
    tokens: int = 24
    keep: int = 1000

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        plain = asdict(self)
        plain["script"] = [_plain(fault) for fault in self.script]
        plain["matching"] = {
            text: [_plain(fault) for fault in faults] for text, faults in self.matching.items()
        }
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` wrote."""
        known = {each.name for each in fields(cls)}
        values = {name: value for name, value in plain.items() if name in known}
        values["script"] = tuple(Fault(**fault) for fault in plain.get("script", ()))
        values["matching"] = {
            text: tuple(Fault(**fault) for fault in faults)
            for text, faults in plain.get("matching", {}).items()
        }
        return cls(**values)


class Script:
    """Deals out a plan's faults."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._next = 0
        self._matched = dict.fromkeys(plan.matching, 0)
        self._met: dict[bytes, int] = {}
        self._random = bool(plan.rates) or plan.jitter > 0

    def cuts_next_unread(self) -> bool:
        """Whether the next request is to be cut before it is read; deals that out."""
        script = self.plan.script
        if self._next < len(script) and _fault(script[self._next]).kind == "reset_before":
            self._next += 1
            return True
        return False

    def next(self, body: bytes, digest: bytes) -> tuple[Fault, float]:
        """What becomes of a request, and the seconds until it does."""
        plan = self.plan
        rng = None
        if self._random:
            turn = self._met.get(digest, 0)
            self._met[digest] = turn + 1
            mixed = hashlib.blake2b(b"%d:%d:" % (plan.seed, turn) + digest, digest_size=8)
            rng = random.Random(mixed.digest())
        fault = self._scripted(body)
        if fault is None:
            fault = Fault(self._drawn(rng) if rng is not None else "ok")
        latency = plan.latency if fault.latency is None else fault.latency
        if rng is not None and plan.jitter:
            latency *= 1 + plan.jitter * rng.uniform(-1, 1)
        return fault, latency

    def _scripted(self, body: bytes) -> Fault | None:
        for text, faults in self.plan.matching.items():
            dealt = self._matched[text]
            if dealt < len(faults) and text.encode() in body:
                self._matched[text] = dealt + 1
                return _fault(faults[dealt])
        if self._next < len(self.plan.script):
            self._next += 1
            return _fault(self.plan.script[self._next - 1])
        return None

    def _drawn(self, rng: random.Random) -> str:
        drawn = rng.random()
        for kind, share in self.plan.rates.items():
            if drawn < share:
                return kind
            drawn -= share
        return "ok"


class Bucket:
    """A token bucket that refills continuously. `rate` a second, never above `size`."""

    def __init__(self, rate: float, size: float) -> None:
        self.rate = rate
        self.size = max(size, 1.0)
        self.left = self.size
        self._at = 0.0

    def refill(self, now: float) -> None:
        """Let the time until `now` count."""
        if self._at:
            self.left = min(self.size, self.left + (now - self._at) * self.rate)
        self._at = now

    def wait(self, units: float) -> float:
        """Seconds until `units` may pass, 0 for now; more than its size passes when it is full."""
        lacking = min(units, self.size) - self.left
        # Sums of small refills round; a client that waited exactly the time asked must pass.
        return lacking / self.rate if lacking > 1e-6 * self.size else 0.0


class Limits:
    """The requests and tokens a minute of an account."""

    def __init__(self, plan: Plan) -> None:
        self.requests = _bucket(plan.rpm, plan.burst)
        self.tokens = _bucket(plan.tpm, plan.burst)

    def take(self, tokens: float, now: float) -> float:
        """Take a request of so many tokens; or take nothing and return the seconds to wait."""
        wait = 0.0
        for bucket, units in ((self.requests, 1.0), (self.tokens, tokens)):
            if bucket:
                bucket.refill(now)
                wait = max(wait, bucket.wait(units))
        if wait == 0.0:
            for bucket, units in ((self.requests, 1.0), (self.tokens, tokens)):
                if bucket:
                    bucket.left -= units
        return wait


def _bucket(a_minute: float | None, burst: float) -> Bucket | None:
    return None if a_minute is None else Bucket(a_minute / 60, a_minute / 60 * burst)


def _fault(fault: Fault | str) -> Fault:
    return Fault(fault) if isinstance(fault, str) else fault


def _plain(fault: Fault | str) -> dict[str, Any]:
    return asdict(_fault(fault))
