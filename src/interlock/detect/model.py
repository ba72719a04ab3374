"""A detector's bundle, loaded: the graph, its tokenizer and settings, and the fidelity gate."""

from __future__ import annotations

import ctypes
import hashlib
import math
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock import __version__
from interlock.bundle import Bundle, load
from interlock.bundle.manifest import MANIFEST, digest_of
from interlock.detect import tokenizer as tokenizers
from interlock.detect.ngrams import ngram_ids
from interlock.detect.settings import (
    SETTINGS,
    TOKENIZER,
    VECTORS,
    Settings,
    Vectors,
    parse_settings,
    parse_vectors,
)
from interlock.engines.onnx import OnnxSession, SessionConfig
from interlock.kernel.errors import (
    BundleContractError,
    BundleFormatError,
    BundleIntegrityError,
)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SHIPPED = Path(__file__).parent / "model"
"""The bundle that ships with the package. `make train-detector` replaces it."""

INPUTS = {
    "input_ids": ("int64", 2),
    "attention_mask": ("int64", 2),
    "ngrams": ("int64", 2),
    "rules": ("float32", 2),
    "document": ("float32", 2),
}
"""What the graph takes: dtype and rank."""

OUTPUTS = {
    "embedding": ("float32", 2),
    "score": ("float32", 1),
    "logit": ("float32", 1),
    "families": ("float32", 2),
    "encoder_logit": ("float32", 1),
    "ngram_logit": ("float32", 1),
    "rule_logit": ("float32", 1),
}
"""What it gives."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the graph says of w windows, in their order.

    embedding  (w, d), of length 1
    score, logit, encoder, ngrams, rules
               (w,); the last three are the parts of the logit
    families   (w, f) probabilities
    """

    embedding: Floats
    score: Floats
    logit: Floats
    families: Floats
    encoder: Floats
    ngrams: Floats
    rules: Floats


