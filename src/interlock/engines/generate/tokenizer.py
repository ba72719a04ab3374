"""Text to token ids and back, with the package `tokenizers`."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

from interlock.kernel.errors import BundleFormatError, MissingExtraError

_REPLACEMENT = "\ufffd"


class Tokenizer:
    """A `tokenizer.json`. Safe across threads.

    Text is text: where it holds the name of a special token, such as "<|im_end|>", that is read as
    its characters, so that no document can end a turn. `encode_markup` is for text whose special
    tokens are meant. Every added token counts as special that is not white space alone: some files
    do not mark the ones that divide turns.
    """

    def __init__(self, data: bytes) -> None:
        """Raises BundleFormatError for a malformed file, MissingExtraError."""
        try:
            import tokenizers
        except ImportError:
            raise MissingExtraError("text", "text generation") from None

        try:
            text = data.decode("utf-8")
            self._markup: Any = tokenizers.Tokenizer.from_str(text)
            self._plain: Any = tokenizers.Tokenizer.from_str(_all_special(text))
        except Exception as error:  # noqa: BLE001 - the package raises bare Exception
            raise BundleFormatError(
                f"tokenizer.json is malformed ({type(error).__name__})"
            ) from None
        self._plain.encode_special_tokens = True
        for tokenizer in (self._markup, self._plain):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        added = self._markup.get_added_tokens_decoder()
        self.specials: dict[str, int] = {
            token.content: number for number, token in added.items() if token.content.strip()
        }
        self.unwritten = frozenset(number for number, token in added.items() if token.special)
        """Tokens that `decode` leaves out."""

    def encode(self, text: str, *, begins: bool = True) -> list[int]:
        """The ids of `text`; nothing is added, and no special token comes out of it.

        begins  whether a text begins here, before which some tokenizers put a space
        """
        return self._ids(self._plain, text, begins)

    def encode_markup(self, text: str, *, begins: bool = True) -> list[int]:
        """The ids of `text` in which the names of special tokens stand for them."""
        return self._ids(self._markup, text, begins)

    def _ids(self, tokenizer: Any, text: str, begins: bool) -> list[int]:
        def ids(text: str) -> list[int]:
            return list(tokenizer.encode(unicode_text(text), add_special_tokens=False).ids)

        if not begins and text and self._spaced:
            # Behind a line's end, which is a token of its own there and is taken off again.
            line, whole = ids("\n"), ids(f"\n{text}")
            if whole[: len(line)] == line:
                return whole[len(line) :]
        return ids(text)

    @functools.cached_property
    def _spaced(self) -> bool:
        """Whether a space is put before a text."""
        first = self._plain.encode("\n", add_special_tokens=False).tokens[:1]
        return bool(first) and first[0].startswith("▁")

    def count(self, text: str) -> int:
        """How many tokens `encode` makes of `text`."""
        return len(self._plain.encode(unicode_text(text), add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int], *, specials: bool = False) -> str:
        """The text of the ids, special tokens left out unless asked for."""
        return str(self._markup.decode(list(tokens), skip_special_tokens=not specials))

    def name(self, token: int) -> str:
        """A token as it stands within a text; a special one by its name.

        Alone it would be the start of a text, which loses its space in some tokenizers, so that
        two tokens had one name.
        """
        one, two = (self.decode([token] * count, specials=True) for count in (1, 2))
        return two[len(one) :] if two.startswith(one) else one

    @functools.cached_property
    def size(self) -> int:
        """How many ids there are."""
        return int(self._markup.get_vocab_size())

    @functools.cached_property
    def longest(self) -> int:
        """Characters of a text that one token stands for at most."""
        return max(map(len, self._markup.get_vocab()), default=1)

    def check(self, tokens: Sequence[int], vocabulary: int) -> int | None:
        """The first id that a model with so many logits has no embedding for, or None."""
        return next((token for token in tokens if not 0 <= token < vocabulary), None)


def _all_special(tokenizer: str) -> str:
    """The tokenizer.json with every added token marked as special, those of white space aside."""
    document = json.loads(tokenizer)
    for token in document.get("added_tokens") or []:
        token["special"] = bool(token["content"].strip())
    return json.dumps(document)


def unicode_text(text: str) -> str:
    """`text` without lone surrogates, which have no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


class TextStream:
    """Tokens in, whole characters out; the pieces together are the text of all tokens.

    What may be the start of a stop text is held back; when one is complete, the text ends before
    it and `stopped` is true.

    after  the token that the text goes on from, None where it begins: some decoders take off the
           space at a text's start
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), after: int | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        # Decoders may treat the start of a text in a way of their own, so the tokens of the piece
        # before are decoded along.
        self._before: list[int] = []
        self._before_text = ""
        if after is not None and after not in tokenizer.unwritten:
            text = tokenizer.decode([after])
            # Of a part of a character nobody knows what it comes to.
            if not text.endswith(_REPLACEMENT):
                self._before, self._before_text = [after], text
        self._waiting: list[int] = []
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """What the token completes; empty while a character or a stop text may be unfinished."""
        if token in self._tokenizer.unwritten:
            # Alone before others it would make them the start of a text, which loses its space.
            return ""
        self._waiting.append(token)
        text = self._decoded()
        if text.endswith(_REPLACEMENT):
            return ""
        self._before, self._waiting = self._waiting, []
        self._before_text = self._tokenizer.decode(self._before)
        return self._released(text)

    def end(self) -> str:
        """What is left when no token follows."""
        text = self._decoded() if self._waiting else ""
        self._waiting = []
        piece = self._released(text)
        if not self.stopped:
            piece, self._held = piece + self._held, ""
        return piece

    def _decoded(self) -> str:
        whole = self._tokenizer.decode([*self._before, *self._waiting])
        return whole[len(self._before_text) :]

    def _released(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        if not self._stop:
            self._held = ""
            return text
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` starts with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
