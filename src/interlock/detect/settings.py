"""`detector.json`: how a detector's bundle cuts, reads and scores a text.

The bundle's files: `model.onnx` (the graph), `tokenizer.json`, `detector.json` (`Settings`),
`vectors.json` (`Vectors`) and `MODEL_CARD.md`, beside the bundle's own `metadata.json`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from interlock.kernel.errors import BundleFormatError, InputError
from interlock.kernel.outcome import from_plain, to_plain

SETTINGS = "detector.json"
TOKENIZER = "tokenizer.json"
VECTORS = "vectors.json"
CARD = "MODEL_CARD.md"
SETTINGS_SCHEMA = 1
VECTORS_SCHEMA = 1

ENVIRONMENTS = ("production", "staging", "development")

Floats = npt.NDArray[np.float32]


class WindowSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a text is cut: see `interlock.detect.windows`.

    tokens      most tokens of a window, the two special ones among them
    whole       a text of at most so many characters is one window
    least       a window takes sentences until it has so many characters
    line        the same at the end of a line
    characters  most characters of a window
    extra       most windows that readings beside the folded one may add
    most        most windows of a text
    """

    tokens: int = 336
    whole: int = 320
    least: int = 240
    line: int = 200
    characters: int = 420
    extra: int = 16
    most: int = 256


class NgramSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What n-grams are hashed: see `interlock.detect.ngrams`.

    buckets    rows of the embedding, row 0 being the padding
    shortest, longest
               characters of an n-gram
    words      words of a word n-gram, 0 for none
    most       most ids of a window
    """

    buckets: int = 1 << 18
    shortest: int = 3
    longest: int = 5
    words: int = 2
    most: int = 2048


DEFAULT_WINDOWS = WindowSettings()
DEFAULT_NGRAMS = NgramSettings()


class RuleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the graph sees of rules and disguises: see `interlock.detect.features`.

    pack      digest of the rule pack that the weights were fitted to
    features  their names, in the order of the graph's input `rules`
    """

    pack: str
    features: tuple[str, ...]


class FuseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How windows' logits become a text's score: see `interlock.detect.fuse`.

    temperature  of the soft maximum over windows, in logits; 0 for the maximum
    windows      taken off a logit for each factor e of windows
    counted      windows that count for that, at most
    scale, shift of the calibrated logit
    """

    temperature: float = 0.0
    windows: float = 0.0
    counted: int = 8
    scale: float = 1.0
    shift: float = 0.0


class Bands(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From which score on a text is in a band; below `low` it is in none."""

    high: float = 0.80
    medium: float = 0.65
    low: float = 0.50

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.medium <= self.high <= 1:
            raise InputError(
                f"bands: low is {self.low}, medium {self.medium}, high {self.high}; "
                "they must rise within 0 and 1"
            )


class AnomalySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a text is unlike everything in the training set: see `interlock.detect.anomaly`.

    threshold  distance (1 - cosine) to the nearest vector of either class, above which it is
    rate       share of held-out texts that were above it
    texts      how many texts those were
    """

    threshold: float
    rate: float
    texts: int

    def __post_init__(self) -> None:
        if not (0 <= self.threshold <= 2 and 0 <= self.rate <= 1):
            raise InputError(
                f"anomaly: threshold is {self.threshold} and rate {self.rate}; "
                "they must lie in 0 … 2 and 0 … 1"
            )


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A source of training texts: its name and licence, and how many of each class it gave."""

    name: str
    licence: str
    attacks: int
    harmless: int


class Fidelity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How near the bundle's embeddings must be to its stored ones, as cosines."""

    mean: float = 0.99
    minimum: float = 0.96

    def __post_init__(self) -> None:
        # A bundle may ask for more than the gate does, not for less.
        if not (0.99 <= self.mean <= 1 and 0.96 <= self.minimum <= 1):
            raise InputError(
                f"fidelity: mean is {self.mean} and minimum {self.minimum}; "
                "they must lie in 0.99 … 1 and 0.96 … 1"
            )


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `detector.json`.

    name, version  of the detector
    families       in the order of the graph's output `families`
    thresholds     environment -> score from which a text counts as an attack
    training       sources of the training set
    """

    name: str
    version: str
    families: tuple[str, ...]
    thresholds: dict[str, float]
    rules: RuleSettings
    bands: Bands = Bands()
    windows: WindowSettings = WindowSettings()
    ngrams: NgramSettings = NgramSettings()
    fuse: FuseSettings = FuseSettings()
    anomaly: AnomalySettings | None = None
    fidelity: Fidelity = Fidelity()
    training: tuple[Source, ...] = ()
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        if not self.families:
            raise InputError("families is empty")
        missing = [name for name in ENVIRONMENTS if name not in self.thresholds]
        if missing:
            raise InputError(f"thresholds has no {missing[0]!r}")
        for name, value in self.thresholds.items():
            if not 0 < value < 1:
                raise InputError(f"thresholds: {name} is {value}; it must lie between 0 and 1")

    def encode(self) -> bytes:
        """Indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


class Vectors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `vectors.json`: what the fidelity gate and the anomaly flag compare with.

    texts             texts of the fidelity gate, each of one window
    embeddings        (n, d) float32, what the encoder in float32 makes of them, of length 1
    attack, harmless  (k, d) float32, vectors that stand for each class's training windows
    """

    texts: tuple[str, ...]
    embeddings: Floats
    attack: Floats
    harmless: Floats
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        width = self.embeddings.shape[1:]
        for name in ("embeddings", "attack", "harmless"):
            array = getattr(self, name)
            if array.ndim != 2 or array.dtype != np.float32 or array.shape[1:] != width:
                raise InputError(f"{name} has dtype {array.dtype} and shape {array.shape}")
        if len(self.texts) != len(self.embeddings):
            raise InputError(f"{len(self.texts)} texts and {len(self.embeddings)} embeddings")

    def encode(self) -> bytes:
        """JSON; arrays keep their bits."""
        return msgspec.json.encode(self, enc_hook=to_plain)


def parse_settings(data: bytes) -> Settings:
    """Read `detector.json`; raises BundleFormatError naming what is wrong."""
    _check_schema(SETTINGS, data, SETTINGS_SCHEMA)
    found: Settings = _parse(SETTINGS, data, _SETTINGS)
    return found


def parse_vectors(data: bytes) -> Vectors:
    """Read `vectors.json`, arrays read-only; raises BundleFormatError naming what is wrong."""
    _check_schema(VECTORS, data, VECTORS_SCHEMA)
    found: Vectors = _parse(VECTORS, data, _VECTORS)
    return found


class _Head(msgspec.Struct):
    schema: Any = None


def _check_schema(name: str, data: bytes, newest: int) -> None:
    try:
        found = msgspec.json.decode(data, type=_Head).schema
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleFormatError(f"{name}: {error}") from None
    if found != newest:
        raise BundleFormatError(
            f"{name} has schema {found!r}, this release reads {newest}",
            hint="take a bundle of this release, or the release that wrote the bundle",
        )


def _parse(name: str, data: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    try:
        return decoder.decode(data)
    except (ValueError, RecursionError) as error:
        raise BundleFormatError(f"{name}: {error}") from None


def _array(kind: type, value: Any) -> Any:
    array = from_plain(value)
    if not isinstance(array, np.ndarray):
        raise InputError("expected an array")
    array.flags.writeable = False
    return array


_SETTINGS = msgspec.json.Decoder(Settings)
_VECTORS = msgspec.json.Decoder(Vectors, dec_hook=_array)
