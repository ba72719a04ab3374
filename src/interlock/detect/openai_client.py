"""A guard around an `openai` client: messages are judged before they are sent.

    client = guard(openai.OpenAI(), detector)
    client.chat.completions.create(...)

Works with the sync and the async client, streamed answers included, and needs nothing of the
package: it stands in front of the client's own methods.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

from interlock.detect.detector import Detector
from interlock.detect.policy import Action
from interlock.detect.request_texts import RequestText, place_of, texts_below
from interlock.detect.results import Detection
from interlock.kernel.errors import ConfigError, HeldPromptError

_log = logging.getLogger("interlock.detect")
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
    ("conversations", "create"): ("items",),
    ("conversations", "items", "create"): ("items",),
    ("decisions", "create"): ("input",),
}
# Items that hold the model's own words; what came of a call stands in it under some keys.
_OWN_WORDS = frozenset({"reasoning", "compaction", "program", "mcp_approval_request"})
_RESULTS = ("output", "outputs", "results", "error")
# Items that list tools of others: only their descriptions are prose.
_TOOLS = frozenset({"mcp_list_tools", "tool_search_output"})
_SLOTS = ("_target", "_detector", "_on_flag", "_path", "_awaited", "_entered")
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
    tool and function messages, part by part and whole, the outputs of calls, descriptions of tools
    that an item lists, prompts that are plain texts, and what is put into a stored prompt; what the
    system, the developer and the assistant say is not. Raises ConfigError for arguments that are no
    client and no detector.
    """
    if not isinstance(detector, Detector):
        raise ConfigError(f"detector is a {type(detector).__name__}; it must be a Detector")
    if not any(hasattr(client, way[0]) for way in _GUARDED):
        raise ConfigError(f"client is a {type(client).__name__}; it must be an openai client")
    awaited = hasattr(client, "__aenter__") and not hasattr(client, "__enter__")
    return _Guarded(client, detector, on_flag, (), awaited)


class _Guarded:
    """Stands for `client` or something below it, at `path`; what is set on it is set on that.

    awaited  whether the client is the async one
    entered  whether its answers are context managers
    """

    __slots__ = _SLOTS

    def __init__(
        self,
        target: Any,
        detector: Detector,
        on_flag: Callable[[Detection], None] | None,
        path: tuple[str, ...],
        awaited: bool,
        entered: bool = False,
    ) -> None:
        self._target = target
        self._detector = detector
        self._on_flag = on_flag
        self._path = path
        self._awaited = awaited
        self._entered = entered

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SLOTS:
            object.__setattr__(self, name, value)
        else:
            setattr(self._target, name, value)

    def __getattr__(self, name: str) -> Any:
        if name in _SLOTS:  # of one that `copy` has not filled yet
            raise AttributeError(name)
        found = getattr(self._target, name)
        path = self._path if name in _WAYS else (*self._path, name)
        fields = _GUARDED.get(path)
        if fields is not None and callable(found):
            return self._judging(found, fields)
        if not self._path and name in _COPIES:
            return lambda *args, **kwargs: _Guarded(
                found(*args, **kwargs), self._detector, self._on_flag, (), self._awaited
            )
        if name in _WAYS or any(known[: len(path)] == path for known in _GUARDED):
            entered = self._entered or name == "with_streaming_response"
            return _Guarded(found, self._detector, self._on_flag, path, self._awaited, entered)
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
        async def judge_async(kwargs: dict[str, Any]) -> None:
            for one in _judged(kwargs, fields):
                self._take(await self._detector.ascan(one.text, one.place))

        # The method that gives a manager wraps one that is awaited.
        if not self._entered and inspect.iscoroutinefunction(inspect.unwrap(method)):

            async def send_async(*args: Any, **kwargs: Any) -> Any:
                await judge_async(kwargs)
                return await method(*args, **kwargs)

            return send_async

        if self._awaited:

            def later(*args: Any, **kwargs: Any) -> _Later:
                async def called() -> Any:
                    await judge_async(kwargs)
                    return method(*args, **kwargs)

                return _Later(called)

            return later

        def send(*args: Any, **kwargs: Any) -> Any:
            for one in _judged(kwargs, fields):
                self._take(self._detector.scan(one.text, one.place))
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


class _Later:
    """What a method of the async client gives that is entered, not awaited: a stream's manager.

    The call itself cannot wait for the judgement without holding up the event loop.
    """

    def __init__(self, called: Callable[[], Awaitable[Any]]) -> None:
        self._called = called
        self._manager: Any = None

    async def __aenter__(self) -> Any:
        self._manager = await self._called()
        return await self._manager.__aenter__()

    async def __aexit__(self, *args: Any) -> Any:
        return await self._manager.__aexit__(*args)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._whole().__await__()

    async def _whole(self) -> Any:
        found = await self._called()
        return await found if inspect.isawaitable(found) else found


def _judged(kwargs: dict[str, Any], fields: tuple[str, ...]) -> list[RequestText]:
    """What is judged of a call; iterators in `kwargs` become lists."""
    found: list[RequestText] = []
    for field in fields:
        if field in kwargs:
            # An iterator can be read once: what was judged is what must be sent.
            kwargs[field] = _listed(kwargs[field])
            found.extend(_texts(field, _plain(kwargs[field])))
        extra = kwargs.get("extra_body")
        if isinstance(extra, Mapping) and field in extra:
            # The client lets it replace the field.
            kwargs["extra_body"] = extra = {**extra, field: _listed(extra[field])}
            found.extend(_texts(field, _plain(extra[field])))
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


def _plain(value: Any) -> Any:
    """`value` with the objects of the client, or of pydantic, as the JSON that is sent of them."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_unset=True, warnings=False)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _texts(field: str, value: Any) -> Iterator[RequestText]:
    """The texts of a request's messages, items, input or prompt."""
    if field == "prompt" and isinstance(value, dict):
        yield from texts_below(value.get("variables"), "user")
        return
    for item in value if isinstance(value, list) else [value]:
        yield from _of_item(item)


def _of_item(item: Any) -> Iterator[RequestText]:
    if not isinstance(item, dict):
        yield from texts_below(item, "user")
        return
    role = item.get("role")
    kind = str(item.get("type"))
    if isinstance(role, str):
        if role in _TRUSTED:
            return
        yield from texts_below(item, place_of(role, "auto"))
    elif kind in _TOOLS:
        yield from texts_below(item.get("error"), "document")
        for text in _descriptions(item):
            yield RequestText(text, "document")
    elif kind in _OWN_WORDS or kind.endswith("_call"):
        for key in _RESULTS:
            yield from texts_below(item.get(key), "document", parts=True)
    else:
        yield from texts_below(item, "user")


def _descriptions(value: Any) -> Iterator[str]:
    """Every `description` and `server_description` in a list of tools."""
    if isinstance(value, list):
        for item in value:
            yield from _descriptions(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str):
                if key.endswith("description"):
                    yield item
            else:
                yield from _descriptions(item)
