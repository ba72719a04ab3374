"""Requests of OpenAI's API: what changes an answer is applied or refused, never passed over."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec

from interlock.engines.chat import Message, Role, Sampling
from interlock.kernel.errors import InputError

# OpenAI's own defaults; a completion of 16 tokens is what its clients expect.
TEMPERATURE = 1.0
COMPLETION_TOKENS = 16
_MOST_STOPS = 4
_MOST_TOP_LOGPROBS = 20
_MOST_COMPLETION_LOGPROBS = 5
_LONGEST_STOP = 1000

# Names that change no answer, for whoever keeps records of requests.
_IGNORED = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
)
# What this server does not do, with the values that ask for nothing.
_NOT_DONE: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_PATH = re.compile(r" - at `\$\.?(.*)`$")


class FieldError(InputError):
    """A field of the request is wrong; `param` names it."""

    code = "invalid_field"

    def __init__(self, param: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    include_obfuscation: bool = False


class _Common(msgspec.Struct, kw_only=True):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    timeout: float | None = None


class _Chat(_Common, kw_only=True):
    messages: list[_Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class _Completion(_Common, kw_only=True):
    prompt: str | list[Any]
    logprobs: int | None = None


@dataclass(frozen=True)
class TextAsked:
    """A request in our own words.

    prompt    messages, a text to continue, or token ids
    limited   whether the request names how many tokens the answer may have
    usage     whether the stream ends with a piece that counts tokens
    seconds   the client's own deadline, None where it names none
    """

    kind: Literal["chat", "completion"]
    model: str
    prompt: tuple[Message, ...] | str | tuple[int, ...]
    sampling: Sampling
    limited: bool
    stream: bool = False
    usage: bool = False
    seconds: float | None = None


def read_chat(body: bytes, answer_tokens: int) -> TextAsked:
    """The body of `/v1/chat/completions`; `answer_tokens` where it names no limit.

    Raises FieldError naming the field.
    """
    asked = cast(_Chat, _read(body, _Chat))
    if asked.max_tokens is not None and asked.max_completion_tokens is not None:
        raise FieldError("max_tokens", "max_tokens and max_completion_tokens are both given")
    if not asked.messages:
        raise FieldError("messages", "messages is empty")
    messages = tuple(_message(each, at) for at, each in enumerate(asked.messages))
    logprobs = None
    if asked.logprobs:
        logprobs = asked.top_logprobs or 0
        _within("top_logprobs", logprobs, 0, _MOST_TOP_LOGPROBS)
    elif asked.top_logprobs is not None:
        raise FieldError("top_logprobs", "top_logprobs needs logprobs to be true")
    limit = asked.max_completion_tokens
    name = "max_completion_tokens" if limit is not None else "max_tokens"
    limit = asked.max_tokens if limit is None else limit
    return TextAsked(
        kind="chat",
        model=asked.model,
        prompt=messages,
        sampling=_sampling(asked, name, answer_tokens if limit is None else limit, logprobs),
        limited=limit is not None,
        **_rest(asked),
    )


def read_completion(body: bytes) -> TextAsked:
    """The body of `/v1/completions`. Raises FieldError naming the field."""
    asked = cast(_Completion, _read(body, _Completion))
    if asked.logprobs is not None:
        _within("logprobs", asked.logprobs, 0, _MOST_COMPLETION_LOGPROBS)
    limit = COMPLETION_TOKENS if asked.max_tokens is None else asked.max_tokens
    return TextAsked(
        kind="completion",
        model=asked.model,
        prompt=_prompt(asked.prompt),
        sampling=_sampling(asked, "max_tokens", limit, asked.logprobs),
        limited=True,
        **_rest(asked),
    )


def _read(body: bytes, kind: type[_Common]) -> _Common:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise FieldError("", "the body is not JSON") from None
    if not isinstance(found, dict):
        raise FieldError("", "the body is not a JSON object")
    known = {each.name for each in msgspec.structs.fields(kind)}
    for name, value in found.items():
        if name in known or name in _IGNORED or value is None:
            continue
        if name not in _NOT_DONE:
            raise FieldError(name[:100], f"the parameter {name[:100]!r} is unknown")
        if value not in _NOT_DONE[name]:
            told = f"{name} is not supported by this server"
            if isinstance(value, int | float):
                told = f"{name} is {value}; this server supports {_NOT_DONE[name][0]} alone"
            raise FieldError(name, told)
    _check_fields("stream_options", found.get("stream_options"), _StreamOptions)
    _check_messages(found.get("messages"))
    try:
        return msgspec.convert({k: v for k, v in found.items() if k in known}, kind)
    except msgspec.ValidationError as error:
        told = str(error)
        place = _PATH.search(told)
        param = place[1] if place else ""
        if not place and (missing := re.search(r"required field `(\w+)`", told)):
            param = missing[1]
        what = told[: place.start()] if place else told
        raise FieldError(param, f"{param or 'the body'}: {what}") from None


def _check_messages(given: Any) -> None:
    for at, message in enumerate(given if isinstance(given, list) else ()):
        _check_fields(f"messages[{at}]", message, _Message)
        parts = message.get("content") if isinstance(message, dict) else None
        for number, part in enumerate(parts if isinstance(parts, list) else ()):
            if isinstance(part, dict) and part.get("type") == "text":
                _check_fields(f"messages[{at}].content[{number}]", part, _Part)


def _check_fields(place: str, given: Any, kind: type[msgspec.Struct]) -> None:
    """Raise FieldError for a field that `kind` has not, unless it is null or empty.

    Clients send an answer's message back with all the fields that they know.
    """
    if not isinstance(given, dict):
        return
    known = kind.__struct_fields__
    for name, value in given.items():
        if name not in known and value is not None and value != []:
            raise FieldError(
                f"{place}.{name[:100]}", f"{place} has {name[:100]!r}, which is unknown"
            )


def _message(given: _Message, at: int) -> Message:
    place = f"messages[{at}]"
    role = _ROLES.get(given.role)
    if role is None:
        raise FieldError(
            f"{place}.role",
            f"{place}.role is {given.role[:50]!r}; it must be one of {', '.join(_ROLES)}",
        )
    if given.tool_calls or given.tool_call_id:
        raise FieldError(place, f"{place} calls a tool, which this server does not support")
    if given.name:
        raise FieldError(f"{place}.name", f"{place}.name: models here know no names of speakers")
    content = given.content
    if content is None:
        raise FieldError(f"{place}.content", f"{place}.content is missing")
    if isinstance(content, str):
        return Message(role, content)
    for part in content:
        if part.type != "text":
            raise FieldError(f"{place}.content", f"{place}.content holds a part that is no text")
        if part.text is None:
            raise FieldError(f"{place}.content", f"{place}.content holds a part without its text")
    return Message(role, "".join(part.text or "" for part in content))


def _prompt(given: str | list[Any]) -> str | tuple[int, ...]:
    if isinstance(given, list) and len(given) == 1 and not isinstance(given[0], int):
        given = given[0]
    if not isinstance(given, str | list):
        raise FieldError("prompt", "prompt is neither a text nor a list of token ids")
    if not given:
        raise FieldError("prompt", "prompt is empty")
    if isinstance(given, str):
        return given
    if not all(type(each) is int for each in given):
        raise FieldError("prompt", "prompt holds several texts; this server answers one a request")
    return tuple(given)


def _sampling(asked: _Common, limit_name: str, limit: int, logprobs: int | None) -> Sampling:
    if limit < 1:
        raise FieldError(limit_name, f"{limit_name} is {limit}; it must be 1 or more")
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    if len(stop) > _MOST_STOPS:
        raise FieldError("stop", f"stop has {len(stop)} texts; {_MOST_STOPS} are the most")
    if not all(0 < len(text) <= _LONGEST_STOP for text in stop):
        raise FieldError("stop", f"each stop must have 1 to {_LONGEST_STOP} characters")
    try:
        return Sampling(
            max_tokens=limit,
            temperature=TEMPERATURE if asked.temperature is None else asked.temperature,
            top_p=asked.top_p,
            top_k=asked.top_k,
            min_p=asked.min_p,
            repetition_penalty=asked.repetition_penalty,
            seed=asked.seed,
            stop=stop,
            logprobs=logprobs,
            logprob_tokens=None,
        )
    except InputError as error:
        name = error.message.split(" ", maxsplit=1)[0]
        raise FieldError(limit_name if name == "max_tokens" else name, error.message) from None


def _rest(asked: _Common) -> dict[str, Any]:
    if asked.timeout is not None:
        _within("timeout", asked.timeout, 0.001, 86_400)
    if asked.stream_options is not None and not asked.stream:
        raise FieldError("stream_options", "stream_options needs stream to be true")
    return {
        "stream": bool(asked.stream),
        "usage": asked.stream_options is not None and asked.stream_options.include_usage,
        "seconds": asked.timeout,
    }


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise FieldError(name, f"{name} is {value}; it must lie in {low:g} … {high:g}")
