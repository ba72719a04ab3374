"""Tokenizers from files: a Hugging Face `tokenizer.json`, or a BERT `vocab.txt`."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import msgspec

from interlock.kernel.errors import ConfigError, MissingExtraError

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


def from_bytes(data: bytes, *, most: int) -> Any:
    """The `tokenizers.Tokenizer` of a `tokenizer.json`: no padding, cut after `most` tokens.

    Raises ConfigError for what is none, and MissingExtraError without the extra `detect`.
    """
    tokenizers = _library()
    try:
        tokenizer = tokenizers.Tokenizer.from_str(data.decode())
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception
        raise ConfigError(f"the tokenizer cannot be read: {_first_line(error)}") from None
    return _set_up(tokenizer, most)


def open_tokenizer(name: str | Path, *, most: int) -> Any:
    """The tokenizer in a file or directory, or of a model on the Hugging Face hub.

    name  a `tokenizer.json`, a `vocab.txt`, a directory with either, or a hub name `owner/model`,
          which is fetched where the hub answers, and kept by its client

    Raises ConfigError that says what was tried.
    """
    path = Path(name)
    if path.is_dir():
        for file in ("tokenizer.json", "vocab.txt"):
            if (path / file).is_file():
                return open_tokenizer(path / file, most=most)
        raise ConfigError(f"tokenizer: {path} holds neither tokenizer.json nor vocab.txt")
    if path.is_file():
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"tokenizer {path}: {error.strerror}") from None
        if path.suffix == ".json":
            return from_bytes(data, most=most)
        return _set_up(_word_piece(path, data), most)
    if not _HUB_NAME.fullmatch(str(name)):
        raise ConfigError(f"tokenizer: there is no file or directory {name}")
    return _set_up(_from_hub(str(name)), most)


def storable(text: str) -> str:
    """The text with lone surrogates, which no tokenizer takes, as U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise MissingExtraError("detect", "a tokenizer") from None
    return tokenizers


def _set_up(tokenizer: Any, most: int) -> Any:
    tokenizer.no_padding()
    tokenizer.enable_truncation(most)
    return tokenizer


def _word_piece(path: Path, data: bytes) -> Any:
    tokenizers = _library()
    try:
        words = data.decode().split("\n")
    except UnicodeDecodeError:
        raise ConfigError(f"tokenizer {path}: not UTF-8") from None
    vocabulary = {word: at for at, word in enumerate(words) if word}
    for word in ("[UNK]", "[CLS]", "[SEP]"):
        if word not in vocabulary:
            raise ConfigError(f"tokenizer {path}: no BERT vocabulary, it lacks {word}")
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=_lowers(path.parent))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    return tokenizer


class _Config(msgspec.Struct):
    do_lower_case: bool = True


def _lowers(directory: Path) -> bool:
    try:
        data = (directory / "tokenizer_config.json").read_bytes()
        return msgspec.json.decode(data, type=_Config).do_lower_case
    except (OSError, msgspec.DecodeError):
        return True


def _from_hub(name: str) -> Any:
    try:
        return _library().Tokenizer.from_file(_hub_file(name))
    except MissingExtraError:
        raise
    except Exception as error:  # noqa: BLE001 - the hub's client raises dozens of types
        raise ConfigError(
            f"tokenizer: there is no file or directory {name}, and the hub did not give it "
            f"({type(error).__name__})",
            hint="give the directory or file of the tokenizer, such as the model's directory",
        ) from None


def _hub_file(name: str) -> str:
    """The path of a model's `tokenizer.json`: kept from before, else fetched."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return str(hf_hub_download(name, "tokenizer.json", local_files_only=True))
    except LocalEntryNotFoundError:
        if constants.HF_HUB_OFFLINE:
            raise
    if not getproxies():
        # The hub's client tries for half a minute to reach what is not there.
        hub = urlsplit(constants.ENDPOINT)
        port = hub.port or (80 if hub.scheme == "http" else 443)
        socket.create_connection((hub.hostname or "", port), timeout=5).close()
    return str(hf_hub_download(name, "tokenizer.json"))


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:200]
