"""Bytes of a source file as lines of text, whatever their encoding; or the reason why they are
no text.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    # UTF-32 first: its little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LOOKED_AT = 8192


@dataclass(frozen=True, slots=True)
class Text:
    """The lines of a file, without their ends. `note` says what had to be assumed."""

    lines: tuple[str, ...]
    encoding: str
    note: str = ""


def decode(data: bytes) -> Text | None:
    """The text in `data`, or None where it is binary.

    A byte order mark decides; then UTF-8 where it is valid; then UTF-16 where every other byte is
    zero, as it is in code; then Latin-1, which takes any bytes, with a note that says so. Data with
    other zero bytes, or with many control characters, is binary.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _marked(data[len(mark) :], encoding)
    head = data[:_LOOKED_AT]
    if b"\0" in head:
        return _unmarked_utf16(data, head)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        if _control_share(head) > 0.1:
            return None
        return Text(split_lines(data.decode("latin-1")), "latin-1", "not UTF-8: read as Latin-1")
    return None if _control_share(head) > 0.3 else Text(split_lines(text), "utf-8")


def split_lines(text: str) -> tuple[str, ...]:
    """Lines as editors and `wc -l` count them: ended by LF, CR LF, or CR where there is no LF."""
    if "\n" not in text:
        text = text.replace("\r", "\n")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return tuple(line.removesuffix("\r") for line in lines)


def _marked(data: bytes, encoding: str) -> Text | None:
    try:
        return Text(split_lines(data.decode(encoding)), encoding)
    except UnicodeDecodeError:
        text = data.decode(encoding, "replace")
        return Text(split_lines(text), encoding, f"not valid {encoding}: bad characters replaced")


def _unmarked_utf16(data: bytes, head: bytes) -> Text | None:
    if len(data) % 2:
        return None
    for encoding, zeros, others in (
        ("utf-16-le", head[1::2], head[::2]),
        ("utf-16-be", head[::2], head[1::2]),
    ):
        if zeros.count(0) >= 0.7 * len(zeros) and others.count(0) <= 0.05 * len(others):
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError:
                return None
            return Text(split_lines(text), encoding, f"no byte order mark: read as {encoding}")
    return None


def _control_share(head: bytes) -> float:
    controls = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head)
    return controls / max(1, len(head))
