"""Folding: what looks the same, or is not seen at all, is read the same.

Case, width, ligatures, accents, mathematical letters, invisible and direction-changing
characters, letters of other scripts that look Latin, digits that stand for letters, letters set
apart by spaces or dots.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache

from interlock.detect.lexicon import WORDS, likelihood, segment
from interlock.detect.views import Part, View

# Letters of other scripts by the Latin letter that they are drawn like, after case folding and
# the removal of accents. Chosen by eye from the Unicode charts, for lower case.
_DRAWN_LIKE = {
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
}  # fmt: skip
_DRAWN_LIKE |= dict(
    zip(
        "ħŧƀɓƈȼɗɖɛɇƒɠǥɦɨɉƙƚɫɭɱŋƞɲɵƥɋɍɽɾʂƭʈʉʋƴɏƶȥʐьияшщѡҽԍⲁⲃⲥⲉⲓⲕⲙⲛⲟⲣⲧⲩⲭ",
        "htbbccddeefgghijklllmnnnopqrrrsttuvyyzzzburwwwegabceikmnoptyx",
        strict=True,
    )
)
_DRAWN_LIKE |= dict(zip("ꓮꓐꓚꓓꓰꓝꓖꓧꓲꓙꓗꓡꓟꓠꓳꓑꓣꓢꓔꓴꓦꓪꓫꓬꓜ", "abcdefghijklmnoprstuvwxyz", strict=True))
# Folded as the text is: the small letters of some scripts fold to capitals.
_LOOK_ALIKE = str.maketrans(
    {character.casefold(): letter for character, letter in _DRAWN_LIKE.items()}
)
_FOREIGN = re.compile("[" + "".join(map(chr, _LOOK_ALIKE)) + "]")
_WORD = re.compile(r"[^\W\d_]+")

_SIGNS = {"0": "o", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g",
          "@": "a", "$": "s", "!": "i", "|": "l", "\u20ac": "e", "+": "t"}  # fmt: skip
# A one stands for two letters.
_LEET = tuple(str.maketrans({**_SIGNS, "1": one}) for one in "il")
_LEET_SIGNS = "013456789@$!|\u20ac+"
_LEET_WORD = re.compile(
    rf"(?<![a-z])(?=[a-z]{{0,30}}[{re.escape(_LEET_SIGNS)}])[a-z{re.escape(_LEET_SIGNS)}]{{2,40}}"
)
_DIGITS = re.compile(r"(?<![a-z\d$@!|+])\d{1,3}(?![a-z\d$@!|+])")
_HAS_SIGN = re.compile(f"[{re.escape(_LEET_SIGNS)}]")
_LETTER = re.compile("[a-z]")
_ORDINAL = re.compile(r"\d*(?:1st|2nd|3rd|\dth)")
# From so many words of the lexicon on, or twice as many that are like words, the other words with
# signs in them are read too.
_LEET_WORDS = 2
# Digits amid letters, as names and versions seldom have them, and how likely each pair of letters
# of what is read must be for a word.
_AMID = re.compile("[a-z][013457$\u20ac]+[a-z]")
_LIKELY = -2.9

# Single characters with white space between, at least four of them.
_SPACED = re.compile(r"(?<!\S)\S(?:\s{1,4}\S(?!\S)){3,}")
_WHITE = re.compile(r"\s+")
# Four letters with the same sign between any two.
_DOTTED = re.compile(r"[^\W_]([.\-_*~|^/\\,+#·•])[^\W_]\1[^\W_]\1[^\W_]")
# Letters with a sign amid them: "ig.no-re".
_BREAK = re.compile(r"[.\-_*~|^/\\+#](?<=[a-z].)[.\-_*~|^/\\+#]?[a-z]")
_BROKEN = re.compile(r"(?<![a-z])[a-z]{1,14}(?:[.\-_*~|^/\\+#]{1,2}[a-z]{1,14}){1,14}(?![a-z])")
_SIGN = re.compile(r"[^a-z]+")
# Words run together are longer than most words.
_LONG = 14
_RUN_TOGETHER = re.compile(rf"(?<![a-z])[a-z]{{{_LONG},120}}(?![a-z])")


_WIDE = re.compile(r"[ \n]{2,}")

# Control characters of ASCII read as a space; line ends stay.
_ASCII_SPACES = str.maketrans(
    dict.fromkeys([chr(point) for point in range(32) if point != 10] + ["\x7f"], " ")
)


def fold(view: View) -> View:
    """The reading that rules look at: folded case, width and accents, nothing invisible.

    White space becomes a space, line ends stay. Lone surrogates become U+FFFD.
    """
    if view.text.isascii():
        return view.same_length(view.text.lower().translate(_ASCII_SPACES), "fold")
    return _translated(view, "fold", _fold_character)


def squeezed(view: View) -> View:
    """`view` with one space for several, and one empty line at most; the same where that is so."""
    text = view.text
    parts: list[Part] = []
    done = 0
    for found in _WIDE.finditer(text):
        narrow = "\n" * min(2, found[0].count("\n")) or " "
        if narrow != found[0]:
            start, end = found.span()
            parts += [(text[done:start], done, start), (narrow, start, end)]
            done = end
    if not parts:
        return view
    parts.append((text[done:], done, len(text)))
    return replace(view.pieces(parts, "fold"), via=view.via)


@lru_cache(maxsize=1 << 13)
def bare_word(word: str) -> str:
    """A word as folding and look-alikes leave it."""
    return "".join(map(_fold_character, word)).translate(_LOOK_ALIKE)


def visible(view: View) -> View:
    """The reading that decoders look at: nothing invisible, ASCII where it is drawn otherwise."""
    if view.text.isascii():
        return view
    read = _translated(view, "visible", _visible_character)
    return view if read.text == view.text else read


def _translated(view: View, step: str, of: Callable[[str], str]) -> View:
    text = view.text
    table = {ord(character): of(character) for character in set(text)}
    translated = text.translate(table)
    sizes = {chr(point): len(found) for point, found in table.items()}
    if set(sizes.values()) == {1}:
        return view.same_length(translated, step)
    return view.resized(translated, map(sizes.__getitem__, text), step)


# Quotation marks and dashes that ASCII has one of.
_SIGNS_LIKE = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2039\u203a\u00b4\u02bc", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u300c\u300d\u300e\u300f", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
}

# Characters that nothing is drawn for, though Unicode calls them letters, or not assigned.
_UNSEEN = frozenset(
    (0x115F, 0x1160, 0x3164, 0xFFA0, 0x2065, *range(0xFFF0, 0xFFF9), *range(0xE0080, 0xE0100),
     *range(0xE01F0, 0xE1000), *range(0xE0000, 0xE0020), 0xE007F)
)  # fmt: skip
# Letters in a frame that has no decomposition, in parentheses, and of flags: where each A is.
_ORNAMENTS = {
    first + at: chr(ord("a") + at)
    for first in (0x249C, 0x1F110, 0x1F150, 0x1F170, 0x1F1E6)
    for at in range(26)
}

# The longest text that one character is read as; longer ones are ornaments and stay as they are.
_MOST_OF_ONE = 4


@lru_cache(maxsize=1 << 14)
def _fold_character(character: str) -> str:
    """What one character is read as: mostly one character, none for an invisible one."""
    point = ord(character)
    if 0xD800 <= point <= 0xDFFF:
        return "\ufffd"
    if 0xE0020 <= point <= 0xE007E:
        # Tags: an invisible copy of ASCII, which models read all the same.
        return chr(point - 0xE0000).lower()
    if point in _UNSEEN:
        return ""
    if point in _ORNAMENTS:
        return _ORNAMENTS[point]
    if character == "\n":
        return character
    if character in "\u0085\u2028\u2029":
        return "\n"
    if character in _SIGNS_LIKE:
        return _SIGNS_LIKE[character]
    if character.isspace() or character == "\u2800" or unicodedata.category(character) == "Cc":
        return " "
    kept = [
        part
        for part in unicodedata.normalize("NFKD", character.casefold())
        if unicodedata.category(part) not in ("Mn", "Me", "Cf")
    ]
    return "".join(kept).casefold() if len(kept) <= _MOST_OF_ONE else character


@lru_cache(maxsize=1 << 14)
def _visible_character(character: str) -> str:
    folded = _fold_character(character)
    if folded in ("", " ", "\n", "\ufffd"):
        return folded
    if 0xE0020 <= ord(character) <= 0xE007E:
        return chr(ord(character) - 0xE0000)
    plain = unicodedata.normalize("NFKD", character)
    return plain if len(plain) == 1 and plain.isascii() else character


def latin(view: View) -> View | None:
    """Letters that look Latin, read as Latin, in words that also hold a Latin letter.

    A word whose letters all look Latin is read so too where the text has Latin words. None where
    nothing changes. `view` is folded.
    """
    text = view.text
    if text.isascii() or not _FOREIGN.search(text):
        return None
    latin_around = re.search("[a-z]", text) is not None
    return view.changed(_latin_words(text, latin_around), "homoglyphs", aligned=True)


def _latin_words(text: str, latin_around: bool) -> Iterator[Part]:
    for found in _WORD.finditer(text):
        word = found[0]
        if word.isascii():
            continue
        read = word.translate(_LOOK_ALIKE)
        if read.isascii() and (
            (latin_around and read in WORDS) or re.search("[a-z]", word) is not None
        ):
            yield read, *found.span()


def latin_in_disguise(text: str) -> bool:
    """Whether `text` is written in Latin letters, some of them as look-alikes. `text` is folded.

    Each word with a letter that is not Latin must hold one that is, or be of the lexicon when read
    as Latin; and such words must then be words, or like words, for four fifths of their letters. In
    a text of another script with Latin letters strewn in, they are not.
    """
    letters = like = 0
    for found in _WORD.finditer(text):
        word = found[0]
        if word.isascii():
            continue
        read = word.translate(_LOOK_ALIKE)
        known = read in WORDS
        if not known and (not read.isascii() or not _LETTER.search(word)):
            return False
        letters += len(word)
        like += len(word) * (known or likelihood(read) >= _LIKELY * (len(read) + 1))
    return 0 < 4 * letters <= 5 * like


def letters_for_digits(view: View) -> View | None:
    """Words in which digits and signs stand for letters, read as the word; None where none do.

    Only readings that are words of the lexicon count, so that versions and prices stay.
    """
    return view.changed(_leet_words(view.text), "leetspeak", aligned=True)


def _leet_words(text: str) -> list[Part]:
    sure = 0.0
    known: list[Part] = []
    others: list[Part] = []
    for found in _LEET_WORD.finditer(text):
        word = found[0]
        body = word.rstrip("!|+")
        if not _LETTER.search(body) or _ORDINAL.fullmatch(body):
            continue
        read = _leet(word, body)
        if read is not None:
            sure += 1
            known.append((read, *found.span()))
        elif _HAS_SIGN.search(body):
            read = body.translate(_LEET[0])
            sure += 0.5 * (_AMID.search(body) is not None and _likely(read))
            others.append((read + word[len(body) :], *found.span()))
    if sure < _LEET_WORDS:
        return known
    for found in _DIGITS.finditer(text):
        read = found[0].translate(_LEET[0])
        if read in WORDS:
            others.append((read, *found.span()))
    return sorted(known + others, key=lambda part: part[1])


def _likely(word: str) -> bool:
    """Whether `word` is like a word: of five letters and more, pair by pair."""
    return len(word) > 4 and word.isalpha() and likelihood(word) >= _LIKELY * (len(word) + 1)


def _leet(word: str, body: str) -> str | None:
    if len(body) < 3:
        return None
    for letters, rest in ((word, ""), (body, word[len(body) :])):
        for table in _LEET:
            read = letters.translate(table)
            if read in WORDS and read != letters:
                return read + rest
    return None


def joined(view: View) -> View | None:
    """Letters set apart read as words, and words run together read apart; None without any.

    "i g n o r e   a l l", "i.g.n.o.r.e.a.l.l" and "ig.no-re a.ll" are read as "ignore all".
    """
    text = view.text
    changes = list(_spaced(text))
    changes += _dotted(text, {found[1] for found in _DOTTED.finditer(text)})
    if _BREAK.search(text):
        changes += _broken(text)
    if max(map(len, text.split()), default=0) >= _LONG:
        changes += _together(text)
    return view.changed(_apart(changes), "spacing")


def _apart(changes: list[Part]) -> Iterator[Part]:
    """In the order of the text, without those that lie in one before."""
    done = 0
    for part in sorted(changes, key=lambda part: (part[1], -part[2])):
        if part[1] >= done:
            yield part
            done = part[2]


def _spaced(text: str) -> Iterator[Part]:
    for found in _SPACED.finditer(text):
        run = found[0]
        gaps = _WHITE.findall(run)
        # Of letters at least; a row of numbers or of signs is no word.
        if 2 * sum(map(str.isalpha, run)) <= len(gaps):
            continue
        # A wider gap than the usual one lies between words.
        usual = len(Counter(gaps).most_common(1)[0][0])
        words = re.sub(rf"(?<!\s)\s{{1,{usual}}}(?!\s)", "", run).split()
        yield " ".join(segment(word) or word for word in words), *found.span()


def _dotted(text: str, signs: set[str]) -> Iterator[Part]:
    for sign in sorted(signs):
        one = re.escape(sign)
        # Every second character is the sign, whatever the others are.
        pattern = rf"(?<![^\s\"'(\[{{<])\S(?:{one}\S)+{one}?(?![^\s\"')\]}}>,;:!?])"
        for found in re.finditer(pattern, text):
            word = found[0][::2]
            yield segment(word) or word, *found.span()


def _broken(text: str) -> Iterator[Part]:
    for found in _BROKEN.finditer(text):
        if not _BREAK.search(found[0]):
            continue
        pieces = [piece for piece in _SIGN.split(found[0]) if piece]
        word = "".join(pieces)
        whole = all(len(piece) == 1 or piece in WORDS for piece in pieces)
        if len(word) > 4 and word in WORDS and (not whole or len(pieces[-1]) == 1):
            yield word, *found.span()


def _together(text: str) -> Iterator[Part]:
    for found in _RUN_TOGETHER.finditer(text):
        apart = segment(found[0])
        if apart is not None and apart != found[0]:
            yield apart, *found.span()
