"""Folding: what looks the same, or is not seen at all, is read the same.

Case, width, ligatures, accents, mathematical letters, invisible and direction-changing
characters, letters of other scripts that look Latin, digits that stand for letters, letters set
apart by spaces or dots.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import numpy as np

from interlock.detect.lexicon import WORDS, segment
from interlock.detect.views import View

# Letters of other scripts by the Latin letter that they are drawn like, after case folding and
# the removal of accents. Chosen by eye from the Unicode charts, for lower case.
_LOOK_ALIKE = str.maketrans(
    {
        "а": "a", "в": "b", "с": "c", "ԁ": "d", "е": "e", "һ": "h", "н": "h", "і": "i", "ј": "j",
        "к": "k", "ӏ": "l", "м": "m", "п": "n", "о": "o", "р": "p", "ԛ": "q", "ѕ": "s", "т": "t",
        "г": "r", "ц": "u", "ѵ": "v", "ԝ": "w", "х": "x", "у": "y", "ү": "y", "є": "e", "ғ": "f",
        "α": "a", "β": "b", "ϲ": "c", "δ": "d", "ε": "e", "γ": "y", "η": "n", "ι": "i", "κ": "k",
        "μ": "u", "ν": "v", "ο": "o", "ρ": "p", "σ": "o", "ς": "s", "τ": "t", "υ": "u", "χ": "x",
        "ω": "w", "ϳ": "j", "օ": "o", "ս": "u", "ո": "n", "հ": "h", "ց": "g", "ք": "p", "ա": "w",
        "ꭺ": "a", "ꮯ": "c", "ꭼ": "e", "ꮋ": "h", "ꭻ": "j", "ꮶ": "k", "ꮮ": "l", "ꮇ": "m", "ꮲ": "p",
        "ꮪ": "s", "ꭲ": "t", "ꮩ": "v", "ꮃ": "w", "ꮓ": "z", "ı": "i", "ɡ": "g", "ɑ": "a", "ɩ": "i",
        "ʏ": "y", "ɪ": "i", "ɴ": "n", "ʀ": "r", "ʟ": "l", "ʙ": "b", "ɢ": "g", "ʜ": "h", "ᴀ": "a",
        "ᴄ": "c", "ᴅ": "d", "ᴇ": "e", "ᴊ": "j", "ᴋ": "k", "ᴍ": "m", "ᴏ": "o", "ᴘ": "p", "ᴛ": "t",
        "ᴜ": "u", "ᴠ": "v", "ᴡ": "w", "ᴢ": "z", "ꜰ": "f", "ꜱ": "s", "ø": "o", "ł": "l", "đ": "d",
    }
)  # fmt: skip
_FOREIGN = re.compile("[" + "".join(map(chr, _LOOK_ALIKE)) + "]")
_WORD = re.compile(r"[^\W\d_]+")

_LEET = str.maketrans(
    {"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b", "9": "g",
     "@": "a", "$": "s", "!": "i", "|": "l", "€": "e", "+": "t"}
)  # fmt: skip
_LEET_SIGNS = "01345789@$!|€+"
_LEET_WORD = re.compile(rf"[a-z{re.escape(_LEET_SIGNS)}]{{3,40}}")
_HAS_SIGN = re.compile(rf"[{re.escape(_LEET_SIGNS)}]")

# One letter, a separator, one letter, … at least four times. A letter is no separator, so there
# is one way to read it and matching is linear.
_APART = re.compile(
    r"(?<![^\W_])[^\W\d_](?:[^\w\n]{1,3}|_)(?:[^\W\d_](?:[^\w\n]{1,3}|_)){2,}[^\W\d_](?![^\W_])"
)
_RUN_TOGETHER = re.compile(r"[a-z]{14,120}")


def fold(view: View) -> View:
    """The reading that rules look at: folded case, width and accents, nothing invisible.

    White space becomes a space, line ends stay. Lone surrogates become U+FFFD.
    """
    text = view.text
    if text.isascii():
        return view.same_length(_plain_space(text.lower()), "fold")
    table = {ord(character): _fold_character(character) for character in set(text)}
    if all(len(found) == 1 for found in table.values()):
        return view.same_length(text.translate(table), "fold")
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kinds, which = np.unique(points, return_inverse=True)
    lengths = np.array([len(table[int(kind)]) for kind in kinds], dtype=np.int64)[which]
    return view.repeated(text.translate(table), lengths, "fold")


_SPACES = str.maketrans(dict.fromkeys("\t\v\f\r\x1c\x1d\x1e\x1f", " "))


def _plain_space(text: str) -> str:
    return text.translate(_SPACES)


@lru_cache(maxsize=1 << 14)
def _fold_character(character: str) -> str:
    """What one character is read as: mostly one character, none for an invisible one."""
    point = ord(character)
    if 0xD800 <= point <= 0xDFFF:
        return "\ufffd"
    if 0xE0020 <= point <= 0xE007E:
        # Tags: an invisible copy of ASCII, which models read all the same.
        return chr(point - 0xE0000).lower()
    if character == "\n":
        return character
    if character.isspace() or unicodedata.category(character) == "Cc":
        return " "
    kept = [
        part
        for part in unicodedata.normalize("NFKD", character.casefold())
        if unicodedata.category(part) not in ("Mn", "Me", "Cf")
    ]
    return "".join(kept).casefold()


def latin(view: View) -> View | None:
    """Letters that look Latin, read as Latin, in words that also hold a Latin letter.

    A word whose letters all look Latin is read so too where the text has Latin words. None where
    nothing changes. `view` is folded.
    """
    text = view.text
    if text.isascii() or not _FOREIGN.search(text):
        return None
    changed = False
    latin_around = re.search("[a-z]", text) is not None
    parts: list[tuple[str, int, int]] = []
    done = 0
    for found in _WORD.finditer(text):
        word = found[0]
        if word.isascii() or not _FOREIGN.search(word):
            continue
        read = word.translate(_LOOK_ALIKE)
        mixed = re.search("[a-z]", word) is not None
        if read.isascii() and (mixed or (latin_around and read in WORDS)):
            parts += [(text[done : found.start()], done, found.start()), (read, *found.span())]
            done = found.end()
            changed = True
    if not changed:
        return None
    parts.append((text[done:], done, len(text)))
    return view.pieces(parts, "homoglyphs")


def letters_for_digits(view: View) -> View | None:
    """Words in which digits and signs stand for letters, read as the word; None where none do.

    Only readings that are words of the lexicon count, so that versions and prices stay.
    """
    text = view.text
    if not _HAS_SIGN.search(text):
        return None
    parts: list[tuple[str, int, int]] = []
    done = 0
    for found in _LEET_WORD.finditer(text):
        word = found[0]
        if not _HAS_SIGN.search(word):
            continue
        read = _leet(word)
        if read is None:
            continue
        parts += [(text[done : found.start()], done, found.start()), (read, *found.span())]
        done = found.end()
    if not parts:
        return None
    parts.append((text[done:], done, len(text)))
    return view.pieces(parts, "leetspeak")


def _leet(word: str) -> str | None:
    body = word.rstrip("!|+")
    tail = word[len(body) :]
    for one in ("i", "l"):
        for text, rest in ((word, ""), (body, tail)):
            read = text.replace("1", one).translate(_LEET)
            if read != text and read in WORDS:
                return read + rest
    return None


def joined(view: View) -> View | None:
    """Letters set apart read as words, and words run together read apart; None without any.

    "i g n o r e   a l l" and "i.g.n.o.r.e.a.l.l" are read as "ignore all".
    """
    text = view.text
    parts: list[tuple[str, int, int]] = []
    done = 0
    for found in _APART.finditer(text):
        run = found[0]
        # Wider gaps than the usual one lie between words.
        gaps = re.findall(r"[^\w\n]+|_+", run)
        usual = min(len(gap) for gap in gaps)
        words = re.split(rf"[^\w\n]{{{usual + 1},}}", run)
        letters = [re.sub(r"[\W_]", "", word) for word in words]
        read = " ".join(segment(word) or word for word in letters)
        parts += [(text[done : found.start()], done, found.start()), (read, *found.span())]
        done = found.end()
    if not parts:
        for found in _RUN_TOGETHER.finditer(text):
            apart = segment(found[0])
            if apart is None or apart == found[0]:
                continue
            parts += [(text[done : found.start()], done, found.start()), (apart, *found.span())]
            done = found.end()
    if not parts:
        return None
    parts.append((text[done:], done, len(text)))
    return view.pieces(parts, "spacing")
