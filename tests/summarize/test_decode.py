"""Bytes become lines, whatever their encoding, or are told to be binary."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.summarize.decode import decode, split_lines

TEXT = "def größe():\n    return 'µ'\n"
LINES = ("def größe():", "    return 'µ'")


@pytest.mark.parametrize(
    ("data", "encoding", "assumed"),
    [
        (TEXT.encode(), "utf-8", False),
        (codecs.BOM_UTF8 + TEXT.encode(), "utf-8", False),
        (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), "utf-16-le", False),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "utf-16-be", False),
        (codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"), "utf-32-le", False),
        (TEXT.encode("utf-16-le"), "utf-16-le", True),
        (TEXT.encode("utf-16-be"), "utf-16-be", True),
        (TEXT.encode("latin-1"), "latin-1", True),
    ],
)
def test_every_encoding_gives_the_same_lines(data: bytes, encoding: str, assumed: bool) -> None:
    text = decode(data)
    assert text is not None
    assert text.lines == LINES
    assert text.encoding == encoding
    assert bool(text.note) == assumed


@pytest.mark.parametrize(
    "data",
    [b"\x7fELF\x02\x01\x01\0\0\0", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", bytes(range(256)), b"\0" * 99],
)
def test_binary_data_is_no_text(data: bytes) -> None:
    assert decode(data) is None


def test_a_mark_before_bad_bytes_is_text_with_a_note() -> None:
    text = decode(codecs.BOM_UTF8 + b"a\xffb\n")
    assert text is not None
    assert text.lines == ("a\ufffdb",)
    assert "replaced" in text.note


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\nb\n", ("a", "b")),
        ("a\nb", ("a", "b")),
        ("a\r\nb\r\n", ("a", "b")),
        ("a\rb\r", ("a", "b")),
        ("a\n\n", ("a", "")),
        ("a\x0cb\u2028c\n", ("a\x0cb\u2028c",)),
        ("", ()),
    ],
)
def test_lines_end_as_editors_end_them(text: str, lines: tuple[str, ...]) -> None:
    assert split_lines(text) == lines


@given(st.binary(max_size=200))
def test_any_bytes_are_either_text_or_binary(data: bytes) -> None:
    text = decode(data)
    assert text is None or all("\n" not in line for line in text.lines)


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"))))
def test_utf8_text_without_controls_is_kept_exactly(text: str) -> None:
    decoded = decode(text.encode())
    if not text.encode().startswith((codecs.BOM_UTF8,)):
        assert decoded is not None
        assert "\n".join(decoded.lines) == text
