"""Causal models of Hugging Face's `transformers` on this machine, several requests at a time."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from interlock.engines.chat import (
    Capabilities,
    ChatAnswer,
    ChatRequest,
    StopReason,
    TokenLogprob,
    Usage,
)
from interlock.engines.chat_http import require
from interlock.engines.chat_registry import read_options
from interlock.engines.chat_sampling import NAMES, choose
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    ConfigError,
    EngineError,
    EngineUnavailableError,
    InputError,
    InterlockError,
    MalformedAnswerError,
    MemoryLimitError,
    RequestRejectedError,
)

if TYPE_CHECKING:
    from interlock.engines.huggingface_decode import Decoder, Row
    from interlock.engines.huggingface_load import Loaded

MOST_LOGPROBS = 100
# Any text does, to see whether a model's batches are to be trusted.
PROBE = "Does the identifier exist?"


class LocalOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of models of the type `local`.

    model_path    a directory, a GGUF file or a hub's name; the hub is asked for the latter only
    device        cuda, cuda:N, cpu or mps; None for a GPU where there is one. `cuda` takes the GPU
                  with the most free memory
    dtype         of the weights; None for float32 on a CPU, bfloat16 or float16 on a GPU
    gguf_file     which GGUF file of the directory
    batch_size    most requests that are answered together; memory is what it costs
    template      what becomes of a model without a chat template: `required` declines it, `plain`
                  gives it the messages' texts, one after the other
    allow_pickle  load pickled weights, which can run any code, where there are no safetensors
    """

    model_path: str
    device: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    gguf_file: str | None = None
    batch_size: int = 8
    template: Literal["required", "plain"] = "required"
    allow_pickle: bool = False


def local(options: Mapping[str, Any], *, base: Path) -> LocalProvider:
    """The factory behind the model type `local`."""
    checked = read_options(LocalOptions, options, "local")
    require("transformers", "hf", "model type 'local'")
    require("torch", "hf", "model type 'local'")
    return LocalProvider(checked, base)


