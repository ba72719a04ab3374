"""Texts put into disguise, to measure what a detector still sees in them. Seeded."""

from __future__ import annotations

import base64
import codecs
import random
import urllib.parse
from collections.abc import Callable, Mapping
from types import MappingProxyType

from interlock.kernel.errors import ConfigError

Disguise = Callable[[str, random.Random], str]
"""Takes a text and a source of chance, gives the disguised text."""

_CYRILLIC = str.maketrans("aceiopsxyAEOPCTXHKMB", "асеіорѕхуАЕОРСТХНКМВ")
_LEET = str.maketrans("aeiostAEIOST", "431057431057")
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"


def disguise(text: str, kind: str, seed: int = 0) -> str:
    """`text` in the disguise `kind`, a key of DISGUISES; the same for the same seed and text.

    Raises ConfigError for an unknown kind.
    """
    try:
        put_on = DISGUISES[kind]
    except KeyError:
        raise ConfigError(
            f"disguise is {kind!r}; known disguises: {', '.join(DISGUISES)}"
        ) from None
    return put_on(text, random.Random(f"{seed}:{kind}:{text}"))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _base64(text: str, chance: random.Random) -> str:
    if chance.random() < 0.3:
        return base64.urlsafe_b64encode(_bytes(text)).decode().rstrip("=")
    return base64.b64encode(_bytes(text)).decode()


def _hex(text: str, chance: random.Random) -> str:
    return _bytes(text).hex(chance.choice(" ,")) if chance.random() < 0.3 else _bytes(text).hex()


def _rot13(text: str, chance: random.Random) -> str:
    return codecs.encode(text, "rot13")


def _url(text: str, chance: random.Random) -> str:
    if chance.random() < 0.5:
        return "".join(f"%{byte:02X}" for byte in _bytes(text))
    quoted = urllib.parse.quote(_bytes(text), safe="")
    return quoted if "%" in quoted else f"%{ord(text[0]):02x}{quoted[1:]}" if text else text


def _html(text: str, chance: random.Random) -> str:
    form = chance.choice(["&#{};", "&#x{:x};"])
    share = chance.choice([0.4, 1.0])
    return "".join(form.format(ord(c)) if chance.random() < share else c for c in text)


def _escapes(text: str, chance: random.Random) -> str:
    return "".join(f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else c for c in text)


def _homoglyph(text: str, chance: random.Random) -> str:
    return "".join(c.translate(_CYRILLIC) if chance.random() < 0.6 else c for c in text)


def _fullwidth(text: str, chance: random.Random) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def _zero_width(text: str, chance: random.Random) -> str:
    return "".join(c + (chance.choice(_INVISIBLE) if chance.random() < 0.5 else "") for c in text)


def _bidi(text: str, chance: random.Random) -> str:
    words = text.split(" ") if text else []
    marks = [("\u202d", "\u202c"), ("\u2066", "\u2069"), ("\u200e", "\u200f")]
    return " ".join(
        left + word[: len(word) // 2] + right + word[len(word) // 2 :]
        for word in words
        for left, right in [chance.choice(marks)]
    )


def _combining(text: str, chance: random.Random) -> str:
    return "".join(c + (chr(chance.randrange(0x300, 0x340)) if c.isalpha() else "") for c in text)


def _spacing(text: str, chance: random.Random) -> str:
    gap = chance.choice(["  ", "   "])
    return gap.join(" ".join(word) for word in text.split())


def _punctuation(text: str, chance: random.Random) -> str:
    sign = chance.choice(".-_*")
    return " ".join(sign.join(word) for word in text.split())


def _leetspeak(text: str, chance: random.Random) -> str:
    return "".join(c.translate(_LEET) if chance.random() < 0.7 else c for c in text)


def _reversed(text: str, chance: random.Random) -> str:
    return text[::-1]


def _nested(text: str, chance: random.Random) -> str:
    """Two or three encodings, one in the other; rot13 can only be the innermost."""
    layers = chance.sample((_base64, _hex, _url), k=chance.choice([1, 2]))
    if len(layers) == 1 and chance.random() < 0.5:
        layers.insert(0, _rot13)
    for put_on in layers:
        text = put_on(text, chance)
    return chance.choice([_base64, _hex])(text, chance)


DISGUISES: Mapping[str, Disguise] = MappingProxyType(
    {
        "base64": _base64,
        "hex": _hex,
        "rot13": _rot13,
        "url": _url,
        "html": _html,
        "escapes": _escapes,
        "homoglyph": _homoglyph,
        "fullwidth": _fullwidth,
        "zero-width": _zero_width,
        "bidi": _bidi,
        "combining": _combining,
        "spacing": _spacing,
        "punctuation": _punctuation,
        "leetspeak": _leetspeak,
        "reversed": _reversed,
        "nested": _nested,
    }
)
"""Disguise -> function. `nested` puts two or three encodings into one another."""
