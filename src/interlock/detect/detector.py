"""The detector: a text in, a `Detection` out.

It raises for misuse only. Whatever else goes wrong is an answer that the policy decides about,
never a clean one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from interlock.detect.anomaly import distance
from interlock.detect.calibration import Calibration, load_calibration
from interlock.detect.conversation import Conversation
from interlock.detect.digesting import Digester
from interlock.detect.embedder import BundleEmbedder, Embedder
from interlock.detect.fuse import fused_logit, probability, worst_windows
from interlock.detect.inputs import Reading, features_of, readings
from interlock.detect.model import DetectorModel, Judged, load_model
from interlock.detect.normalise import normalise
from interlock.detect.place import document_weight
from interlock.detect.policy import Band, Policy, load_policy
from interlock.detect.results import (
    Detection,
    L2Prediction,
    L2Result,
    ScanResult,
    Span,
    WindowScore,
    worst_severity,
)
from interlock.detect.rules import Hit, Place, RulePack, load_pack
from interlock.detect.settings import ENVIRONMENTS
from interlock.detect.stream import Stream
from interlock.kernel.errors import ConfigError, InputError, InterlockError

_log = logging.getLogger("interlock.detect")

PLACES = tuple(place.value for place in Place)
WORST = 3


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """How a detector is opened. It pickles, so that a worker process can open its own.

    bundle       the bundle's directory; None for the shipped one
    expected_digest, require_signature
                 what the bundle must be, as `interlock.bundle.load` takes them
    tokenizer    another tokenizer than the bundle's; the fidelity gate says whether it fits
    environment  whose threshold counts: `production`, `staging` or `development`
    threshold    instead of the environment's
    calibration  a file of `interlock detect calibrate`, made for this bundle
    policy       a policy file; None for the shipped one
    rules        a rule pack; None for the shipped one
    anomaly      whether to flag texts that are unlike all training texts
    cache        answers kept for texts that come again, 0 for none
    threads      of ONNX Runtime
    remember     keep the verdicts of probe and fidelity gate in the user's cache directory
    """

    bundle: Path | None = None
    expected_digest: str | None = None
    require_signature: Path | None = None
    tokenizer: str | Path | None = None
    environment: str = "production"
    threshold: float | None = None
    calibration: Path | None = None
    policy: Path | None = None
    rules: Path | None = None
    anomaly: bool = True
    cache: int = 0
    threads: int = 1
    remember: bool = True

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        if self.environment not in ENVIRONMENTS:
            raise ConfigError(
                f"environment is {self.environment!r}; it must be one of {', '.join(ENVIRONMENTS)}"
            )
        if self.threshold is not None:
            check_threshold("threshold", self.threshold)
        if self.cache < 0 or self.threads < 1:
            raise ConfigError(
                f"cache is {self.cache} and threads {self.threads}; cache must be 0 or more, "
                "threads 1 or more"
            )


class Detector:
    """Judges texts. Safe across threads.

    confidence_threshold  from which score a text counts as an attack
    HIGH_CONFIDENCE_THRESHOLD, MEDIUM_CONFIDENCE_THRESHOLD, LOW_CONFIDENCE_THRESHOLD
                          from which score it is in a band
    ANOMALY_THRESHOLD     from which distance (1 - cosine) a text is an anomaly
    embedder              `embedder.encode(text)` gives the encoder's vector; None for a stub
    model                 the bundle that judges, None without one

    The four may be set; they then hold for the texts that follow.
    """

    HIGH_CONFIDENCE_THRESHOLD = 0.80
    MEDIUM_CONFIDENCE_THRESHOLD = 0.65
    LOW_CONFIDENCE_THRESHOLD = 0.50
    ANOMALY_THRESHOLD = 0.75

    def __init__(
        self,
        model: DetectorModel | None,
        *,
        rules: RulePack | None,
        policy: Policy,
        embedder: Embedder | None = None,
        environment: str = "production",
        threshold: float | None = None,
        calibration: Calibration | None = None,
        anomaly: bool = True,
        cache: int = 0,
        why: str = "",
        kind: str = "bundle",
        info: dict[str, Any] | None = None,
    ) -> None:
        """Put together what `Detector.open` opens.

        why   what kept the model from being there, for the reasons of every answer
        info  further fields of `model_info`
        """
        self.model = model
        self._rules = rules
        self._policy = policy
        self._why = why
        self._kind = kind
        self._digest = Digester()
        self._cache: OrderedDict[tuple[Any, ...], Detection] = OrderedDict()
        self._cache_size = cache
        self._cache_lock = threading.Lock()
        self._calibration = calibration
        self._info = dict(info or {})
        self.embedder = embedder
        self.environment = environment
        self.anomaly_enabled = anomaly
        chosen = self.LOW_CONFIDENCE_THRESHOLD
        if model is not None:
            settings = model.settings
            bands = settings.bands if calibration is None else calibration.bands
            self.HIGH_CONFIDENCE_THRESHOLD = bands.high
            self.MEDIUM_CONFIDENCE_THRESHOLD = bands.medium
            self.LOW_CONFIDENCE_THRESHOLD = bands.low
            if settings.anomaly is not None:
                self.ANOMALY_THRESHOLD = settings.anomaly.threshold
            of = settings.thresholds if calibration is None else calibration.thresholds
            chosen = of[environment]
            if rules is not None and rules.digest != settings.rules.pack:
                _log.warning(
                    "the rule pack differs from the one that bundle %s was fitted to", model.digest
                )
        self.confidence_threshold = chosen if threshold is None else threshold
        check_threshold("threshold", self.confidence_threshold)

    @classmethod
    def open(cls, config: DetectorConfig | None = None, **fields: Any) -> Detector:
        """The detector that `config`, or its fields given by name, describes.

        Raises BundleError, ConfigError, EngineUnavailableError and MissingExtraError.
        """
        if config is None:
            config = DetectorConfig(**fields)
        elif fields:
            raise ConfigError("give a configuration or its fields, not both")
        started = perf_counter()
        rules = load_pack(config.rules)
        model = load_model(
            config.bundle,
            expected_digest=config.expected_digest,
            require_signature=config.require_signature,
            threads=config.threads,
            remember=config.remember,
            tokenizer=config.tokenizer,
        )
        calibration = None
        if config.calibration is not None:
            calibration = load_calibration(config.calibration, bundle=model.digest)
        detector = cls(
            model,
            rules=rules,
            policy=load_policy(config.policy),
            embedder=BundleEmbedder(model),
            environment=config.environment,
            threshold=config.threshold,
            calibration=calibration,
            anomaly=config.anomaly,
            cache=config.cache,
        )
        detector.set_info(init_ms=(perf_counter() - started) * 1e3)
        _log.info(
            "detector %s ready in %.0f ms, threshold %.3f (%s)",
            model.digest,
            detector.model_info["init_ms"],
            detector.confidence_threshold,
            config.environment,
        )
        return detector

    def scan(self, text: str, place: str = "auto") -> Detection:
        """The answer for one text.

        place  `user` for what a user typed, `document` for what a tool or a file brought, `auto`

        Raises InputError for what is no text and for another place, and nothing else.
        """
        self._check(text, place)
        return self._answer(text, place, None)

    def scan_many(self, texts: Iterable[str], place: str = "auto") -> list[Detection]:
        """The answers for several texts, each as `scan` gives it; all are checked first."""
        texts = list(texts)
        for text in texts:
            self._check(text, place)
        return [self._answer(text, place, None) for text in texts]

    async def ascan(self, text: str, place: str = "auto") -> Detection:
        """`scan` in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.scan, text, place)

    async def ascan_many(self, texts: Iterable[str], place: str = "auto") -> list[Detection]:
        """`scan_many` in a thread."""
        return await asyncio.to_thread(self.scan_many, texts, place)

    def stream(self, place: str = "auto", **limits: int) -> Stream:
        """Takes a text that arrives in pieces; `limits` as `Stream` takes them."""
        return Stream(self, place, **limits)

    def conversation(self, **limits: int) -> Conversation:
        """Takes turns that are judged together; `limits` as `Conversation` takes them."""
        return Conversation(self, **limits)

    def scan_rules(self, text: str, place: str = "auto") -> ScanResult:
        """The first layer alone: disguises off, then rules.

        Raises InputError as `scan` does, and MissingExtraError without the extra `detect`.
        """
        self._check(text, place)
        return self._first(text, place)

    def analyze(self, text: str, l1_results: object = None) -> L2Result:
        """The second layer's answer, with the first one's taken into account.

        l1_results  what `scan_rules` gave for the same text; it is made anew where it is missing
                    or of another text

        Raises InputError for what is no text, and for first-layer results of another kind.
        """
        first = None
        place = "auto"
        if isinstance(l1_results, ScanResult):
            place = l1_results.place
            first = l1_results
        elif l1_results is not None and not _is_empty(l1_results):
            raise InputError(
                f"l1_results is a {type(l1_results).__name__}; it must be a ScanResult or None",
                hint="`detector.scan_rules(text)` makes one",
            )
        self._check(text, place)
        if first is not None and first.digest != self._digest(text):
            first = None
        return self._second(self._answer(text, place, first))

    @property
    def model_info(self) -> dict[str, Any]:
        """What judges: plain JSON with `model_id`, digests, families and thresholds."""
        model = self.model
        found: dict[str, Any] = {
            "model_id": f"interlock-{self._kind}",
            "kind": self._kind,
            "judges": model is not None,
            "rules": None if self._rules is None else self._rules.digest,
            "policy": self._policy.digest,
            "environment": self.environment,
            "confidence_threshold": self.confidence_threshold,
            "bands": {
                "high": self.HIGH_CONFIDENCE_THRESHOLD,
                "medium": self.MEDIUM_CONFIDENCE_THRESHOLD,
                "low": self.LOW_CONFIDENCE_THRESHOLD,
            },
            "anomaly_threshold": self.ANOMALY_THRESHOLD,
        }
        if model is not None:
            settings = model.settings
            found |= {
                "model_id": f"{settings.name}-{settings.version}",
                "bundle": model.digest,
                "families": list(settings.families),
                "embedding_dim": int(model.known.shape[1]),
                "fitted_to_these_rules": self._rules is not None
                and self._rules.digest == settings.rules.pack,
                "anomaly_rate": None if settings.anomaly is None else settings.anomaly.rate,
                "calibrated": self._calibration is not None,
            }
        if self._why:
            found["why"] = self._why
        return found | self._info

    def set_info(self, **fields: Any) -> None:
        """Add fields to `model_info`, such as how long opening took."""
        self._info |= fields

    def _check(self, text: object, place: str) -> None:
        if not isinstance(text, str):
            raise InputError(f"text is a {type(text).__name__}; it must be a str")
        if place not in PLACES:
            raise InputError(f"place is {place!r}; it must be one of {', '.join(PLACES)}")

    def _answer(self, text: str, place: str, first: ScanResult | None) -> Detection:
        digest = self._digest(text)
        key = (
            digest,
            place,
            self.confidence_threshold,
            self.HIGH_CONFIDENCE_THRESHOLD,
            self.MEDIUM_CONFIDENCE_THRESHOLD,
            self.LOW_CONFIDENCE_THRESHOLD,
            self.ANOMALY_THRESHOLD,
        )
        if self._cache_size:
            with self._cache_lock:
                known = self._cache.get(key)
                if known is not None:
                    self._cache.move_to_end(key)
                    return known
        started = perf_counter()
        try:
            found = self._judge(text, place, digest, first, started)
        # Whatever breaks here, a text that was not judged must not pass for a clean one.
        except (Exception, MemoryError) as error:  # noqa: BLE001
            found = self._broken(text, place, digest, error, started)
        if self._cache_size and "error" not in found.faults:
            with self._cache_lock:
                self._cache[key] = found
                while len(self._cache) > self._cache_size:
                    self._cache.popitem(last=False)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug(
                "text %s (%d characters, %s): %s, score %s, %.2f ms",
                digest,
                len(text),
                place,
                found.action.value,
                found.score,
                found.timings["total"],
            )
        return found

    def _first(self, text: str, place: str) -> ScanResult:
        started = perf_counter()
        normalised = normalise(text)
        hits = () if self._rules is None else self._rules.scan(normalised, Place(place))
        return ScanResult(
            self._digest(text),
            hits,
            place,
            normalised.cut,
            (perf_counter() - started) * 1e3,
            normalised,
        )

    def _judge(
        self, text: str, place: str, digest: str, first: ScanResult | None, started: float
    ) -> Detection:
        timings: dict[str, float] = {}
        at = perf_counter()
        normalised = normalise(text) if first is None else first.normalised
        at = _lap(timings, "normalise", at)
        if first is not None:
            hits = first.hits
        else:
            hits = () if self._rules is None else self._rules.scan(normalised, Place(place))
        at = _lap(timings, "rules", at)
        faults: list[str] = []
        why: list[str] = []
        if normalised.cut is not None:
            faults.append("cut")
            why.append(f"not all of it was read: {normalised.cut}")
        model = self.model
        if model is None:
            fault = "no_model" if self.embedder is None else "no_classifier"
            return self._unjudged(
                text, place, digest, hits, [fault, *faults], [self._why, *why], timings, started
            )
        found, cut = readings(normalised, model.settings.windows, hits)
        if cut is not None:
            faults.append("cut")
            why.append(f"not all of it was read: {cut}")
        if not found and text and not text.isspace():
            faults.append("cut")
            why.append("nothing legible is left of it")
        faults = list(dict.fromkeys(faults))
        features = features_of(found, hits, model.settings.rules.features)
        document = document_weight(text, Place(place).value)
        at = _lap(timings, "windows", at)
        if not found:
            return self._empty(text, place, digest, hits, faults, why, timings, started)
        judged = model.judge([reading.text for reading in found], features, document)
        at = _lap(timings, "model", at)
        if not np.isfinite(judged.logit).all():
            raise InputError("the model gave a logit that is not finite")
        logit = fused_logit(judged.logit, model.settings.fuse)
        if self._calibration is not None:
            logit = self._calibration.apply(logit)
        score = probability(logit)
        worst = worst_windows(judged.logit, WORST)
        far = distance(judged.embedding, model.known) if self.anomaly_enabled else None
        anomaly = far is not None and far > self.ANOMALY_THRESHOLD
        if anomaly:
            faults.append("anomaly")
        attack = score >= self.confidence_threshold
        band = self._band(score)
        top = worst[0]
        families = dict(zip(model.settings.families, map(float, judged.families[top]), strict=True))
        family = None
        if attack or band is not Band.NONE:
            family = max(families, key=families.__getitem__)
        action = self._policy.decide(
            place=place,
            band=band,
            family=family,
            severity=worst_severity(hits),
            attack=attack,
            faults=faults,
        )
        scores = tuple(_window(found[i], judged, i, model.settings.families) for i in worst)
        relation = "reaches" if attack else "is below"
        reasons = [f"score {score:.3f} {relation} the threshold {self.confidence_threshold:.3f}"]
        reasons += [f"rule {hit.rule} ({hit.severity.value})" for hit in _weightiest(hits)]
        reasons += why
        if anomaly:
            reasons.append(f"unlike all training texts: distance {far:.3f}")
        _lap(timings, "fuse", at)
        timings["total"] = (perf_counter() - started) * 1e3
        return Detection(
            score=score,
            threshold=self.confidence_threshold,
            attack=attack,
            band=band,
            action=action,
            reasons=tuple(reasons),
            place=place,
            digest=digest,
            characters=len(text),
            family=family,
            families=families,
            spans=_spans(hits, scores, attack),
            windows=scores,
            signals=_signals(hits, scores[0], anomaly),
            faults=tuple(faults),
            anomaly=anomaly,
            distance=far,
            read=len(found),
            timings=timings,
            bundle=model.digest,
            rules="" if self._rules is None else self._rules.digest,
            policy=self._policy.digest,
        )

    def _empty(
        self,
        text: str,
        place: str,
        digest: str,
        hits: tuple[Hit, ...],
        faults: list[str],
        why: list[str],
        timings: dict[str, float],
        started: float,
    ) -> Detection:
        """A text without anything to read: no attack, unless there was something illegible."""
        assert self.model is not None
        timings["total"] = (perf_counter() - started) * 1e3
        return Detection(
            score=0.0,
            threshold=self.confidence_threshold,
            attack=False,
            band=Band.NONE,
            action=self._policy.decide(place=place, severity=worst_severity(hits), faults=faults),
            reasons=tuple(why) or ("the text is empty",),
            place=place,
            digest=digest,
            characters=len(text),
            spans=_spans(hits, (), False),
            faults=tuple(faults),
            timings=timings,
            bundle=self.model.digest,
            rules="" if self._rules is None else self._rules.digest,
            policy=self._policy.digest,
        )

    def _unjudged(
        self,
        text: str,
        place: str,
        digest: str,
        hits: tuple[Hit, ...],
        faults: Sequence[str],
        why: Sequence[str],
        timings: dict[str, float],
        started: float,
    ) -> Detection:
        worst = _weightiest(hits)
        family = worst[0].family if worst else None
        timings["total"] = (perf_counter() - started) * 1e3
        return Detection(
            score=None,
            threshold=self.confidence_threshold,
            attack=None,
            band=Band.NONE,
            action=self._policy.decide(
                place=place, family=family, severity=worst_severity(hits), faults=faults
            ),
            reasons=(
                *filter(None, why),
                *(f"rule {hit.rule} ({hit.severity.value})" for hit in worst),
            ),
            place=place,
            digest=digest,
            characters=len(text),
            family=family,
            spans=_spans(hits, (), False),
            signals=("rules",) if hits else (),
            faults=tuple(faults),
            timings=timings,
            bundle=None if self.model is None else self.model.digest,
            rules="" if self._rules is None else self._rules.digest,
            policy=self._policy.digest,
        )

    def _broken(
        self, text: str, place: str, digest: str, error: BaseException, started: float
    ) -> Detection:
        # The message of a foreign error may quote the text.
        kind = type(error).__name__
        if isinstance(error, MemoryError):
            told = "memory ran out"
        elif isinstance(error, InterlockError):
            told = f"{error.code}: {error.message}"
        else:
            told = f"an internal error ({kind})"
        _log.error("text %s was not judged: %s", digest, told)
        return self._unjudged(text, place, digest, (), ["error"], [told], {}, started)

    def _second(self, found: Detection) -> L2Result:
        predictions: list[L2Prediction] = []
        if found.attack:
            likely = sorted(found.families.items(), key=lambda item: -item[1])
            predictions = [
                L2Prediction(family, value, "; ".join(found.reasons))
                for rank, (family, value) in enumerate(likely)
                if rank == 0 or value >= self.LOW_CONFIDENCE_THRESHOLD
            ]
        return L2Result(
            tuple(predictions),
            found.score or 0.0,
            found.timings["total"],
            str(self.model_info["model_id"]),
            found,
        )

    def _band(self, score: float) -> Band:
        if score >= self.HIGH_CONFIDENCE_THRESHOLD:
            return Band.HIGH
        if score >= self.MEDIUM_CONFIDENCE_THRESHOLD:
            return Band.MEDIUM
        return Band.LOW if score >= self.LOW_CONFIDENCE_THRESHOLD else Band.NONE


