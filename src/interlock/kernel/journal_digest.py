"""What a run was asked to do, as digests, and how a configuration differs, in words.

Canonical JSON is `interlock.kernel.outcome.to_plain` written without spaces, keys sorted, UTF-8.
The configuration's digest is the SHA-256 of its canonical JSON. An item's digest is the SHA-256
of its payload's canonical JSON unless the caller names one. The digest of all inputs is the
SHA-256 over one line `["key","digest in hex"]\n` an item, in the order of the keys' UTF-8 bytes,
so that the order of the items does not matter.

A configuration may hold prompts and secrets, so its text is never stored: a `Setting` keeps plain
numbers, booleans, short names and what is labelled `sha256:`, and the digest of everything else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from interlock.kernel.errors import InputError
from interlock.kernel.outcome import encode_json, to_plain


class Setting(msgspec.Struct, frozen=True, omit_defaults=True):
    """One leaf of a configuration: `json` where it may be shown, else the digest of its JSON."""

    json: str = ""
    digest: str = ""

    @property
    def text(self) -> str:
        """The value where it may be shown, else `(not shown)`."""
        return self.json or "(not shown)"


def canonical_json(value: Any, what: str) -> bytes:
    """`value` as canonical JSON; InputError, naming `what`, where JSON cannot carry it."""
    return _encode(value, what, "sorted")


def plain_json(value: Any, what: str) -> bytes:
    """`value` as JSON with its keys in the order given; InputError, naming `what`."""
    return _encode(value, what, None)


def _encode(value: Any, what: str, order: Literal["sorted"] | None) -> bytes:
    try:
        return encode_json(value, order=order)
    except InputError as error:
        raise InputError(f"{what}: {error.message}") from None


def sha256(data: bytes) -> bytes:
    """The 32 raw bytes of the SHA-256."""
    return hashlib.sha256(data).digest()


def inputs_digest(items: Iterable[tuple[str, bytes]]) -> bytes:
    """The digest of all inputs, from (key, digest) sorted by key."""
    digest = hashlib.sha256()
    for key, item_digest in items:
        digest.update(msgspec.json.encode([key, item_digest.hex()]) + b"\n")
    return digest.digest()


def settings(config: Mapping[str, Any]) -> dict[str, Setting]:
    """Path -> setting for every leaf of a configuration, such as `models[0].name`."""
    leaves = _leaves("", to_plain(dict(config)))
    return {path: _setting(path, leaf) for path, leaf in leaves if path}


def describe_changes(old: Mapping[str, Setting], new: Mapping[str, Setting]) -> list[str]:
    """One line for every path that differs; values only where they may be shown."""
    lines = []
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path), new.get(path)
        if before == after:
            continue
        if before is None and after is not None:
            lines.append(f"config {path}: added {after.text}")
        elif before is not None and after is None:
            lines.append(f"config {path}: removed, was {before.text}")
        elif before is not None and after is not None:
            shown = f"{before.text} → {after.text}" if before.json or after.json else "changed"
            lines.append(f"config {path}: {shown}")
    return lines


_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")
_QUOTED_KEY = re.compile(r"[\w .:/-]{1,60}")
_SECRET = re.compile(r"key|token|secret|passw|credential|auth|cookie|signature", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,39}")
_SEGMENT = re.compile(r"[A-Za-z0-9]+")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    match value:
        case dict() if value and not any(key.startswith("$") for key in value):
            for key, item in value.items():
                yield from _leaves(path + _step(key, first=not path), item)
        case list() if value:
            for index, item in enumerate(value):
                yield from _leaves(f"{path}[{index}]", item)
        case _:
            yield path, value


def _step(key: str, *, first: bool) -> str:
    if _PLAIN_KEY.fullmatch(key):
        return key if first else f".{key}"
    if _QUOTED_KEY.fullmatch(key):
        return f'["{key}"]'
    # A prompt may serve as a key.
    return f"[text {sha256(key.encode('utf-8', 'surrogatepass')).hex()[:12]}]"


def _setting(path: str, leaf: Any) -> Setting:
    encoded = msgspec.json.encode(leaf, order="sorted")
    if _showable(path, leaf):
        return Setting(json=encoded.decode())
    return Setting(digest=sha256(encoded).hex())


def _showable(path: str, leaf: Any) -> bool:
    match leaf:
        case str() if _DIGEST.fullmatch(leaf):
            # Labelled as a digest, it tells which bundle ran and nothing of what went in.
            return not _SECRET.search(path)
        case str():
            return bool(not _SECRET.search(path) and _NAME.fullmatch(leaf)) and not any(
                map(_looks_random, _SEGMENT.findall(leaf))
            )
        case {"$float": _}:
            return True
        case dict() | list():
            return not leaf
    return True


def _looks_random(segment: str) -> bool:
    mixed = not segment.isalpha() and not segment.isdigit()
    return len(segment) > (10 if mixed else 20)
