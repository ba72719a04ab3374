"""A short run that a sound model passes."""

from __future__ import annotations

from interlock.engines.chat import Sampling
from interlock.engines.generate.generator import Generator
from interlock.engines.generate.model import TextModel
from interlock.engines.generate.request import GenerateRequest, GenerateResult
from interlock.kernel.errors import BundleContractError, InterlockError

_TOKENS = 8
_TEXTS = ("The quick brown fox", "def add(a, b):\n    return", "1, 2, 3, 4,")


def trial(model: TextModel) -> list[list[int]]:
    """Tokens that the model writes after three fixed texts, alone and together.

    Raises BundleContractError where a text's tokens depend on what runs beside it, and the
    model's own errors.
    """
    most = min(_TOKENS, model.context // 2)
    requests = [
        GenerateRequest(
            # A short context holds the beginning of a text.
            prompt_tokens=tuple(model.plain_prompt(text)[: model.context - most]),
            sampling=Sampling(max_tokens=most),
        )
        for text in _TEXTS
    ]
    with Generator(model, slots=len(requests)) as generator:
        together = [_tokens(found) for found in generator.generate(requests)]
        alone = [_tokens(generator.generate([request])[0]) for request in requests]
    if alone != together:
        raise BundleContractError("the model's answers depend on what runs beside them")
    return [list(tokens) for tokens in together]


def _tokens(found: GenerateResult | InterlockError) -> tuple[int, ...]:
    if isinstance(found, InterlockError):
        raise found
    return found.tokens