def check_threshold(name: str, value: float) -> None:
    """Raise ConfigError unless `value` lies in 0 … 1."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is {value}; it must lie in 0 … 1")


def _lap(timings: dict[str, float], stage: str, since: float) -> float:
    now = perf_counter()
    timings[stage] = (now - since) * 1e3
    return now


def _is_empty(value: Any) -> bool:
    try:
        return len(value) == 0
    except TypeError:
        return False


def _weightiest(hits: tuple[Hit, ...], most: int = 3) -> list[Hit]:
    """One hit a rule, the severest rules first."""
    order = {"high": 0, "medium": 1, "low": 2}
    once = {hit.rule: hit for hit in hits}
    return sorted(once.values(), key=lambda hit: order[hit.severity.value])[:most]


def _window(piece: Reading, judged: Judged, at: int, families: tuple[str, ...]) -> WindowScore:
    return WindowScore(
        piece.start,
        piece.end,
        float(judged.score[at]),
        float(judged.logit[at]),
        float(judged.encoder[at]),
        float(judged.ngrams[at]),
        float(judged.rules[at]),
        families[int(judged.families[at].argmax())],
        piece.via,
    )


def _spans(hits: tuple[Hit, ...], worst: tuple[WindowScore, ...], attack: bool) -> tuple[Span, ...]:
    """The hits, and of an attack the windows that look like one."""
    found = [
        Span(hit.start, hit.end, "rule", hit.rule, hit.family, hit.severity, hit.via)
        for hit in hits
    ]
    if attack:
        found += [
            Span(w.start, w.end, "window", w.family, w.family, w.score, w.via)
            for rank, w in enumerate(worst)
            if rank == 0 or w.logit > 0
        ]
    return tuple(sorted(found, key=lambda span: (span.start, span.end)))


def _signals(hits: tuple[Hit, ...], worst: WindowScore, anomaly: bool) -> tuple[str, ...]:
    fired = {
        "rules": bool(hits),
        "ngrams": worst.ngrams > 0,
        "encoder": worst.encoder > 0,
        "disguise": bool(worst.via) or any(hit.via for hit in hits),
        "anomaly": anomaly,
    }
    return tuple(name for name, did in fired.items() if did)
