"""JSON from outside: one meaning or none."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn, TypeVar

import msgspec

from interlock.kernel.errors import BundleFormatError

T = TypeVar("T")

_VALUES = 1_000_000
"""Values that a document may hold: parsed, one takes 100 bytes or more, encoded as few as two."""


def decode_json(data: bytes, decoder: msgspec.json.Decoder[T], what: str) -> T:
    """Decode `data`, the content of file `what`.

    Raises BundleFormatError for a byte order mark, invalid UTF-8, a key given twice, NaN or an
    infinity, nesting that is too deep, numbers out of range, more than a million values (or commas
    and brackets in its texts), and anything that the decoder's type does not allow.
    """
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > _VALUES:
        raise BundleFormatError(f"{what} holds more than {_VALUES} values")
    if data.startswith(b"\xef\xbb\xbf"):
        raise BundleFormatError(f"{what} starts with a byte order mark")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleFormatError(f"{what} is not UTF-8 at byte {error.start}") from None
    try:
        # msgspec silently keeps the last of two equal keys, so the standard parser looks first.
        json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        return decoder.decode(data)
    except RecursionError:
        raise BundleFormatError(f"{what} is nested too deeply") from None
    except _Refused as refused:
        raise BundleFormatError(f"{what}: {refused}") from None
    except (msgspec.DecodeError, ValueError) as error:
        # It may quote a key of the document, lines and all.
        shown = "".join(c if c.isprintable() else "?" for c in str(error))
        raise BundleFormatError(f"{what}: {shown}") from None


class _Refused(Exception):
    """A finding that the standard parser must not wrap."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _Refused(f"the key {twice[:80]!r} is given twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not a JSON number")