class DetectorModel:
    """A bundle that passed the fidelity gate. Thread-safe.

    settings  the content of `detector.json`
    digest    of the bundle
    fidelity  mean and minimum of the cosines that the gate found, None where an earlier load's
              verdict on the same bytes was taken
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int = 1,
        remember: Path | None = None,
        tokenizer: Any = None,
    ) -> None:
        """Raise BundleFormatError, BundleContractError, or what a session raises.

        remember   directory in which the gate's verdict is kept for the next load
        tokenizer  instead of the bundle's own; the gate says whether it fits
        """
        for name in (SETTINGS, TOKENIZER, VECTORS):
            if name not in bundle.files:
                raise BundleFormatError(
                    f"the bundle is no detector: it has no {name}", hint="name another bundle"
                )
        self.settings: Settings = parse_settings(bundle.files[SETTINGS])
        self.vectors: Vectors = parse_vectors(bundle.files[VECTORS])
        self.digest = bundle.digest
        self.evidence = bundle.evidence()
        _check_signature(bundle, self.settings)
        most = self.settings.windows.tokens
        own = tokenizer is None
        self.tokenizer = (
            tokenizers.from_bytes(bundle.files[TOKENIZER], most=most) if own else tokenizer
        )
        self._session = OnnxSession(bundle.model, SessionConfig(intra_op_threads=threads))
        self._names = tuple(OUTPUTS)
        self._features = len(self.settings.rules.features)
        self.known = np.concatenate([self.vectors.attack, self.vectors.harmless])
        marker = _marker(remember, self.digest) if own and remember is not None else None
        self.fidelity: tuple[float, float] | None = None
        if marker is None or not marker.exists():
            self.fidelity = self._gate()
            if marker is not None:
                _leave(marker)
        else:
            self.embed([self.vectors.texts[0]])

    def judge(self, texts: list[str], rules: Floats, document: float) -> Judged:
        """What the graph says of windows; each is run by itself, so none depends on another.

        Where a window has more tokens than are read at a time, the part with the highest logit
        stands for it.

        texts     w windows as they are to be read
        rules     (w, features) float32
        document  0 for a user's text, 1 for a document

        Raises EngineError and MemoryLimitError.
        """
        place = np.full((1, 1), document, np.float32)
        rows = []
        for at, text in enumerate(texts):
            beside = {
                "ngrams": ngram_ids([text], self.settings.ngrams),
                "rules": rules[at : at + 1],
                "document": place,
            }
            # One by one: a batch starts a pool of threads, one a core, in every process.
            encoding = self.tokenizer.encode(text)
            parts = [
                self._run(part.ids, beside, self._names)
                for part in (encoding, *encoding.overflowing)
            ]
            rows.append(parts[0] if len(parts) == 1 else max(parts, key=_alarm))
        joined = rows[0] if len(rows) == 1 else _joined(rows, self._names)
        return Judged(
            joined["embedding"],
            joined["score"],
            joined["logit"],
            joined["families"],
            joined["encoder_logit"],
            joined["ngram_logit"],
            joined["rule_logit"],
        )

    def inputs(self, text: str) -> dict[str, Any]:
        """What the graph takes of a text beside its tokens, rules left out: for `run_bare`."""
        return {
            "ngrams": ngram_ids([text], self.settings.ngrams),
            "rules": np.zeros((1, self._features), np.float32),
            "document": np.zeros((1, 1), np.float32),
        }

    def run_bare(self, text: str, inputs: dict[str, Any]) -> None:
        """Tokenizer and graph and nothing else: what the whole detector is compared with."""
        self._run(self.tokenizer.encode(text).ids, inputs, self._names)

    def embed(self, texts: list[str]) -> Floats:
        """(n, d) embeddings of texts, of length 1; what is beyond a window's tokens is cut off."""
        rows = []
        for text in map(tokenizers.storable, texts):
            ids = self.tokenizer.encode(text).ids
            rows.append(self._run(ids, self.inputs(text), ("embedding",))["embedding"])
        return np.concatenate(rows)

    def _run(
        self, ids: list[int], beside: dict[str, Any], names: tuple[str, ...]
    ) -> dict[str, Any]:
        """The outputs `names` of one window; `beside` are the inputs that are no tokens."""
        tokens = np.array([ids], np.int64)
        return self._session.run(
            {"input_ids": tokens, "attention_mask": np.ones_like(tokens), **beside}, outputs=names
        )

    def _gate(self) -> tuple[float, float]:
        vectors, bounds = self.vectors, self.settings.fidelity
        if not vectors.texts:
            raise BundleContractError("the bundle stores no embeddings to compare with")
        found = self.embed(list(vectors.texts))
        if found.shape != vectors.embeddings.shape:
            raise BundleContractError(
                f"embeddings have shape {found.shape}, the stored ones {vectors.embeddings.shape}"
            )
        cosines = (found * vectors.embeddings).sum(axis=1)
        mean, least = float(cosines.mean()), float(cosines.min())
        # Not `<`: a NaN must not pass.
        if not (mean >= bounds.mean and least >= bounds.minimum):
            raise BundleContractError(
                f"the embeddings differ from the stored ones: mean cosine {mean:.4f}, minimum "
                f"{least:.4f}; {bounds.mean} and {bounds.minimum} are needed",
                hint="use the bundle's own tokenizer, and this release's ONNX Runtime",
            )
        return mean, least


