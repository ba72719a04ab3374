"""A text model ready to run: the checked bundle, one session, the tokenizer and the template."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interlock.bundle import Bundle, load
from interlock.engines.chat import Message
from interlock.engines.generate.chat_template import ChatTemplate
from interlock.engines.generate.request import GenerateRequest
from interlock.engines.generate.spec import CHAT_TEMPLATE, TOKENIZER, TextSpec, spec_of
from interlock.engines.generate.store import TEXT_LIMITS, located
from interlock.engines.generate.tokenizer import Tokenizer
from interlock.engines.onnx import CPU, SessionConfig, create_session
from interlock.kernel.errors import BundleFormatError, InputError


@dataclass(frozen=True)
class TextModel:
    """A model in this process. Safe across threads; any number of generators may share it.

    name       the bundle's
    digest     `sha256:<hex>` of the bundle's manifest
    context    most tokens of prompt and answer together
    session    the `onnxruntime.InferenceSession`
    """

    name: str
    digest: str
    spec: TextSpec
    tokenizer: Tokenizer
    template: ChatTemplate | None
    session: Any = field(repr=False)

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.spec.context

    def chat_prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation up to where the answer starts.

        Raises InputError where the model has no chat template or it refuses the messages.
        """
        if self.template is None:
            raise InputError(
                f"the model {self.name!r} has no chat template",
                hint="give prompt_tokens, or convert an instruction-tuned model",
            )
        return self.template.tokens(messages, self.tokenizer)

    def plain_prompt(self, text: str) -> list[int]:
        """The tokens of `text` to be continued, with the model's start token where it wants one."""
        start = self.spec.start_token
        return [*([] if start is None else [start]), *self.tokenizer.encode(text)]

    def prompt_of(self, request: GenerateRequest) -> list[int]:
        """The request's prompt in tokens, checked; raises InputError where it does not fit."""
        self._check_length(request)
        if request.prompt_tokens is not None:
            tokens = list(request.prompt_tokens)
        elif request.text is not None:
            tokens = self.plain_prompt(request.text)
            if not tokens:
                raise InputError("text is empty; a request needs at least one token")
        else:
            assert request.messages is not None
            tokens = self.chat_prompt(request.messages)
        wrong = self.tokenizer.check(tokens, self.spec.vocabulary)
        if wrong is not None:
            raise InputError(
                f"prompt_tokens holds {wrong}; ids are 0 to {self.spec.vocabulary - 1}"
            )
        if len(tokens) >= self.context:
            raise self._too_long(len(tokens), "tokens")
        if request.prefix >= len(tokens):
            raise InputError(
                f"prefix is {request.prefix}; it must be below the prompt's {len(tokens)} tokens"
            )
        return tokens

    def _check_length(self, request: GenerateRequest) -> None:
        """Raise InputError where the prompt cannot fit, whatever its tokens.

        Cutting a text into tokens takes some 170 bytes of memory a character.
        """
        if request.prompt_tokens is not None:
            if len(request.prompt_tokens) >= self.context:
                raise self._too_long(len(request.prompt_tokens), "tokens")
            return
        messages = request.messages or ()
        if len(messages) > self.context:
            raise self._too_long(len(messages), "messages")
        characters = sum(len(m.content) for m in messages) + len(request.text or "")
        if characters > self.context * self.tokenizer.longest:
            raise self._too_long(characters, "characters")

    def _too_long(self, number: int, what: str) -> InputError:
        return InputError(
            f"the prompt has {number} {what}; the model's context is {self.context} tokens, "
            "the answer included",
            hint="shorten the prompt, or convert the model with a longer --context",
        )


def load_text_model(
    source: str | os.PathLike[str],
    *,
    threads: int = 1,
    providers: Sequence[str] = (CPU,),
    expected_digest: str | None = None,
    require_signature: Path | None = None,
    probe: bool | None = None,
) -> TextModel:
    """The text model of that name in the user's store, or the bundle in that directory.

    source     a string that can be a name is one, whatever lies in the working directory; a
               directory has a separator in its path, such as `./mine`, or is a `Path`
    threads    inside one step; 1 is best for several workers, which share the session
    providers  execution providers of ONNX Runtime by name; the cache lies in the host's memory
               whichever runs
    probe      open the model in a process of its own first. None: for directories, not for names,
               which were probed when they were added

    Raises the errors of `interlock.bundle.load`, BundleFormatError for a bundle that is no text
    model, ConfigError for a name that is not in the store, EngineUnavailableError where a provider
    is absent, and MissingExtraError.
    """
    path, known = located(source)
    bundle = load(
        path,
        expected_digest=expected_digest,
        require_signature=require_signature,
        probe=not known if probe is None else probe,
        limits=TEXT_LIMITS,
    )
    return open_text_model(bundle, threads=threads, providers=providers)


def open_text_model(
    bundle: Bundle, *, threads: int = 1, providers: Sequence[str] = (CPU,)
) -> TextModel:
    """As `load_text_model`, for a bundle in memory."""
    spec = spec_of(bundle.metadata)
    data = bundle.files.get(TOKENIZER)
    if data is None:
        raise BundleFormatError(
            f"the bundle {bundle.metadata.name!r} has no {TOKENIZER}",
            hint="convert the model again with `interlock models add`",
        )
    tokenizer = Tokenizer(data)
    source = bundle.files.get(CHAT_TEMPLATE)
    template = None
    if source is not None:
        try:
            template = ChatTemplate(source.decode("utf-8"), spec.specials)
        except UnicodeDecodeError:
            raise BundleFormatError(f"{CHAT_TEMPLATE} is not UTF-8") from None
    config = SessionConfig(providers=tuple(providers), intra_op_threads=threads)
    return TextModel(
        name=bundle.metadata.name,
        digest=bundle.digest,
        spec=spec,
        tokenizer=tokenizer,
        template=template,
        session=create_session(bundle.model, config, tensors=bundle.tensors),
    )
