"""The detector: a text in, a `Detection` out.

It raises for misuse only. Whatever else goes wrong is an answer that the policy decides about,
never a clean one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable
from time import perf_counter
from typing import Any

from interlock.detect.assess import Assessor, Thresholds
from interlock.detect.calibration import Calibration, load_calibration
from interlock.detect.config import DetectorConfig, check_threshold
from interlock.detect.conversation import Conversation
from interlock.detect.digesting import Digester
from interlock.detect.embedder import BundleEmbedder, Embedder
from interlock.detect.model import DetectorModel, load_model
from interlock.detect.policy import Policy, load_policy
from interlock.detect.results import Detection, L2Prediction, L2Result, ScanResult
from interlock.detect.rules import Place, RulePack, load_pack
from interlock.detect.stream import Stream
from interlock.kernel.errors import ConfigError, InputError

_log = logging.getLogger("interlock.detect")

PLACES = tuple(place.value for place in Place)


class _Bounded:
    """A number of a detector that may be set: one that is out of range would judge nothing."""

    def __init__(self, default: float, most: float = 1.0) -> None:
        self._default = default
        self._most = most

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, detector: Detector | None, owner: type | None = None) -> float:
        if detector is None:
            return self._default
        value: float = vars(detector).get(self._name, self._default)
        return value

    def __set__(self, detector: Detector, value: float) -> None:
        check_threshold(self._name, value, self._most)
        vars(detector)[self._name] = float(value)


_FIELDS = frozenset({"model", "embedder", "environment", "anomaly_enabled"})


class Detector:
    """Judges texts. Safe across threads.

    confidence_threshold  from which score a text counts as an attack
    HIGH_CONFIDENCE_THRESHOLD, MEDIUM_CONFIDENCE_THRESHOLD, LOW_CONFIDENCE_THRESHOLD
                          from which score it is in a band
    ANOMALY_THRESHOLD     from which distance (1 - cosine) a text is an anomaly
    embedder              `embedder.encode(text)` gives the encoder's vector; None for a stub
    model                 the bundle that judges, None without one

    The five numbers may be set; they then hold for the texts that follow. One that is out of range
    raises ConfigError.
    """

    confidence_threshold = _Bounded(0.50)
    HIGH_CONFIDENCE_THRESHOLD = _Bounded(0.80)
    MEDIUM_CONFIDENCE_THRESHOLD = _Bounded(0.65)
    LOW_CONFIDENCE_THRESHOLD = _Bounded(0.50)
    ANOMALY_THRESHOLD = _Bounded(0.75, most=2.0)

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
        if model is not None:
            _check_families(policy, (*model.settings.families, *(rules.families if rules else ())))
        self._assessor = Assessor(
            model,
            rules,
            policy,
            "no_model" if embedder is None else "no_classifier",
            why,
            calibration,
        )
        self._kind = kind
        self._digest = Digester()
        self._cache: OrderedDict[tuple[Any, ...], Detection] = OrderedDict()
        self._cache_size = cache
        self._cache_lock = threading.Lock()
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

    def __setattr__(self, name: str, value: object) -> None:
        """Raise ConfigError for a name that a detector does not have: it would change nothing."""
        if not (name.startswith("_") or name in _FIELDS or hasattr(type(self), name)):
            raise ConfigError(
                f"a detector has no {name}",
                hint="confidence_threshold, HIGH_, MEDIUM_ and LOW_CONFIDENCE_THRESHOLD and "
                "ANOMALY_THRESHOLD may be set",
            )
        super().__setattr__(name, value)

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
        texts = self._several(texts, place)
        return [self._answer(text, place, None) for text in texts]

    async def ascan(self, text: str, place: str = "auto") -> Detection:
        """`scan` in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.scan, text, place)

    async def ascan_many(self, texts: Iterable[str], place: str = "auto") -> list[Detection]:
        """`scan_many` in a thread, text by text: a task that is cancelled starts no further one."""
        texts = self._several(texts, place)
        return [await asyncio.to_thread(self._answer, text, place, None) for text in texts]

    def _several(self, texts: Iterable[str], place: str) -> list[str]:
        # A text is iterable too: its characters one by one would look harmless.
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise InputError(f"texts is a {type(texts).__name__}; it must be several texts")
        found = list(texts)
        for text in found:
            self._check(text, place)
        return found

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
        return self._assessor.first(text, place, self._digest(text))

    def analyze(self, text: str, l1_results: object = None) -> L2Result:
        """The second layer's answer, with the first one's taken into account.

        l1_results  what `scan_rules` gave for the same text; it is made anew where it is missing,
                    of another text or by other rules

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
        rules = self._assessor.rules
        own = "" if rules is None else rules.digest
        if first is not None and (first.digest, first.rules) != (self._digest(text), own):
            first = None
        return self._second(self._answer(text, place, first))

    @property
    def model_info(self) -> dict[str, Any]:
        """What judges: plain JSON with `model_id`, digests, families and thresholds."""
        model, parts = self.model, self._assessor
        rules = parts.rules
        found: dict[str, Any] = {
            "model_id": f"interlock-{self._kind}",
            "kind": self._kind,
            "judges": model is not None,
            "rules": None if rules is None else rules.digest,
            "policy": parts.policy.digest,
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
                "fitted_to_these_rules": rules is not None and rules.digest == settings.rules.pack,
                "anomaly_rate": None if settings.anomaly is None else settings.anomaly.rate,
                "calibrated": parts.calibration is not None,
            }
        if parts.why:
            found["why"] = parts.why
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
        thresholds = Thresholds(
            self.confidence_threshold,
            self.HIGH_CONFIDENCE_THRESHOLD,
            self.MEDIUM_CONFIDENCE_THRESHOLD,
            self.LOW_CONFIDENCE_THRESHOLD,
            self.ANOMALY_THRESHOLD,
        )
        key = (digest, place, thresholds, self.anomaly_enabled)
        if self._cache_size:
            with self._cache_lock:
                known = self._cache.get(key)
                if known is not None:
                    self._cache.move_to_end(key)
                    return known
        found = self._assessor.assess(
            text, place, digest, thresholds, first=first, anomaly=self.anomaly_enabled
        )
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


def _check_families(policy: Policy, known: tuple[str, ...]) -> None:
    for number, rule in enumerate(policy.rules, 1):
        unknown = [family for family in rule.family or () if family not in known]
        if unknown:
            raise ConfigError(
                f"policy, rule {number}: there is no family {unknown[0]!r}; the detector knows "
                f"{', '.join(dict.fromkeys(known))}"
            )


def _is_empty(value: Any) -> bool:
    try:
        return len(value) == 0
    except TypeError:
        return False