def load_model(
    directory: str | Path | None = None,
    *,
    expected_digest: str | None = None,
    require_signature: Path | None = None,
    threads: int = 1,
    remember: bool = True,
    tokenizer: str | Path | None = None,
) -> DetectorModel:
    """The detector's bundle in `directory`, or the shipped one.

    expected_digest, require_signature
              as `interlock.bundle.load` takes them
    remember  keep verdicts of probe and gate in the user's cache directory, by digest
    tokenizer another one than the bundle's own; the fidelity gate says whether it fits

    Raises the errors of `interlock.bundle.load`, and BundleContractError where the graph is not a
    detector's or its embeddings drift.
    """
    keep = _cache_directory() if remember else None
    if directory is None:
        if not SHIPPED.is_dir():
            raise BundleFormatError(
                "this package ships no detector bundle", hint="name one with --bundle"
            )
        # These files are trusted as far as the code beside them is, so they need no probe.
        with _without_links(SHIPPED) as plain:
            bundle = load(
                plain,
                expected_digest=expected_digest,
                require_signature=require_signature,
                probe=False,
            )
    else:
        bundle = _load(Path(directory), expected_digest, require_signature, keep)
    other = None
    if tokenizer is not None:
        most = parse_settings(bundle.files.get(SETTINGS, b"")).windows.tokens
        other = tokenizers.open_tokenizer(tokenizer, most=most)
    model = DetectorModel(bundle, threads=threads, remember=keep, tokenizer=other)
    del bundle
    _give_back()
    return model


@contextmanager
def _without_links(directory: Path) -> Iterator[Path]:
    """The directory, or a copy where an installer hard-linked its files, which loading refuses."""
    if all(path.stat().st_nlink == 1 for path in directory.iterdir() if path.is_file()):
        yield directory
        return
    with TemporaryDirectory() as scratch:
        copy = Path(scratch) / "model"
        shutil.copytree(directory, copy, copy_function=shutil.copyfile)
        yield copy


def _give_back() -> None:
    """Let the allocator return what parsing the graph took: a tenth of the process otherwise."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _load(
    directory: Path, expected: str | None, signature: Path | None, keep: Path | None
) -> Bundle:
    """The bundle there; bytes that passed before are hashed and checked, but not probed again."""
    passed = None if keep is None else _passed(keep, directory)
    if passed is not None and expected in (None, passed):
        # Something else may lie there by now, which must be probed.
        with suppress(BundleIntegrityError):
            return load(directory, expected_digest=passed, require_signature=signature, probe=False)
    return load(directory, expected_digest=expected, require_signature=signature)


def _alarm(part: dict[str, Any]) -> float:
    """The logit, where NaN is the worst of all: it must not be lost among others."""
    logit = float(part["logit"][0])
    return math.inf if math.isnan(logit) else logit


def _joined(rows: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: np.concatenate([row[name] for row in rows]) for name in names}


def _check_signature(bundle: Bundle, settings: Settings) -> None:
    for kind, specs, wanted in (
        ("input", bundle.metadata.inputs, INPUTS),
        ("output", bundle.metadata.outputs, OUTPUTS),
    ):
        there = {spec.name: (spec.dtype, len(spec.shape)) for spec in specs}
        for name, form in wanted.items():
            if there.get(name) != form:
                raise BundleContractError(
                    f"the {kind} {name!r} is {there.get(name)}; a detector's is {form}"
                )
    if {spec.name for spec in bundle.metadata.inputs} != set(INPUTS):
        raise BundleContractError("the graph takes more inputs than a detector's")
    widths = {spec.name: spec.shape for spec in (*bundle.metadata.inputs, *bundle.metadata.outputs)}
    for name, size in (
        ("rules", len(settings.rules.features)),
        ("families", len(settings.families)),
    ):
        width = widths[name][1]
        if isinstance(width, int) and width != size:
            raise BundleContractError(f"{name!r} has width {width}; {SETTINGS} names {size}")


def _cache_directory() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("interlock")) / "detect"


def _marker(directory: Path, digest: str) -> Path:
    """The file that says that these bytes passed on this machine with this runtime."""
    runs = (version("onnxruntime"), version("tokenizers"), __version__)
    facts = (digest, *runs, platform.machine(), platform.processor())
    return directory / hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def _passed(cache: Path, directory: Path) -> str | None:
    """The digest of the bundle that lies there now, if it passed before."""
    try:
        digest = digest_of((directory / MANIFEST).read_bytes())
    except OSError:
        return None
    return digest if _marker(cache, digest).exists() else None


def _leave(marker: Path) -> None:
    # Without a cache the next load takes longer, no more.
    with suppress(OSError):
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
