"""Encodings inside a text: base64, hex, binary, Morse, percent, references, rot13, reversal.

Every search is linear in the length of the text: no part of a pattern can be read in two ways, and
no pattern scans ahead for something that may be missing.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import urllib.parse
from collections.abc import Callable, Iterator
from functools import lru_cache

from interlock.detect.lexicon import REVERSED_WORDS, ROTATED_WORDS, WORDS
from interlock.detect.views import Part, View

# Wrapped base64, as in mails, is one run: a full line, and lines that go on.
_BASE64 = re.compile(
    r"[A-Za-z0-9+/_-]{40,}(?:\r?\n[A-Za-z0-9+/_-]{4,})*={0,2}|[A-Za-z0-9+/_-]{12,}={0,2}"
)
_BASE32 = re.compile(r"(?<![A-Z0-9])[A-Z2-7]{16,}={0,6}")
_HEX = re.compile(r"(?:0x)?[0-9A-Fa-f]{2}(?:[ :,\n-]?(?:0x)?[0-9A-Fa-f]{2}){7,}")
_BINARY = re.compile(r"[01]{8}(?:[ ,\n]?[01]{8}){5,}")
_DECIMAL = re.compile(r"(?<!\d)\d{2,3}(?:[ ,;\n]{1,2}\d{2,3}){7,}(?!\d)")
_MORSE = re.compile(r"[.\-]{1,5}(?:[ /|]{1,3}[.\-]{1,5}){7,}")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}(?:%[0-9A-Fa-f]{2}|[A-Za-z0-9+_.~-])*")
_QUERY = re.compile(r"[A-Za-z0-9+_.~-]*\Z")
_REFERENCE = re.compile(r"&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});")
_ESCAPE = re.compile(r"\\x([0-9A-Fa-f]{2})|\\u([0-9A-Fa-f]{4})|\\([0-7]{3})")
_WORD = re.compile(r"[A-Za-z]+")
_RUN = re.compile(r"[A-Za-z0-9+/_-]{12}")
_DIGIT = re.compile("[0-9]")

# Words only when read so: a text without any of them is in no such disguise.
_ROTATED_ONLY = frozenset(word for word in ROTATED_WORDS - WORDS if len(word) > 2)
_REVERSED_ONLY = frozenset(word for word in REVERSED_WORDS - WORDS if len(word) > 2)

# Applied twice they give the text that was there before.
_UNDO_THEMSELVES = frozenset({"rot13", "reversed", "reversed words"})

Decoder = Callable[[str], Iterator[Part]]
"""Finds what it can decode in a text, in order."""

# The longest stretch before a percent sign that is read with it.
_QUERY_BEFORE = 400
# Whether bytes are text is judged by so many characters.
_JUDGED = 4096

_MORSE_LETTERS = {
    ".-": "a", "-...": "b", "-.-.": "c", "-..": "d", ".": "e", "..-.": "f", "--.": "g",
    "....": "h", "..": "i", ".---": "j", "-.-": "k", ".-..": "l", "--": "m", "-.": "n",
    "---": "o", ".--.": "p", "--.-": "q", ".-.": "r", "...": "s", "-": "t", "..-": "u",
    "...-": "v", ".--": "w", "-..-": "x", "-.--": "y", "--..": "z",
}  # fmt: skip


def decodings(view: View) -> list[View]:
    """The readings of `view` in which something was decoded, one an encoding."""
    text = view.text
    found: list[View] = []
    for step, decoder in _decoders(text):
        if step in _UNDO_THEMSELVES and not _UNDO_THEMSELVES.isdisjoint(view.via):
            continue
        changes = [part for part in decoder(text) if part[0]]
        if changes:
            read = view.changed(changes, step, aligned=step in ("rot13", "reversed words"))
            assert read is not None
            found.append(read)
    return found


def _decoders(text: str) -> list[tuple[str, Decoder]]:
    """Those that `text` may need, by what it must at least hold: most texts need none."""
    needed: list[tuple[str, Decoder]] = []
    if _RUN.search(text):
        needed += [("base64", _base64), ("base32", _base32)]
    if _DIGIT.search(text):
        needed += [("hex", _hex), ("binary", _binary), ("character codes", _decimal)]
    if "-." in text or ".-" in text:
        needed.append(("morse", _morse))
    if "%" in text:
        needed.append(("percent", _percent))
    if "&" in text:
        needed.append(("character references", _references))
    if "\\" in text:
        needed.append(("escapes", _escapes))
    words = _WORD.findall(text.lower())
    if len(_ROTATED_ONLY.intersection(words)) > 1:
        needed.append(("rot13", _rotated))
    if len(_REVERSED_ONLY.intersection(words)) > 1:
        needed += [("reversed", _reversed), ("reversed words", _reversed_words)]
    return needed


def _base64(text: str) -> Iterator[Part]:
    for found in _BASE64.finditer(text):
        run = found[0]
        if run.isalpha() and (run.islower() or run[1:].islower()):
            continue  # a long word
        start, end = found.span()
        decoded = _from_base64(run)
        if decoded is None and "\n" in run:
            # The last line may be a word that stands below.
            run = run[: run.rindex("\n")]
            end = start + len(run)
            decoded = _from_base64(run)
        if decoded is not None:
            yield decoded, start, end


def _from_base64(run: str) -> str | None:
    run = "".join(run.split()).rstrip("=").replace("-", "+").replace("_", "/")
    if len(run) % 4 == 1:
        run = run[:-1]
    try:
        return _readable(base64.b64decode(run + "=" * (-len(run) % 4), validate=True))
    except (binascii.Error, ValueError):
        return None


def _base32(text: str) -> Iterator[Part]:
    for found in _BASE32.finditer(text):
        run = found[0].rstrip("=")
        try:
            raw = base64.b32decode(run + "=" * (-len(run) % 8))
        except (binascii.Error, ValueError):
            continue
        decoded = _readable(raw)
        if decoded is not None:
            yield decoded, *found.span()


def _hex(text: str) -> Iterator[Part]:
    for found in _HEX.finditer(text):
        digits = re.sub(r"0x|[ :,\n-]", "", found[0])
        if digits.isdecimal() and len(digits) < 24:
            continue  # a number
        decoded = _readable(bytes.fromhex(digits))
        if decoded is not None:
            yield decoded, *found.span()


def _binary(text: str) -> Iterator[Part]:
    for found in _BINARY.finditer(text):
        digits = re.sub(r"[^01]", "", found[0])
        decoded = _readable(int(digits, 2).to_bytes(len(digits) // 8, "big"))
        if decoded is not None:
            yield decoded, *found.span()


def _decimal(text: str) -> Iterator[Part]:
    for found in _DECIMAL.finditer(text):
        codes = [int(code) for code in re.findall(r"\d+", found[0])]
        if all(code == 10 or 32 <= code < 127 for code in codes):
            decoded = _readable(bytes(codes))
            if decoded is not None:
                yield decoded, *found.span()


def _morse(text: str) -> Iterator[Part]:
    for found in _MORSE.finditer(text):
        words = re.split(r" ?[/|] ?|  +", found[0])
        read = " ".join(
            "".join(_MORSE_LETTERS.get(letter, "") for letter in word.split()) for word in words
        )
        if len(set(read)) > 3:
            yield read, *found.span()


def _percent(text: str) -> Iterator[Part]:
    done = 0
    for found in _PERCENT.finditer(text):
        start, end = found.span()
        before = _QUERY.search(text[max(done, start - _QUERY_BEFORE) : start])
        assert before is not None
        start -= len(before[0])
        decoded = _readable(urllib.parse.unquote_to_bytes(text[start:end].replace("+", " ")))
        if decoded is not None:
            yield decoded, start, end
        done = end


def _references(text: str) -> Iterator[Part]:
    for found in _REFERENCE.finditer(text):
        decoded = _reference(found[0])
        if decoded != found[0]:
            yield decoded, *found.span()


@lru_cache(maxsize=1024)
def _reference(reference: str) -> str:
    return html.unescape(reference)


def _escapes(text: str) -> Iterator[Part]:
    for found in _ESCAPE.finditer(text):
        digits = found[1] or found[2]
        point = int(digits, 16) if digits else int(found[3], 8)
        if not 0xD800 <= point <= 0xDFFF:
            yield chr(point), *found.span()


# What is encoded once more has few letters.
_ENCODED = re.compile(r"(?:[0-9A-Za-z+/=_%.~-]|[ ,;&#x\\\n]){12,}")
_LAYOUT = str.maketrans("", "", "\n\r\t")


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
    if not text.translate(_LAYOUT).isprintable():
        return None
    sample = text[:_JUDGED]
    letters = sum(map(str.isalpha, sample)) + sum(map(str.isspace, sample))
    if letters * 10 >= len(sample) * 6 or _ENCODED.fullmatch(sample):
        return text
    return None


def _rotated(text: str) -> Iterator[Part]:
    for start, end in _runs(text, ROTATED_WORDS, _ROTATED_ONLY):
        yield codecs.encode(text[start:end], "rot13"), start, end


def _reversed(text: str) -> Iterator[Part]:
    for start, end in _runs(text, REVERSED_WORDS, _REVERSED_ONLY):
        yield text[start:end][::-1], start, end


def _reversed_words(text: str) -> Iterator[Part]:
    for start, end in _runs(text, REVERSED_WORDS, _REVERSED_ONLY):
        yield _WORD.sub(lambda word: word[0][::-1], text[start:end]), start, end


def _runs(text: str, words: frozenset[str], only: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Stretches of words of which many are in `words`, and few in the lexicon as they stand.

    A stretch begins and ends with a word of `words` and has no more than three others in a row. It
    is three words long at least; a third of them are in `words`, two at least in `only`, and fewer
    than a quarter are words as they stand and nothing else.
    """
    run: list[tuple[int, int, str]] = []
    others = 0
    for match in _WORD.finditer(text):
        word = match[0].lower()
        # A single letter reads the same in too many ways.
        if len(word) == 1:
            continue
        if word in words:
            others = 0
        else:
            others += 1
            if not run:
                continue
            if others > 3:
                yield from _worth(run[:-3], words, only)
                run = []
                continue
        run.append((*match.span(), word))
    yield from _worth(run[: len(run) - others] if run else run, words, only)


def _worth(
    run: list[tuple[int, int, str]], words: frozenset[str], only: frozenset[str]
) -> Iterator[tuple[int, int]]:
    telling = sum(word in only for _, _, word in run)
    as_read = sum(word in words for _, _, word in run)
    as_is = sum(word in WORDS and word not in words for _, _, word in run)
    if telling > 1 and len(run) > 2 and 3 * as_read >= len(run) and 4 * as_is < len(run):
        yield run[0][0], run[-1][1]
