"""A checkpoint converted, measured, and published as a bundle."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from interlock import __version__
from interlock.bundle import Bundle, pack
from interlock.bundle.pack import describe
from interlock.engines.generate.chat_template import ChatTemplate
from interlock.engines.generate.convert import fidelity as gate
from interlock.engines.generate.convert.checkpoint import Checkpoint, SourceError
from interlock.engines.generate.convert.gguf_file import GgufCheckpoint
from interlock.engines.generate.convert.graph import BuiltGraph, build_graph, float32_bytes
from interlock.engines.generate.convert.huggingface import CONFIG, HuggingFaceCheckpoint
from interlock.engines.generate.spec import (
    CHAT_TEMPLATE,
    EXTENSION,
    TOKENIZER,
    WEIGHTS,
    Fidelity,
    TextSpec,
    Weights,
)
from interlock.engines.generate.store import TEXT_LIMITS
from interlock.engines.generate.tokenizer import Tokenizer
from interlock.kernel.errors import (
    BundleContractError,
    ConfigError,
    InputError,
    MissingExtraError,
)

_CONTEXT = 32768
# Of the weights in float32 while both models are read: the graph's, and what the session packs.
_COPIES = 3


def open_checkpoint(source: Path, *, context: int | None = None) -> Checkpoint:
    """The GGUF file or Hugging Face directory at `source`.

    Raises ConfigError for anything else, BundleFormatError for what is malformed or not supported.
    """
    check_context(context)
    if source.is_dir():
        if not os.path.lexists(source / CONFIG):
            raise ConfigError(
                f"{source.resolve().name} has no {CONFIG}",
                hint=f"name a directory with {CONFIG}, tokenizer.json and *.safetensors",
            )
        return HuggingFaceCheckpoint(source, context=context or _CONTEXT)
    if source.is_file():
        return GgufCheckpoint(source, context=context or _CONTEXT)
    raise ConfigError(
        f"there is nothing at {source}", hint="name a GGUF file or a Hugging Face directory"
    )


def check_context(context: int | None) -> None:
    """Raise ConfigError for a context that no conversion takes."""
    if context is not None and not 16 <= context <= 1 << 20:
        raise ConfigError(f"context is {context}; it must lie in 16 … {1 << 20}")


def check_extra() -> None:
    """Raise MissingExtraError where the packages that converting takes are not installed."""
    for package in ("gguf", "safetensors", "tokenizers"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise MissingExtraError("text", "converting text models") from None


def convert(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    name: str | None = None,
    weights: Weights = "int8",
    context: int | None = None,
    accept_fidelity: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Convert the GGUF file or Hugging Face directory `source` to a bundle in `directory`.

    weights          "int8" rounds to blocks of 32, "exact" takes the file's own Q4_0, Q4_1 and
                     Q8_0 blocks over to the bit and the rest as float32, "fp32" keeps float32
    context          most tokens of prompt and answer; by default the model's, at most 32768
    accept_fidelity  publish though the weights lost more than the gate allows, or though they
                     could not be measured; the figure, or its absence, is recorded

    Raises BundleContractError where the gate refuses, and the errors of `open_checkpoint` and
    `interlock.bundle.pack`.
    """
    path = Path(source)
    on_step("reading")
    checkpoint = open_checkpoint(path, context=context)
    architecture, vocabulary = checkpoint.architecture, checkpoint.vocabulary
    tokenizer = Tokenizer(vocabulary.tokenizer)
    if tokenizer.size > architecture.vocabulary:
        raise SourceError(
            f"the tokenizer has {tokenizer.size} ids, the model {architecture.vocabulary}"
        )
    start = () if vocabulary.start_token is None else (vocabulary.start_token,)
    for token in (*start, *vocabulary.end_tokens):
        if token >= architecture.vocabulary:
            raise SourceError(
                f"the model starts or ends with the token {token}; its ids are 0 to "
                f"{architecture.vocabulary - 1}"
            )
    files = {TOKENIZER: vocabulary.tokenizer}
    if vocabulary.chat_template is not None:
        ChatTemplate(vocabulary.chat_template, vocabulary.specials)
        files[CHAT_TEMPLATE] = vocabulary.chat_template.encode("utf-8")
    on_step(f"building the graph, {weights} weights")
    model = build_graph(checkpoint, weights)
    measured: Fidelity | None = None
    if weights != "fp32":
        on_step("measuring its fidelity")
        measured = _measured(checkpoint, model, optional=accept_fidelity, name=path.name)
        if measured is not None and not accept_fidelity:
            gate.check(measured)
    spec = TextSpec(
        family=architecture.family,
        weights=weights,
        layers=architecture.layers,
        kv_heads=architecture.kv_heads,
        head_size=architecture.head_size,
        vocabulary=architecture.vocabulary,
        context=architecture.context,
        end_tokens=vocabulary.end_tokens,
        start_token=vocabulary.start_token,
        specials=dict(vocabulary.specials),
        fidelity=measured,
    )
    on_step("publishing")
    data = model.proto.SerializeToString()
    if model.tensors:
        files[WEIGHTS] = model.weights()
    del model
    metadata = describe(data, name or checkpoint.name)
    metadata = msgspec.structs.replace(
        metadata,
        provenance={
            "source": path.name,
            "source_sha256": _digest(path),
            "converter": f"interlock {__version__}",
            **checkpoint.provenance,
        },
        extensions={EXTENSION: msgspec.to_builtins(spec)},
    )
    return pack(directory, data, metadata, files, limits=TEXT_LIMITS)


def _measured(
    checkpoint: Checkpoint, model: BuiltGraph, *, optional: bool, name: str
) -> Fidelity | None:
    needed, free = _COPIES * float32_bytes(checkpoint.architecture), _free_memory()
    if free is not None and needed > free:
        if optional:
            return None
        raise BundleContractError(
            f"the fidelity of {name} cannot be measured: in float32 that takes about "
            f"{needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free",
            hint="--accept-fidelity publishes it unmeasured",
        )
    reference = build_graph(checkpoint, "fp32")
    tokenizer = Tokenizer(checkpoint.vocabulary.tokenizer)
    return gate.measure(reference, model, checkpoint.architecture, tokenizer)


def _free_memory() -> int | None:
    """Bytes of memory that the system could give; None where it does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _digest(source: Path) -> dict[str, str] | str:
    """The SHA-256 of the file, or of each weight file of a directory."""
    try:
        if source.is_file():
            return _sha256(source)
        files = sorted([*source.glob("*.safetensors"), *source.glob("*.json")])
        return {file.name: _sha256(file) for file in files}
    except OSError as error:
        raise InputError(f"{source.name} cannot be read: {error.strerror}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