class LocalProvider:
    """A `BatchChatProvider`. The model loads at the first use."""

    def __init__(self, options: LocalOptions, base: Path) -> None:
        """Raise ConfigError for an option out of range. Loads nothing."""
        if options.batch_size < 1:
            raise ConfigError(f"local: batch_size is {options.batch_size}; it must be 1 or more")
        device = options.device
        if device is not None and device.partition(":")[0] not in ("cuda", "cpu", "mps"):
            raise ConfigError(f"local: device is {device!r}; it must be cuda, cuda:N, cpu or mps")
        if device is not None and ":" in device and not device.partition(":")[2].isdecimal():
            raise ConfigError(f"local: device is {device!r}; cuda:N takes a number")
        self._options = options
        self._base = base
        self._loaded: Loaded | None = None
        self._decoder: Decoder | None = None

    def capabilities(self, model: str) -> Capabilities:
        """As `BatchChatProvider.capabilities`; loads the model.

        Raises EngineUnavailableError for a model that is not found, has no tokenizer or no chat
        template, or asks for a device that is not there.
        """
        loaded = self._ready()
        if loaded.tokenizer.chat_template is None and self._options.template == "required":
            raise EngineUnavailableError(
                f"{self._options.model_path}: the model has no chat template",
                hint='take an instruction-tuned model, or set "template": "plain"',
            )
        return Capabilities(
            sampling=frozenset(NAMES), logprobs=MOST_LOGPROBS, batches=True, paid=False
        )

    def answer_batch(
        self, requests: Sequence[ChatRequest], *, deadline: Deadline
    ) -> list[ChatAnswer | InterlockError]:
        """As `BatchChatProvider.answer_batch`. Raises as `capabilities` does.

        A request's answer in float32 depends on no other request of the batch. A request without a
        seed gets one, which its answer's `applied` tells.
        """
        self.capabilities("")
        rows: list[Row | InterlockError] = []
        for request in requests:
            try:
                rows.append(self._row(request))
            except InterlockError as error:
                rows.append(error)
        # Rows of like length share a batch, as the shorter ones are filled up.
        waiting = [row for row in rows if not isinstance(row, InterlockError)]
        waiting.sort(key=lambda row: len(row.prompt))
        size = self._options.batch_size
        for start in range(0, len(waiting), size):
            self._run(waiting[start : start + size], deadline)
        return [
            row if isinstance(row, InterlockError) else self._answer(request, row)
            for request, row in zip(requests, rows, strict=True)
        ]

    def close(self) -> None:
        """Release the model."""
        if self._loaded is not None and self._loaded.device.startswith("cuda"):
            import torch

            self._loaded = self._decoder = None
            torch.cuda.empty_cache()
        self._loaded = self._decoder = None

    def _ready(self) -> Loaded:
        if self._loaded is None:
            from interlock.engines.huggingface_decode import Decoder
            from interlock.engines.huggingface_load import load

            options = self._options
            loaded = load(
                options.model_path,
                base=self._base,
                gguf_file=options.gguf_file,
                device=options.device,
                dtype=options.dtype,
                allow_pickle=options.allow_pickle,
            )
            pad = loaded.tokenizer.pad_token_id
            decoder = Decoder(
                loaded.model,
                pad=pad if pad is not None else min(loaded.ends, default=0),
                stopped=lambda row: _first_stop(self._text(row), row.sampling.stop) is not None,
            )
            text = loaded.tokenizer(PROBE, add_special_tokens=False)["input_ids"]
            decoder.check([*text, *range(1, 9)])
            self._loaded, self._decoder = loaded, decoder
        return self._loaded

    def _row(self, request: ChatRequest) -> Row:
        from interlock.engines.huggingface_decode import Row

        loaded = self._ready()
        prompt = self._prompt(request)
        sampling = request.sampling
        room = sampling.max_tokens
        if loaded.context is not None:
            room = min(room, loaded.context - len(prompt))
        if room < 1:
            raise RequestRejectedError(
                f"local: the prompt has {len(prompt)} tokens; the model's context holds "
                f"{loaded.context}, its answer included"
            )
        return Row(
            prompt=prompt,
            sampling=sampling,
            seed=sampling.seed if sampling.seed is not None else secrets.randbits(63),
            ends=loaded.ends,
            limit=room,
        )

    def _prompt(self, request: ChatRequest) -> list[int]:
        tokenizer = self._ready().tokenizer
        if not request.messages:
            raise InputError("local: a request needs at least one message")
        if tokenizer.chat_template is None:
            text = "\n\n".join(message.content for message in request.messages)
            ids: list[int] = tokenizer(text)["input_ids"]
        else:
            turns = [{"role": m.role, "content": m.content} for m in request.messages]
            # The template writes the special tokens; the tokenizer must not add its own.
            text = _rendered(tokenizer, turns)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise InputError("local: the prompt is empty")
        return ids

    def _run(self, rows: list[Row], deadline: Deadline) -> None:
        """Fill in the rows; a batch that does not fit into memory is run in halves."""
        from interlock.engines.huggingface_load import out_of_memory

        assert self._decoder is not None
        fault: InterlockError
        try:
            self._decoder.run(rows, deadline)
        except Exception as error:  # noqa: BLE001 - a model's code may raise anything
            if not out_of_memory(error):
                fault = EngineError(f"local: the model raised {type(error).__name__}")
            elif len(rows) == 1:
                fault = MemoryLimitError("local: one request does not fit into memory")
            else:
                fault = MemoryLimitError("local: the batch does not fit into memory")
        else:
            return
        if isinstance(fault, MemoryLimitError) and len(rows) > 1:
            for row in rows:
                row.drawn.clear()
                row.logprobs.clear()
                row.stop = row.error = None
            half = len(rows) // 2
            self._run(rows[:half], deadline)
            self._run(rows[half:], deadline)
            return
        for row in rows:
            row.error = row.error or (None if row.done else fault)

    def _text(self, row: Row) -> str:
        text: str = self._ready().tokenizer.decode(
            row.drawn, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _answer(self, request: ChatRequest, row: Row) -> ChatAnswer | InterlockError:
        if row.error is not None:
            return row.error
        assert row.stop is not None
        loaded = self._ready()
        text = self._text(row)
        if row.stop is StopReason.STOP_TEXT:
            text = text[: _first_stop(text, row.sampling.stop)]
        elif not text and row.stop is StopReason.END:
            return MalformedAnswerError("local: the answer is empty")
        applied, left_out = choose(request.sampling, {}, provider="local", refuse=False)
        applied.setdefault("temperature", 0.0)
        if applied["temperature"]:
            applied["seed"] = row.seed
        return ChatAnswer(
            text=text,
            stop=row.stop,
            model_version=f"{loaded.version} ({loaded.dtype}, {loaded.device})",
            usage=Usage(input=len(row.prompt), output=len(row.drawn)),
            applied=applied,
            not_applied=left_out,
            logprobs=self._logprobs(row),
            raw_stop=row.stop.value,
        )

    def _logprobs(self, row: Row) -> tuple[TokenLogprob, ...] | None:
        if row.sampling.logprobs is None:
            return None
        decode = self._ready().tokenizer.decode
        return tuple(
            TokenLogprob(
                decode([token]),
                logprob,
                tuple((decode([each]), value) for each, value in zip(ids, values, strict=True)),
            )
            for token, logprob, values, ids in row.logprobs
        )


def _rendered(tokenizer: Any, turns: list[dict[str, str]]) -> str:
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text
    except Exception as error:  # noqa: BLE001 - templates are programs that come with models
        name = type(error).__name__
    # The template's own words may quote the messages.
    raise RequestRejectedError(
        f"local: the model's chat template does not take these messages ({name})",
        hint="some models take no system message, and want user and assistant in turn",
    )


def _first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stop texts begins."""
    found = [text.find(stop) for stop in stops if stop and stop in text]
    return min(found, default=None)
