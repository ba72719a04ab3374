"""Text models on ONNX Runtime as a chat provider: the bundles of `interlock models`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from interlock.engines.chat import Capabilities, ChatAnswer, ChatRequest
from interlock.engines.chat_http import require
from interlock.engines.chat_registry import read_options
from interlock.engines.chat_sampling import NAMES, choose
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import ConfigError, EngineUnavailableError, InterlockError

if TYPE_CHECKING:
    from interlock.engines.generate import GenerateResult, Generator

MOST_LOGPROBS = 100


class OnnxOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of models of the type `onnx`.

    model            a name in the store of `interlock models`, or a bundle's directory
    expected_digest  `sha256:<hex>` of the bundle; any other is refused
    slots            requests that are answered together
    workers          threads that run the model, one core each
    memory_limit     bytes for the key-value caches; None for no limit
    providers        execution providers of ONNX Runtime by name
    """

    model: str
    expected_digest: str | None = None
    slots: int = 8
    workers: int = 1
    memory_limit: int | None = None
    providers: tuple[str, ...] = ("CPUExecutionProvider",)


def onnx(options: Mapping[str, Any], *, base: Path) -> OnnxChatProvider:
    """The factory behind the model type `onnx`."""
    checked = read_options(OnnxOptions, options, "onnx")
    require("tokenizers", "text", "model type 'onnx'")
    return OnnxChatProvider(checked, base)


class OnnxChatProvider:
    """A `BatchChatProvider`. The model loads at the first use."""

    def __init__(self, options: OnnxOptions, base: Path) -> None:
        """Raise ConfigError for an option out of range. Loads nothing."""
        for name in ("slots", "workers"):
            value = getattr(options, name)
            if value < 1:
                raise ConfigError(f"onnx: {name} is {value}; it must be 1 or more")
        self._options = options
        self._base = base
        self._generator: Generator | None = None

    def capabilities(self, model: str) -> Capabilities:
        """As `BatchChatProvider.capabilities`; loads the model.

        Raises EngineUnavailableError for a model without a chat template, and the errors of
        `interlock.engines.generate.load_text_model`.
        """
        loaded = self._ready().model
        if loaded.template is None:
            raise EngineUnavailableError(
                f"{self._options.model}: the model has no chat template",
                hint="take an instruction-tuned model",
            )
        return Capabilities(
            sampling=frozenset(NAMES), logprobs=MOST_LOGPROBS, batches=True, paid=False
        )

    def answer_batch(
        self, requests: Sequence[ChatRequest], *, deadline: Deadline
    ) -> list[ChatAnswer | InterlockError]:
        """As `BatchChatProvider.answer_batch`. Raises as `capabilities` does.

        An answer depends on no other request, to the bit. A request that is drawn without a seed
        gets one, which its answer's `applied` tells.
        """
        from interlock.engines.generate import GenerateRequest

        self.capabilities("")
        found = self._ready().generate(
            [
                GenerateRequest(
                    messages=request.messages,
                    sampling=request.sampling,
                    key=request.key,
                    deadline=deadline,
                )
                for request in requests
            ]
        )
        return [
            result if isinstance(result, InterlockError) else self._answer(request, result)
            for request, result in zip(requests, found, strict=True)
        ]

    def close(self) -> None:
        """Release the model."""
        generator, self._generator = self._generator, None
        if generator is not None:
            generator.close()

    def _ready(self) -> Generator:
        if self._generator is None:
            from interlock.engines.generate import Generator, load_text_model
            from interlock.engines.generate.store import is_name

            options = self._options
            source = options.model
            if not is_name(source):
                source = str(self._base / source)
            model = load_text_model(
                source, providers=options.providers, expected_digest=options.expected_digest
            )
            self._generator = Generator(
                model,
                slots=options.slots,
                workers=options.workers,
                memory_limit=options.memory_limit,
            )
        return self._generator

    def _answer(self, request: ChatRequest, result: GenerateResult) -> ChatAnswer:
        applied, left_out = choose(request.sampling, {}, provider="onnx", refuse=False)
        applied.setdefault("temperature", 0.0)
        if result.seed is not None:
            applied["seed"] = result.seed
        return ChatAnswer(
            text=result.text,
            stop=result.stop,
            model_version=self._ready().model.digest,
            usage=result.usage,
            applied=applied,
            not_applied=left_out,
            logprobs=result.logprobs,
            raw_stop=result.stop.value,
        )
