"""Encodings inside a text: base64, hex, binary, Morse, percent, references, escapes.

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

from interlock.detect.views import Part, View

# Wrapped base64, as in mails, is one run: a full line, and lines that go on.
_BASE64 = re.compile(
    r"[A-Za-z0-9+/_-]{40,}(?:\r?\n[A-Za-z0-9+/_-]{4,})*={0,2}|[A-Za-z0-9+/_-]{12,}={0,2}"
)
# What base64 in groups consists of, and what of that is as well a word or a number.
_TOKEN = re.compile(r"[^\s>|]+")
_GROUP = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_PLAIN = re.compile(r"[A-Z]?[a-z]*|[A-Z]+|\d+|[-+/_]+")
_HUMP = re.compile(r"[a-z][A-Z]")
_BASE32 = re.compile(r"(?<![A-Z0-9])[A-Z2-7]{16,}={0,6}")
_HEX = re.compile(
    r"(?<![0-9A-Za-z])(?:0x)?[0-9A-Fa-f]{2}(?:[ :,;\n-]{0,2}(?:0x)?[0-9A-Fa-f]{2}){7,}"
    r"(?![0-9A-Za-z])"
)
_PAIR = re.compile(r"(?:0x)?([0-9A-Fa-f]{2})")
_BINARY = re.compile(r"[01]{8}(?:[ ,\n]?[01]{8}){5,}")
_DECIMAL = re.compile(r"(?<!\d)\d{2,3}(?:[ ,;\n]{1,2}\d{2,3}){7,}(?!\d)")
_MORSE = re.compile(r"[.\-]{1,5}(?:[ /|]{1,3}[.\-]{1,5}){7,}")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}(?:%[0-9A-Fa-f]{2}|[A-Za-z0-9+_.~-])*")
# No letter needs it, so even one that is written so is a disguise.
_PERCENT_LETTER = re.compile(r"%(?:[46][1-9A-Fa-f]|[57][0-9Aa])")
_QUERY = re.compile(r"[A-Za-z0-9+_.~-]*\Z")
# Browsers take a number without the semicolon as well.
_REFERENCE = re.compile(r"&(?:#\d{1,10};?|#[xX][0-9A-Fa-f]{1,8};?|[A-Za-z][A-Za-z0-9]{1,30};)")
_ESCAPE = re.compile(
    r"(?:\\x([0-9A-Fa-f]{2})|(?:\\u|%u)([0-9A-Fa-f]{4})|\\u\{([0-9A-Fa-f]{1,6})\}"
    r"|\\U([0-9A-Fa-f]{8}))|\\([0-7]{3})"
)
_QUOTED = re.compile(r"(?:=[0-9A-F]{2}|=\r?\n)+")
# Spaces, letters or line ends in that encoding; what a query holds looks otherwise.
_IS_QUOTED = re.compile(r"[A-Za-z,.]=20[A-Za-z]|[A-Za-z]=\r?\n[A-Za-z]|(?:=[4-7][0-9A-F]){4}")
_RUN = re.compile(r"[A-Za-z0-9+/_-]{12}")
_DIGIT = re.compile("[0-9]")

Decoder = Callable[[str], Iterator[Part]]
"""Finds what it can decode in a text, in order."""

# The least run that is also tried backwards and through rot13, and the least of groups.
_LEAST_TURNED = 20
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
        read = view.changed(decoder(text), step)
        if read is not None:
            found.append(read)
    return found


def _decoders(text: str) -> list[tuple[str, Decoder]]:
    """Those that `text` may need, by what it must at least hold: most texts need none."""
    needed: list[tuple[str, Decoder]] = []
    if _RUN.search(text):
        needed += [("base64", _base64), ("base32", _base32)]
    # Ordinary texts have hardly a capital behind a small letter.
    if len(_HUMP.findall(text)) > 1:
        needed.append(("base64", _grouped))
    if _DIGIT.search(text):
        needed += [("hex", _hex), ("binary", _binary), ("character codes", _decimal)]
    if "-." in text or ".-" in text:
        needed.append(("morse", _morse))
    if "%" in text:
        needed.append(("percent", _percent))
    if "&" in text:
        needed.append(("character references", _references))
    if "\\" in text or "%u" in text:
        needed.append(("escapes", _escapes))
    if "=" in text:
        needed.append(("quoted-printable", _quoted))
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
        if decoded is None and len(run) >= _LEAST_TURNED:
            decoded = _from_base64(codecs.encode(run, "rot13")) or _from_base64(run[::-1])
        if decoded is None and "/" in run:
            # The end of a path is not the middle of an encoding.
            start += run.rindex("/") + 1
            run = run[run.rindex("/") + 1 :]
            decoded = _from_base64(run) if len(run) >= 12 else None
        if decoded is not None:
            yield decoded, start, end


def _grouped(text: str) -> Iterator[Part]:
    """Base64 in groups or in short lines, with spaces, line ends or quotation marks between."""
    run: list[re.Match[str]] = []
    for token in _TOKEN.finditer(text):
        if _GROUP.fullmatch(token[0]):
            run.append(token)
        else:
            yield from _of_groups(run)
            run = []
    yield from _of_groups(run)


def _of_groups(run: list[re.Match[str]]) -> Iterator[Part]:
    coded = [at for at, token in enumerate(run) if not _PLAIN.fullmatch(token[0])]
    if len(coded) < 2:
        return
    inner = run[coded[0] : coded[-1] + 1]
    joined = "".join(token[0] for token in inner)
    decoded = _from_base64(joined) if len(joined) >= _LEAST_TURNED else None
    if decoded is not None:
        yield decoded, inner[0].start(), inner[-1].end()


def _from_base64(run: str) -> str | None:
    run = "".join(run.split()).rstrip("=").replace("-", "+").replace("_", "/")
    if len(run) % 4 == 1:
        run = run[:-1]
    try:
        return readable(base64.b64decode(run + "=" * (-len(run) % 4), validate=True))
    except (binascii.Error, ValueError):
        return None


def _base32(text: str) -> Iterator[Part]:
    for found in _BASE32.finditer(text):
        run = found[0].rstrip("=")
        try:
            raw = base64.b32decode(run + "=" * (-len(run) % 8))
        except (binascii.Error, ValueError):
            continue
        decoded = readable(raw)
        if decoded is not None:
            yield decoded, *found.span()


def _hex(text: str) -> Iterator[Part]:
    for found in _HEX.finditer(text):
        pairs = list(_PAIR.finditer(text, *found.span()))
        # A word of two letters may stand before or after, such as "be".
        for first, last in ((0, 0), (0, 1), (1, 0), (1, 1)):
            kept = pairs[first : len(pairs) - last]
            digits = "".join(pair[1] for pair in kept)
            if len(kept) < 8 or (digits.isdecimal() and len(digits) < 24):
                continue  # a number
            decoded = readable(bytes.fromhex(digits))
            if decoded is not None:
                yield decoded, kept[0].start(), kept[-1].end()
                break


def _binary(text: str) -> Iterator[Part]:
    for found in _BINARY.finditer(text):
        digits = re.sub(r"[^01]", "", found[0])
        decoded = readable(int(digits, 2).to_bytes(len(digits) // 8, "big"))
        if decoded is not None:
            yield decoded, *found.span()


def _decimal(text: str) -> Iterator[Part]:
    for found in _DECIMAL.finditer(text):
        codes = [int(code) for code in re.findall(r"\d+", found[0])]
        if all(code == 10 or 32 <= code < 127 for code in codes):
            decoded = readable(bytes(codes))
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
        least = 1 if _PERCENT_LETTER.search(found[0]) else 6
        raw = urllib.parse.unquote_to_bytes(text[start:end].replace("+", " "))
        decoded = readable(raw, least)
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
        digits = found[1] or found[2] or found[3] or found[4]
        point = int(digits, 16) if digits else int(found[5], 8)
        if point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF:
            yield chr(point), *found.span()


def _quoted(text: str) -> Iterator[Part]:
    if not _IS_QUOTED.search(text):
        return
    for found in _QUOTED.finditer(text):
        # A line that ends in the sign goes on in the next.
        digits = re.sub(r"=|\r?\n", "", found[0])
        decoded = bytes.fromhex(digits).decode("utf-8", "replace")
        if decoded.isprintable():
            yield decoded, *found.span()


# What is encoded once more has few letters.
_ENCODED = re.compile(r"(?:[0-9A-Za-z+/=_%.~-]|[ ,;&#x\\\n]){12,}")
# Characters that text holds though they are not printed: line ends, and what is not seen.
_UNPRINTED = "\n\r\t\xad" + "".join(
    map(chr, (*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF,
              *range(0xE0020, 0xE0080)))
)  # fmt: skip
_LAYOUT = str.maketrans("", "", _UNPRINTED)
# So many bytes that are printable characters of UTF-8 are text, whatever it consists of: chance
# gives such bytes once in ten thousand million times.
_SURE = 24


def readable(raw: bytes, least: int = 6) -> str | None:
    """The bytes as text, or None where they are not text: binary data decodes by chance too.

    least  bytes that there must be
    """
    if len(raw) < least:
        return None
    # Every second byte of Latin text in UTF-16 is zero.
    wide = raw[1::2].count(0) * 3 >= len(raw)
    try:
        text = raw.decode("utf-16-le" if wide else "utf-8")
    except UnicodeDecodeError:
        return None
    if not text.translate(_LAYOUT).isprintable():
        return None
    if len(raw) >= _SURE and not wide:
        return text
    sample = text[:_JUDGED]
    letters = sum(map(str.isalpha, sample)) + sum(map(str.isspace, sample))
    return text if letters * 10 >= len(sample) * 6 or _ENCODED.fullmatch(sample) else None
