"""A conversation as the model's own template writes it, run in jinja2's sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

from interlock.engines.chat import Message
from interlock.engines.generate.tokenizer import Tokenizer
from interlock.kernel.errors import BundleFormatError, InputError

# Private-use characters around a number: no template knows them, and text that holds them is put
# back as it was.
_OPEN, _CLOSE = "\U000f5000", "\U000f5001"
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
# Letters and digits alone, which every filter of a template leaves as they are.
_WORD = "b5f1c0d7e29a4"
LARGEST = 1 << 20


class ChatTemplate:
    """A compiled template. Raises BundleFormatError where jinja2 cannot compile it."""

    def __init__(self, source: str, specials: Mapping[str, str]) -> None:
        if len(source) > LARGEST:
            raise BundleFormatError(f"the chat template has {len(source)} characters")
        self._specials = dict(specials)
        environment = _environment()
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # noqa: BLE001 - the interpreter has limits of its own
            raise BundleFormatError(f"the chat template: {type(error).__name__}") from None

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt's text up to where the assistant's answer starts.

        Raises InputError where the template refuses the conversation, such as a role that it
        does not know.
        """
        conversation: list[dict[str, Any]] = [
            {"role": message.role, "content": message.content} for message in messages
        ]
        try:
            text: str = self._template.render(
                messages=conversation, add_generation_prompt=True, **self._specials
            )
        except _RefusedError as error:
            raise InputError(
                f"the model's chat template refuses the messages: {error.args[0]}"
            ) from None
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            raise InputError(
                f"the model's chat template fails on these messages ({type(error).__name__})"
            ) from None
        return text

    def tokens(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """The prompt's tokens. Names of special tokens inside the messages stay text.

        Raises InputError as `render` does, and where the template leaves a message out.
        """
        self._check_whole(messages)
        names = sorted(tokenizer.specials, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, [*names, _OPEN, _CLOSE])))
        kept: list[str] = []

        def mark(found: re.Match[str]) -> str:
            kept.append(found[0])
            return f"{_OPEN}{len(kept) - 1}{_CLOSE}"

        marked = [Message(m.role, pattern.sub(mark, m.content)) for m in messages]
        text = self.render(marked)
        if not kept:
            return tokenizer.encode_markup(text)
        tokens: list[int] = []
        specials = frozenset(tokenizer.specials.values())

        def begins() -> bool:
            # As where the text is read in one piece, a special token has the start of a text next.
            return not tokens or tokens[-1] in specials

        at = 0
        for found in _MARK.finditer(text):
            tokens += tokenizer.encode_markup(text[at : found.start()], begins=begins())
            tokens += tokenizer.encode(kept[int(found[1])], begins=begins())
            at = found.end()
        return tokens + tokenizer.encode_markup(text[at:], begins=begins())

    def _check_whole(self, messages: Sequence[Message]) -> None:
        """Raise InputError for a message that the prompt would lack: some know no system role.

        A template may well change a message, as by cutting white space, so each is looked for by a
        word behind its content.
        """
        words = [f"{_WORD}{number}e" for number in range(len(messages))]
        text = self.render(
            [Message(m.role, m.content + word) for m, word in zip(messages, words, strict=True)]
        )
        for number, (message, word) in enumerate(zip(messages, words, strict=True)):
            if word not in text and message.content.strip():
                raise InputError(
                    f"the model's chat template leaves out messages[{number}], "
                    f"whose role is {message.role!r}",
                    hint="this model cannot be told so; say it in a user's message",
                )


@cache
def _environment() -> Any:
    """What publishers write templates for: Hugging Face's environment, sandboxed."""
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what a model is trained on, and stands for its content."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's own protocol

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", Generation],
    )
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = _json
    return environment


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


class _RefusedError(Exception):
    """The template called raise_exception."""


def _refuse(message: object) -> NoReturn:
    # The template's own words; they are the publisher's, not the user's.
    raise _RefusedError(str(message)[:200])
