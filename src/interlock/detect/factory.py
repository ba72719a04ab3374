"""Detectors by the names and environment variables that a two-layer deployment knows.

| variable | stands for |
| --- | --- |
| `ONNX_MODEL_PATH` | `onnx_model_path` |
| `ONNX_TOKENIZER` | `tokenizer_name`; not for the bundles of `create_best_l2_detector` |
| `ONNX_CONFIDENCE_THRESHOLD` | `confidence_threshold` |
| `ONNX_MAX_BATCH_SIZE` | texts of one run of a bare encoder |
| `ONNX_NUM_THREADS` | threads of ONNX Runtime |
| `USE_ONNX_ONLY` | `prefer_onnx_only` |
| `ENABLE_ANOMALY_DETECTION` | whether texts unlike all training texts are flagged |
| `ENVIRONMENT` | whose threshold counts |
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Literal

from interlock.bundle.manifest import MANIFEST
from interlock.detect import model
from interlock.detect.config import MOST_THREADS, DetectorConfig, check_threshold
from interlock.detect.detector import Detector
from interlock.detect.onnx_encoder import open_encoder
from interlock.detect.policy import load_policy
from interlock.detect.rules import RulePack, load_pack
from interlock.detect.settings import ENVIRONMENTS, SETTINGS
from interlock.kernel.errors import ConfigError, InterlockError, MissingExtraError

_log = logging.getLogger("interlock.detect")

Criteria = Literal["balanced", "speed", "accuracy"]
_CRITERIA = ("balanced", "speed", "accuracy")
_WORDS = {"true": True, "1": True, "yes": True, "on": True}
_WORDS |= {"false": False, "0": False, "no": False, "off": False}


class StubL2Detector(Detector):
    """A detector without a model: rules are looked at, and every text is held or flagged.

    why  what kept a model from being there; every answer's first reason
    """

    def __init__(self, why: str = "there is no model: this is a stub") -> None:
        """Raise nothing: without the extra `detect` there are no rules either."""
        super().__init__(
            None, rules=_rules_if_any(), policy=load_policy(), why=why, kind="stub",
            environment=_environment(lenient=True),
        )  # fmt: skip


def create_onnx_only_detector(
    onnx_model_path: str | os.PathLike[str] | None = None,
    tokenizer_name: str | os.PathLike[str] | None = None,
    confidence_threshold: float | None = None,
) -> Detector:
    """A detector from a model's path.

    onnx_model_path       a detector's bundle (its directory, or the model in it), or any sentence
                          encoder in ONNX. Such an encoder embeds but has no classifier: its
                          detector finds rules and says of every text that nothing judged it.
                          By default `ONNX_MODEL_PATH`, and without that the shipped bundle
    tokenizer_name        a file or directory, or a name on the Hugging Face hub; by default
                          `ONNX_TOKENIZER`, without that the bundle's own, or one beside the model
    confidence_threshold  by default `ONNX_CONFIDENCE_THRESHOLD`, without that the bundle's own for
                          `ENVIRONMENT`

    Raises ConfigError for a path that is not there, a tokenizer that cannot be had and a variable
    that cannot be read, and what `Detector.open` raises.
    """
    started = perf_counter()
    path = _text("ONNX_MODEL_PATH") if onnx_model_path is None else onnx_model_path
    tokenizer = _text("ONNX_TOKENIZER") if tokenizer_name is None else tokenizer_name
    threshold = confidence_threshold
    if threshold is None:
        threshold = _threshold()
    else:
        check_threshold("confidence_threshold", threshold)
    threads = _count("ONNX_NUM_THREADS", MOST_THREADS)
    batch = _count("ONNX_MAX_BATCH_SIZE")
    anomaly = _flag("ENABLE_ANOMALY_DETECTION", True)
    bundle = None if path is None else _bundle_of(Path(path))
    if path is None or bundle is not None:
        return Detector.open(
            DetectorConfig(
                bundle=bundle,
                tokenizer=None if tokenizer is None else str(tokenizer),
                environment=_environment(),
                threshold=threshold,
                anomaly=anomaly,
                threads=threads or 1,
            )
        )
    if not Path(path).is_file():
        raise ConfigError(f"onnx_model_path: there is no file or bundle {path}")
    encoder = open_encoder(
        Path(path),
        None if tokenizer is None else str(tokenizer),
        threads=threads or 1,
        batch=batch or 32,
    )
    detector = Detector(
        None,
        rules=load_pack(),
        policy=load_policy(),
        embedder=encoder,
        environment=_environment(),
        threshold=threshold,
        why="nothing judged it: the model embeds texts and has no classifier",
        kind="onnx-only",
        info={"embedding_dim": encoder.dimension, "model_path": str(path)},
    )
    detector.set_info(init_ms=(perf_counter() - started) * 1e3)
    _log.info(
        "encoder of dimension %d ready in %.0f ms; it does not judge",
        encoder.dimension,
        detector.model_info["init_ms"],
    )
    return detector


def create_best_l2_detector(
    prefer_onnx_only: bool | None = None,
    criteria: Criteria = "balanced",
    *,
    bundles: Sequence[str | os.PathLike[str]] = (),
) -> Detector:
    """The first detector that can be had: a bundle, then `ONNX_MODEL_PATH`, then a stub.

    prefer_onnx_only  try `ONNX_MODEL_PATH` before the bundles; by default `USE_ONNX_ONLY`
    criteria          which of several bundles is tried first: the one given first for `balanced`,
                      the smallest model for `speed`, the largest for `accuracy`
    bundles           directories of bundles; the shipped one is tried after them

    Never fails for want of a model: the stub holds every text and says why. Raises ConfigError for
    other criteria, for a `USE_ONNX_ONLY` that is neither true nor false, and for `bundles` that are
    one directory instead of several.
    """
    if isinstance(bundles, str | os.PathLike):
        # A text is a sequence too, of directories of one character.
        raise ConfigError(f"bundles is {str(bundles)!r}; it must be a list: [{str(bundles)!r}]")
    if criteria not in _CRITERIA:
        raise ConfigError(f"criteria is {criteria!r}; it must be one of {', '.join(_CRITERIA)}")
    if prefer_onnx_only is None:
        prefer_onnx_only = _flag("USE_ONNX_ONLY", False)
    ways: list[tuple[str, Callable[[], Detector]]] = [
        (f"bundle {directory}", _opener(directory)) for directory in _ranked(bundles, criteria)
    ]
    if _text("ONNX_MODEL_PATH"):
        only = ("ONNX_MODEL_PATH", create_onnx_only_detector)
        ways.insert(0 if prefer_onnx_only else len(ways), only)
    why = []
    for name, make in ways:
        try:
            return make()
        except InterlockError as error:
            why.append(f"{name}: {error.message}")
            _log.warning("%s cannot be used: %s", name, error.message)
    return StubL2Detector("; ".join(["there is no usable model", *why]))


def _opener(directory: Path) -> Callable[[], Detector]:
    def make() -> Detector:
        return Detector.open(
            bundle=None if directory == model.SHIPPED else directory,
            environment=_environment(),
            threshold=_threshold(),
            anomaly=_flag("ENABLE_ANOMALY_DETECTION", True),
            threads=_count("ONNX_NUM_THREADS", MOST_THREADS) or 1,
        )

    return make


def _ranked(bundles: Sequence[str | os.PathLike[str]], criteria: Criteria) -> list[Path]:
    found = [*map(Path, bundles), model.SHIPPED]
    if criteria == "balanced":
        return found

    def size(directory: Path) -> int:
        try:
            return (directory / "model.onnx").stat().st_size
        except OSError:
            return 0

    there = sorted(filter(size, found), key=size, reverse=criteria == "accuracy")
    return there + [directory for directory in found if not size(directory)]


def _bundle_of(path: Path) -> Path | None:
    directory = path if path.is_dir() else path.parent
    if path.is_dir() or path.name == "model.onnx":
        if (directory / MANIFEST).is_file() and (directory / SETTINGS).is_file():
            return directory
        if path.is_dir():
            raise ConfigError(f"onnx_model_path: {path} is a directory, but no detector's bundle")
    return None


def _rules_if_any() -> RulePack | None:
    try:
        return load_pack()
    except MissingExtraError:
        return None


def _environment(*, lenient: bool = False) -> str:
    name = os.environ.get("ENVIRONMENT", "production").strip().lower()
    if name in ENVIRONMENTS:
        return name
    if lenient:
        return "production"
    raise ConfigError(f"ENVIRONMENT is {name!r}; it must be one of {', '.join(ENVIRONMENTS)}")


def _text(name: str) -> str | None:
    """The variable's value; None where it is not set, or empty."""
    return os.environ.get(name, "").strip() or None


def _number(name: str) -> float | None:
    text = _text(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{name} is {text!r}; it must be a number")
    return value


def _threshold() -> float | None:
    name = "ONNX_CONFIDENCE_THRESHOLD"
    value = _number(name)
    if value is not None:
        check_threshold(name, value)
    return value


def _count(name: str, most: float = math.inf) -> int | None:
    value = _number(name)
    if value is not None and (not 1 <= value <= most or value != int(value)):
        bounds = "of 1 or more" if most == math.inf else f"in 1 … {most:g}"
        raise ConfigError(f"{name} is {value:g}; it must be a whole number {bounds}")
    return None if value is None else int(value)


def _flag(name: str, default: bool) -> bool:
    text = os.environ.get(name, "").strip().lower()
    if not text:
        return default
    if text not in _WORDS:
        raise ConfigError(f"{name} is {text!r}; it must be true or false")
    return _WORDS[text]
