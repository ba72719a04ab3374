"""A guard around an `openai` client: messages are judged before they are sent.

    client = guard(openai.OpenAI(), detector)
    client.chat.completions.create(...)

Works with the sync and the async client, streamed answers included, and needs nothing of the
package: it stands in front of the client's own methods.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from interlock.detect.detector import Detector
from interlock.detect.policy import Action
from interlock.detect.results import Detection
from interlock.kernel.errors import ConfigError, HeldPromptError

_log = logging.getLogger("interlock.detect")
_PLACES = {"user": "user", "tool": "document", "function": "document"}
_TRUSTED = frozenset({"system", "developer", "assistant"})
_GUARDED = {
    ("chat", "completions", "create"): ("messages",),
    ("chat", "completions", "parse"): ("messages",),
    ("chat", "completions", "stream"): ("messages",),
    ("responses", "create"): ("input", "prompt"),
    ("responses", "parse"): ("input", "prompt"),
    ("responses", "stream"): ("input", "prompt"),
    ("responses", "compact"): ("input",),
    ("completions", "create"): ("prompt",),
}
# Where a message, a part of one, what a tool gave, and a stored prompt keep their texts.
_HOLDING = ("text", "content", "output", "outputs", "stdout", "stderr", "logs", "results")
# Copies of the client that its methods return; they must be guarded as well.
_COPIES = frozenset({"with_options", "copy"})
_WAYS = frozenset({"with_raw_response", "with_streaming_response", "beta"})


def guard(
    client: Any,
    detector: Detector,
    *,
    on_flag: Callable[[Detection], None] | None = None,
) -> Any:
    """`client` with its requests judged; every other attribute is the client's own.

    on_flag  called with the answer for each flagged message; the request is sent all the same

    A request with a held message raises HeldPromptError before anything is sent. Judged are user,
    tool and function messages, the outputs of calls, prompts that are plain texts, and what is put
    into a stored prompt; what the system, the developer and the assistant say is not. Raises
    ConfigError for arguments that are no client and no detector.
    """
    if not isinstance(detector, Detector):
        raise ConfigError(f"detector is a {type(detector).__name__}; it must be a Detector")
    if not any(hasattr(client, way[0]) for way in _GUARDED):
        raise ConfigError(f"client is a {type(client).__name__}; it must be an openai client")
    return _Guarded(client, detector, on_flag, ())


class _Guarded:
    """Stands for `client` or something below it, at `path`."""

    def __init__(
        self,
        target: Any,
        detector: Detector,
        on_flag: Callable[[Detection], None] | None,
        path: tuple[str, ...],
    ) -> None:
        self._target = target
        self._detector = detector
        self._on_flag = on_flag
        self._path = path

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        path = self._path if name in _WAYS else (*self._path, name)
        fields = _GUARDED.get(path)
        if fields is not None and callable(found):
            return self._judging(found, fields)
        if not self._path and name in _COPIES:
            return lambda *args, **kwargs: _Guarded(
                found(*args, **kwargs), self._detector, self._on_flag, ()
            )
        if name in _WAYS or any(known[: len(path)] == path for known in _GUARDED):
            return _Guarded(found, self._detector, self._on_flag, path)
        return found

    def __enter__(self) -> _Guarded:
        self._target.__enter__()
        return self

    def __exit__(self, *args: Any) -> Any:
        return self._target.__exit__(*args)

    async def __aenter__(self) -> _Guarded:
        await self._target.__aenter__()
        return self

    async def __aexit__(self, *args: Any) -> Any:
        return await self._target.__aexit__(*args)

    def _judging(self, method: Callable[..., Any], fields: tuple[str, ...]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(inspect.unwrap(method)):

            async def send_async(*args: Any, **kwargs: Any) -> Any:
                for text, place in _judged(kwargs, fields):
                    self._take(await self._detector.ascan(text, place))
                return await method(*args, **kwargs)

            return send_async

        def send(*args: Any, **kwargs: Any) -> Any:
            for text, place in _judged(kwargs, fields):
                self._take(self._detector.scan(text, place))
            return method(*args, **kwargs)

        return send

    def _take(self, found: Detection) -> None:
        if found.action in (Action.BLOCK, Action.ESCALATE):
            _log.info("request held: %s, text %s", found.action.value, found.digest)
            raise HeldPromptError(
                f"a message was held ({found.action.value}): {'; '.join(found.reasons)}",
                detection=found,
            )
        if found.action is Action.FLAG and self._on_flag is not None:
            self._on_flag(found)


def _judged(kwargs: dict[str, Any], fields: tuple[str, ...]) -> list[tuple[str, str]]:
    """(text, place) of what is judged of a call; iterators in `kwargs` become lists."""
    found: list[tuple[str, str]] = []
    for field in fields:
        if field in kwargs:
            # An iterator can be read once: what was judged is what must be sent.
            kwargs[field] = _listed(kwargs[field])
        found.extend(_texts(kwargs.get(field), "user"))
        extra = kwargs.get("extra_body")
        if isinstance(extra, dict) and field in extra:
            # The client lets it replace the field.
            kwargs["extra_body"] = extra = {**extra, field: _listed(extra[field])}
            found.extend(_texts(extra[field], "user"))
    return found


def _listed(value: Any) -> Any:
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    # The client takes whatever can be iterated over; its own types iterate over their fields.
    if isinstance(value, Iterable) and not hasattr(value, "model_dump"):
        return [_listed(item) for item in value]
    return value


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """(text, place) of what a request's messages, input or prompt hold."""
    if isinstance(value, str):
        yield value, place
        return
    if isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, place)
        return
    role = _field(value, "role")
    if role in _TRUSTED:
        return
    if isinstance(role, str):
        place = _PLACES.get(role, "auto")
    kind = _field(value, "type")
    if isinstance(kind, str) and kind.endswith(("_output", "_call")):
        place = "document"
    for name in _HOLDING:
        inner = _field(value, name)
        if inner is not None:
            yield from _texts(inner, place)
    variables = _field(value, "variables")
    if isinstance(variables, dict):
        for inner in variables.values():
            yield from _texts(inner, place)


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)
