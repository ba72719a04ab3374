"""The policy: what is done with a text, by place, band, family, and by what kept it from judgment.

A file in TOML or JSON; `pack/policy.toml` is the shipped one.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from interlock.detect.rules import Severity
from interlock.kernel.errors import ConfigError
from interlock.kernel.outcome import Status


class Action(StrEnum):
    """What is done with a text, mildest first."""

    ALLOW = "allow"
    FLAG = "flag"
    """Let it pass with a mark."""
    ESCALATE = "escalate"
    """Hold it for a person."""
    BLOCK = "block"

    @property
    def rank(self) -> int:
        """0 for `allow` up to 3 for `block`."""
        return _RANK[self]

    @property
    def status(self) -> Status:
        """The status of an outcome: an allowed text is accepted, one that is held is refused."""
        if self is Action.ALLOW:
            return Status.ACCEPTED
        return Status.FLAGGED if self is Action.FLAG else Status.REFUSED


_RANK = {action: rank for rank, action in enumerate(Action)}


class Band(StrEnum):
    """How high a score is, by the detector's thresholds."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    NONE = "none"


class PolicyRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule; a field that is None fits everything.

    severity  of the severest hit of the rule pack
    attack    whether the score reached the threshold
    """

    action: Action
    place: tuple[Literal["user", "document", "auto"], ...] | None = None
    band: tuple[Band, ...] | None = None
    family: tuple[str, ...] | None = None
    severity: tuple[Severity, ...] | None = None
    attack: bool | None = None

    def __post_init__(self) -> None:
        for name in ("place", "band", "family", "severity"):
            if getattr(self, name) == ():
                raise ValueError(f"{name} is empty; such a rule never fits")


class Unjudged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is done where the score is missing or says less than it seems to.

    no_model       there is no model: a stub
    no_classifier  the model embeds but does not judge: a bare encoder
    error          an engine failed, or memory ran out
    cut            some of the text was not read
    anomaly        the text is unlike all training texts; the only one that may be `allow`
    """

    no_model: Action = Action.ESCALATE
    no_classifier: Action = Action.ESCALATE
    error: Action = Action.ESCALATE
    cut: Action = Action.FLAG
    anomaly: Action = Action.FLAG

    def __post_init__(self) -> None:
        for name in ("no_model", "no_classifier", "error", "cut"):
            if getattr(self, name) is Action.ALLOW:
                raise ValueError(
                    f"{name} is allow; an unjudged text must not look like a clean one"
                )


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of a policy file. `digest` is the SHA-256 of the file."""

    rules: tuple[PolicyRule, ...] = ()
    otherwise: Action = Action.ALLOW
    unjudged: Unjudged = Unjudged()
    schema: Literal[1] = 1
    digest: str = ""

    def decide(
        self,
        *,
        place: str,
        band: Band = Band.NONE,
        family: str | None = None,
        severity: Severity | None = None,
        attack: bool = False,
        faults: Sequence[str] = (),
    ) -> Action:
        """The severest of what the rules say and what `faults` (fields of `Unjudged`) ask for."""
        action = self.otherwise
        for rule in self.rules:
            if (
                (rule.band is None or band in rule.band)
                and (rule.attack is None or rule.attack == attack)
                and (rule.place is None or place in rule.place)
                and (rule.family is None or family in rule.family)
                and (rule.severity is None or severity in rule.severity)
            ):
                action = rule.action
                break
        for fault in faults:
            asked: Action = getattr(self.unjudged, fault)
            if asked.rank > action.rank:
                action = asked
        return action


def load_policy(path: str | Path | None = None) -> Policy:
    """The policy in a TOML or JSON file, or the shipped one.

    Raises ConfigError, naming the field, for what is not a policy, for one that would allow what
    was not judged, and for one that says nothing of what was.
    """
    if path is None:
        return _shipped()
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"policy {path}: {error.strerror}") from None
    return _read(data, str(path), json=path.suffix.lower() == ".json")


@lru_cache(maxsize=1)
def _shipped() -> Policy:
    data = (resources.files("interlock.detect") / "pack" / "policy.toml").read_bytes()
    return _read(data, "the shipped policy", json=False)


def _read(data: bytes, name: str, *, json: bool) -> Policy:
    try:
        plain = msgspec.json.decode(data) if json else tomllib.loads(data.decode())
        if isinstance(plain, dict) and "digest" in plain:
            raise ValueError("digest is not a field of the file")
        policy = msgspec.convert(plain, Policy)
        if not policy.rules and "otherwise" not in plain:
            raise ValueError("there are neither rules nor otherwise; every attack would be allowed")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"policy {name}: {error}") from None
    return msgspec.structs.replace(policy, digest=hashlib.sha256(data).hexdigest())
