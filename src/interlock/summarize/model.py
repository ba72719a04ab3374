"""The text engine as a model that summaries are asked of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interlock.engines.chat import Message, Sampling, StopReason
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import BundleFormatError, EngineUnavailableError, InterlockError
from interlock.summarize.asked import ANSWER_TOKENS, SENTENCE_ENDS, Written

TEMPERATURE, TOP_P = 0.7, 0.9
"""Of the draw with a seed; the first attempt is greedy."""


class EngineModel:
    """A `TextModel` and a `Generator` of `interlock.engines.generate`, shared by all threads."""

    def __init__(self, name: str, model: Any, generator: Any) -> None:
        self.name = name
        self.digest: str = model.digest
        self.context: int = model.context
        self._model = model
        self._generator = generator

    def count(self, text: str) -> int:
        """Tokens of `text`, special ones aside."""
        return int(self._model.tokenizer.count(text))

    def write(
        self, messages: tuple[Message, ...], *, seed: int | None, deadline: Deadline
    ) -> Written:
        """See `SummaryModel.write`."""
        from interlock.engines.generate import GenerateRequest

        drawn: dict[str, Any] = {"temperature": 0.0}
        if seed is not None:
            drawn = {"temperature": TEMPERATURE, "top_p": TOP_P, "seed": seed}
        prompt = tuple(self._model.chat_prompt(messages))
        request = GenerateRequest(
            prompt_tokens=prompt,
            sampling=Sampling(max_tokens=ANSWER_TOKENS, stop=SENTENCE_ENDS, **drawn),
            prefix=self._shared_prefix(messages, prompt),
            deadline=deadline,
        )
        [result] = self._generator.generate([request])
        if isinstance(result, InterlockError):
            raise result
        return Written(
            text=result.text,
            cut=result.stop is StopReason.MAX_TOKENS,
            input_tokens=result.usage.input if result.usage.input is not None else len(prompt),
            output_tokens=result.usage.output or len(result.tokens),
            mean_logprob=result.mean_logprob,
            seconds=result.seconds - result.waiting_seconds,
        )

    def _shared_prefix(self, messages: tuple[Message, ...], prompt: tuple[int, ...]) -> int:
        """How many tokens the instruction alone makes up, which every prompt begins with."""
        alone = self._model.chat_prompt((*messages[:-1], Message("user", "")))
        same = 0
        for ours, theirs in zip(prompt, alone, strict=False):
            if ours != theirs:
                break
            same += 1
        return same

    def close(self) -> None:
        """Release the engine's memory."""
        self._generator.close()


class UnopenedModel:
    """A model by what its bundle says of itself, which is enough to count and to plan.

    Its files are read, not checked: nothing of it runs.
    """

    def __init__(self, name: str, directory: Path) -> None:
        """Raises BundleError where the directory holds no text model, MissingExtraError."""
        from interlock.bundle.manifest import MANIFEST, METADATA, digest_of
        from interlock.bundle.metadata import parse_metadata
        from interlock.engines.generate.spec import TOKENIZER, spec_of
        from interlock.engines.generate.tokenizer import Tokenizer

        try:
            manifest, metadata, tokenizer = (
                (directory / file).read_bytes() for file in (MANIFEST, METADATA, TOKENIZER)
            )
        except OSError as error:
            raise BundleFormatError(
                f"{str(directory)!r} is no text model: {error.strerror}"
            ) from None
        self.name = name
        self.digest: str = digest_of(manifest)
        self.context: int = spec_of(parse_metadata(metadata)).context
        self._tokenizer = Tokenizer(tokenizer)

    def count(self, text: str) -> int:
        """Tokens of `text`, special ones aside."""
        return int(self._tokenizer.count(text))

    def write(
        self, messages: tuple[Message, ...], *, seed: int | None, deadline: Deadline
    ) -> Written:
        """Raises EngineUnavailableError: it is not open."""
        raise EngineUnavailableError(f"the model {self.name!r} is not open")

    def close(self) -> None:
        """Nothing to release."""
