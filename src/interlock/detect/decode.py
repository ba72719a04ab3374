"""Encodings inside a text: base64, hex, percent, character references, escapes, rot13, reversal."""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import urllib.parse
from collections.abc import Callable, Iterator

from interlock.detect.lexicon import WORDS
from interlock.detect.views import View

Found = tuple[str, int, int]
"""A decoded text, and where its source begins and ends."""

# Each of these patterns matches in linear time: no part of one can be read in two ways.
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")
_HEX = re.compile(r"(?:0x)?[0-9A-Fa-f]{2}(?:[ :,]?(?:0x)?[0-9A-Fa-f]{2}){7,}")
_PERCENT = re.compile(
    r"(?:%[0-9A-Fa-f]{2}|[A-Za-z0-9+_.~-])*%[0-9A-Fa-f]{2}(?:%[0-9A-Fa-f]{2}|[A-Za-z0-9+_.~-])*"
)
_REFERENCE = re.compile(r"&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});")
_ESCAPE = re.compile(r"\\x([0-9A-Fa-f]{2})|\\u([0-9A-Fa-f]{4})|\\([0-7]{3})")
_WORD = re.compile(r"[A-Za-z]+")


def decodings(view: View) -> list[View]:
    """The readings of `view` in which something was decoded, one an encoding."""
    found: list[View] = []
    for step, decoder in _DECODERS:
        pieces = [piece for piece in decoder(view.text) if piece[0]]
        if not pieces:
            continue
        parts: list[Found] = []
        done = 0
        for text, start, end in pieces:
            parts += [(view.text[done:start], done, start), (text, start, end)]
            done = end
        parts.append((view.text[done:], done, len(view.text)))
        found.append(view.pieces(parts, step, aligned=step == "rot13"))
    return found


def _base64(text: str) -> Iterator[Found]:
    for found in _BASE64.finditer(text):
        run = found[0].rstrip("=").replace("-", "+").replace("_", "/")
        if run.isalpha() and (run.islower() or run[1:].islower()):
            continue  # a long word
        if len(run) % 4 == 1:
            run = run[:-1]
        try:
            raw = base64.b64decode(run + "=" * (-len(run) % 4), validate=True)
        except (binascii.Error, ValueError):
            continue
        decoded = _readable(raw)
        if decoded is not None:
            yield decoded, *found.span()


def _hex(text: str) -> Iterator[Found]:
    for found in _HEX.finditer(text):
        digits = re.sub(r"0x|[ :,]", "", found[0])
        if digits.isdecimal() and len(digits) < 24:
            continue  # a number
        decoded = _readable(bytes.fromhex(digits))
        if decoded is not None:
            yield decoded, *found.span()


def _percent(text: str) -> Iterator[Found]:
    if "%" not in text:
        return
    for found in _PERCENT.finditer(text):
        decoded = _readable(urllib.parse.unquote_to_bytes(found[0].replace("+", " ")))
        if decoded is not None:
            yield decoded, *found.span()


def _references(text: str) -> Iterator[Found]:
    if "&" not in text:
        return
    for found in _REFERENCE.finditer(text):
        decoded = html.unescape(found[0])
        if decoded != found[0]:
            yield decoded, *found.span()


def _escapes(text: str) -> Iterator[Found]:
    if "\\" not in text:
        return
    for found in _ESCAPE.finditer(text):
        digits = found[1] or found[2]
        point = int(digits, 16) if digits else int(found[3], 8)
        if not 0xD800 <= point <= 0xDFFF:
            yield chr(point), *found.span()


def _readable(raw: bytes) -> str | None:
    """The bytes as text, or None where they are not text: binary data decodes by chance too."""
    if len(raw) < 6:
        return None
    # Every second byte of Latin text in UTF-16 is zero.
    wide = raw[1::2].count(0) * 3 >= len(raw)
    try:
        text = raw.decode("utf-16-le" if wide else "utf-8")
    except UnicodeDecodeError:
        return None
    fine = sum(character.isprintable() or character in "\n\r\t" for character in text)
    letters = sum(character.isalpha() or character.isspace() for character in text)
    return text if fine == len(text) and letters * 10 >= len(text) * 6 else None


def _rotated(text: str) -> Iterator[Found]:
    yield from _by_words(text, lambda word: codecs.encode(word, "rot13"), backwards=False)


def _reversed(text: str) -> Iterator[Found]:
    yield from _by_words(text, lambda word: word[::-1], backwards=True)


def _by_words(text: str, read: Callable[[str], str], *, backwards: bool) -> Iterator[Found]:
    """Runs of words that are words only when read so.

    A run is at least three words long; four fifths of its words are in the lexicon when read, and
    fewer than two fifths as they stand. A word of neither kind may lie between two that are.
    """
    run: list[re.Match[str]] = []
    for found in _WORD.finditer(text):
        near = not run or found.start() - run[-1].end() <= 3
        hit = _is_word(read(found[0].lower()))
        if run and not near:
            yield from _run(text, run, read, backwards)
            run = []
        if hit or (run and len(run) < 400):
            run.append(found)
    yield from _run(text, run, read, backwards)


def _is_word(text: str) -> bool:
    """Whether it is in the lexicon; a single letter reads the same in too many ways."""
    return len(text) > 1 and text in WORDS


def _run(
    text: str, run: list[re.Match[str]], read: Callable[[str], str], backwards: bool
) -> Iterator[Found]:
    while run and not _is_word(read(run[-1][0].lower())):
        run = run[:-1]
    if len(run) < 3:
        return
    words = [found[0].lower() for found in run]
    as_read = sum(read(word) in WORDS for word in words)
    as_is = sum(_is_word(word) for word in words)
    if 5 * as_read < 4 * len(run) or 5 * as_is >= 2 * len(run):
        return
    start, end = run[0].start(), run[-1].end()
    yield (
        (text[start:end][::-1] if backwards else codecs.encode(text[start:end], "rot13")),
        start,
        end,
    )


_DECODERS: tuple[tuple[str, Callable[[str], Iterator[Found]]], ...] = (
    ("base64", _base64),
    ("hex", _hex),
    ("percent", _percent),
    ("character references", _references),
    ("escapes", _escapes),
    ("rot13", _rotated),
    ("reversed", _reversed),
)
