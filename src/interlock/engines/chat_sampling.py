"""Which sampling parameters go into a request, and what is said of those that do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from interlock.engines.chat import Message, Sampling
from interlock.kernel.errors import InputError, RequestRejectedError

NAMES = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
    "logprobs",
)


class Unsupported:
    """What models were found not to take: model -> parameter -> why. Learns from refusals."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, str]] = {}

    def learn(self, model: str, name: str, why: str) -> None:
        """Remember that `model` does not take `name`."""
        self._found.setdefault(model, {})[name] = why

    def of(self, model: str) -> Mapping[str, str]:
        """What was learned of `model`."""
        return self._found.get(model, {})


def choose(
    sampling: Sampling, unsupported: Mapping[str, str], *, provider: str, refuse: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """What was asked for, as (to apply: name -> value, not to apply: name -> why).

    Raises RequestRejectedError where something is not to be applied and `refuse` is set.
    """
    applied: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in NAMES:
        value = getattr(sampling, name)
        if value is None or value == ():
            continue
        if name in unsupported:
            left_out[name] = unsupported[name]
        else:
            applied[name] = value
    if left_out and refuse:
        told = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise RequestRejectedError(
            f"{provider}: not sent, as the model takes not all of it ({told})",
            hint='take these parameters out, or set "unsupported": "report"',
        )
    return applied, left_out


def split_system(messages: Sequence[Message], provider: str) -> tuple[str | None, list[Message]]:
    """The system text that leads the messages, and the rest.

    Raises InputError where there is no message, or a system message after another role.
    """
    leading = [m.content for m in messages]
    count = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    rest = list(messages[count:])
    if not rest:
        raise InputError(f"{provider}: a request needs a message that is not the system's")
    for index, message in enumerate(rest, start=count):
        if message.role == "system":
            raise InputError(f"{provider}: message {index} is the system's, but not in the lead")
    return "\n\n".join(leading[:count]) or None, rest
