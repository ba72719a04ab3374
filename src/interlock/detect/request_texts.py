"""The texts of a chat request: which of its strings are judged, and as a user's or a document's."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

# What is written like a name under a key of names, or like a link or a file under one of those, is
# no text; anything else there is, since whoever sends a request chooses its keys.
_NAMES = frozenset({"role", "type", "id", "status", "detail", "format", "name"})
_NAME = re.compile(r"[\w.:/-]{1,64}")
_FILES = frozenset({"url", "image_url", "data", "file_data", "encrypted_content"})
_FILE = re.compile(r"https?://\S+|(?:data:[\w.+/-]+;base64,)?[A-Za-z0-9+/=]+")
_PLACES = {"user": "user", "tool": "document", "function": "document"}
# Whose lists are parts of one text, which a model reads one after the other.
_IN_PARTS = frozenset({"content", "output"})


class RequestText(NamedTuple):
    """One text, its place, and whether it only puts together the parts of a message before it."""

    text: str
    place: str
    joined: bool = False


def texts_below(value: Any, place: str, *, parts: bool = False) -> Iterator[RequestText]:
    """Every text in a JSON value, whatever its key, but for names, links and encoded files.

    place  of the texts; what a tool gave (a type `…_output`) is a document
    parts  whether the value is a message's content. Its parts are also read together: an attack
           cut into harmless parts is one text to the model

    A role in a part says nothing: parts may come from a tool that chose their keys.
    """
    if parts and isinstance(value, list):
        # Once only: parts of parts, put together at every depth, would be a flood.
        found: list[str] = []
        for item in value:
            for one in _strings(item, place, False):
                found.append(one.text)
                yield one
        if len(found) > 1:
            yield RequestText("\n".join(found), place, joined=True)
    else:
        yield from _strings(value, place, True)


def _strings(value: Any, place: str, join: bool) -> Iterator[RequestText]:
    if isinstance(value, str):
        yield RequestText(value, place)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, place, join)
    elif isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and kind.endswith("_output"):
            place = "document"
        for key, item in value.items():
            if key and not _NAME.fullmatch(key):
                yield RequestText(key, place)
            if _is_no_text(key, item):
                continue
            if join and key.casefold() in _IN_PARTS:
                yield from texts_below(item, place, parts=True)
            else:
                yield from _strings(item, place, join)


def texts_at(
    document: Any, field: tuple[str, ...], trusted: Collection[str] = ()
) -> Iterator[RequestText]:
    """The texts that `field` leads to in a JSON document.

    field    keys, in whatever case, since some that read a request take any; `*` stands for every
             item of a list
    trusted  roles whose messages are left out. Messages are the items of the last list on the way,
             or of a list at its end: a role anywhere else is not one of a message
    """
    yield from _along(document, field, trusted, "*" not in field)


def place_of(role: object, otherwise: str) -> str:
    """The place of what has this role."""
    return _PLACES.get(role, otherwise) if isinstance(role, str) else otherwise


def _along(
    value: Any, field: tuple[str, ...], trusted: Collection[str], messages: bool
) -> Iterator[RequestText]:
    if not field:
        if messages and isinstance(value, list):
            for item in value:
                yield from _message(item, (), trusted)
        else:
            yield from texts_below(value, "auto")
        return
    key, rest = field[0], field[1:]
    if key == "*":
        for item in value if isinstance(value, list) else ():
            if "*" in rest:
                yield from _along(item, rest, trusted, messages)
            else:
                yield from _message(item, rest, trusted)
    else:
        for inner in _under(value, key):
            yield from _along(inner, rest, trusted, messages)


def _under(value: Any, key: str) -> Iterator[Any]:
    """What stands under a key, and under those that differ from it in case alone."""
    if isinstance(value, dict):
        folded = key.casefold()
        for name, inner in value.items():
            if name.casefold() == folded:
                yield inner


def _message(item: Any, field: tuple[str, ...], trusted: Collection[str]) -> Iterator[RequestText]:
    role = item.get("role") if isinstance(item, dict) else None
    if isinstance(role, str) and role in trusted:
        return
    found = [item]
    for key in field:
        found = [inner for one in found for inner in _under(one, key)]
    parts = bool(field) and field[-1].casefold() in _IN_PARTS
    for one in found:
        yield from texts_below(one, place_of(role, "auto"), parts=parts)


def _is_no_text(key: str, value: Any) -> bool:
    """Whether `value` is a name, a link, a file or a model's statistics, as `key` says."""
    if not isinstance(value, str):
        return key == "logprobs"
    if key in _NAMES or key.endswith("_id"):
        return _NAME.fullmatch(value) is not None
    return key in _FILES and _FILE.fullmatch(value) is not None
