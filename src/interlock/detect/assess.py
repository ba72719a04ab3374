"""From a text to its answer: disguises off, rules, windows, graph, fusion, policy."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from interlock.detect.anomaly import distance
from interlock.detect.calibration import Calibration
from interlock.detect.fuse import fused_logit, probability, worst_windows
from interlock.detect.inputs import features_of, readings, windows_beside
from interlock.detect.model import DetectorModel
from interlock.detect.narrow import narrowed
from interlock.detect.normalise import normalise
from interlock.detect.place import document_weight
from interlock.detect.policy import Band, Policy
from interlock.detect.results import Detection, ScanResult, worst_severity
from interlock.detect.rules import Hit, Place, RulePack
from interlock.detect.standing_out import (
    rule_reasons,
    signals_of,
    spans_of,
    weightiest,
    window_scores,
)
from interlock.kernel.errors import EngineError, InterlockError, MissingExtraError

_log = logging.getLogger("interlock.detect")

WORST = 3


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a score and a distance are compared with: see `Detector`."""

    confidence: float
    high: float
    medium: float
    low: float
    anomaly: float

    def band(self, score: float) -> Band:
        """Where `score` lies."""
        if score >= self.high:
            return Band.HIGH
        if score >= self.medium:
            return Band.MEDIUM
        return Band.LOW if score >= self.low else Band.NONE


@dataclass(frozen=True, slots=True)
class Assessor:
    """What judges texts, whatever the thresholds are. Safe across threads.

    model     the bundle, None without one
    rules     None without the extra `detect`
    unjudged  the policy's name for the lack of a model, and `why` in words
    """

    model: DetectorModel | None
    rules: RulePack | None
    policy: Policy
    unjudged: str = "no_model"
    why: str = ""
    calibration: Calibration | None = None

    def assess(
        self,
        text: str,
        place: str,
        digest: str,
        thresholds: Thresholds,
        *,
        first: ScanResult | None = None,
        anomaly: bool = True,
    ) -> Detection:
        """The answer for one text; raises nothing.

        first    the first layer's answer, if it is there already
        anomaly  whether to measure how far the text is from the training set
        """
        started = perf_counter()
        try:
            return self._judge(text, place, digest, thresholds, first, anomaly, started)
        # Whatever breaks here, a text that was not judged must not pass for a clean one.
        except (Exception, MemoryError) as error:  # noqa: BLE001
            # What the broken call still holds may be the memory that its answer needs.
            traceback.clear_frames(error.__traceback__)
            return self._broken(text, place, digest, thresholds, error, started)

    def first(self, text: str, place: str, digest: str) -> ScanResult:
        """The first layer alone; raises MissingExtraError where there are no rules."""
        if self.rules is None:
            # Without a hit it would look as if rules had been tried.
            raise MissingExtraError("detect", "matching rules")
        started = perf_counter()
        normalised = normalise(text)
        hits = self.rules.scan(normalised, Place(place))
        spent = (perf_counter() - started) * 1e3
        return ScanResult(
            digest, hits, place, normalised.cut, spent, normalised, rules=self.rules.digest
        )

    def _judge(
        self,
        text: str,
        place: str,
        digest: str,
        thresholds: Thresholds,
        first: ScanResult | None,
        measure: bool,
        started: float,
    ) -> Detection:
        timings: dict[str, float] = {}
        at = perf_counter()
        normalised = normalise(text) if first is None else first.normalised
        at = _lap(timings, "normalise", at)
        if first is not None:
            hits = first.hits
        else:
            hits = () if self.rules is None else self.rules.scan(normalised, Place(place))
        at = _lap(timings, "rules", at)
        faults: list[str] = []
        why: list[str] = []
        if normalised.cut is not None:
            faults.append("cut")
            why.append(f"not all of it was read: {normalised.cut}")
        common = self._common(text, place, digest, thresholds)
        model = self.model
        if model is None:
            faults.insert(0, self.unjudged)
            return self._unjudged(common, hits, faults, [self.why, *why], timings, started)
        found, cut = readings(normalised, model.settings.windows, hits)
        if cut is not None:
            faults.append("cut")
            why.append(f"not all of it was read: {cut}")
        if not found:
            if text and not text.isspace():
                faults.append("cut")
                why.append("nothing legible is left of it")
            return self._empty(common, hits, faults, why, timings, started)
        features = features_of(found, hits, model.settings.rules.features)
        document = document_weight(text, Place(place).value)
        at = _lap(timings, "windows", at)
        judged = model.judge([reading.text for reading in found], features, document)
        at = _lap(timings, "model", at)
        if not np.isfinite(judged.logit).all():
            raise EngineError("the model gave a logit that is not finite")
        own = windows_beside(found, int(judged.logit.argmax()))
        logit = fused_logit(judged.logit, model.settings.fuse, own)
        if self.calibration is not None:
            logit = self.calibration.apply(logit)
        score = probability(logit)
        far = distance(judged.embedding, model.known) if measure else None
        anomaly = far is not None and far > thresholds.anomaly
        if anomaly:
            faults.append("anomaly")
            why.append(f"unlike all training texts: distance {far:.3f}")
        attack = score >= thresholds.confidence
        band = thresholds.band(score)
        worst = worst_windows(judged.logit, WORST)
        windows = window_scores(found, judged, worst, model.settings.families)
        families = dict(
            zip(model.settings.families, map(float, judged.families[worst[0]]), strict=True)
        )
        family = None
        if attack or band is not Band.NONE:
            family = max(families, key=families.__getitem__)
        action = self.policy.decide(
            place=place,
            band=band,
            family=family,
            severity=worst_severity(hits),
            attack=attack,
            faults=faults,
        )
        at = _lap(timings, "fuse", at)
        # Of an attack the worst window is told, and others that look like one.
        told = [w for rank, w in enumerate(windows) if attack and (rank == 0 or w.logit > 0)]
        places = [
            narrowed(model, normalised, found[index], w.logit, hits, document)
            for index, w in zip(worst, told, strict=False)
        ]
        _lap(timings, "spans", at)
        relation = "reaches" if attack else "is below"
        verdict = f"score {score:.3f} {relation} the threshold {thresholds.confidence:.3f}"
        if band is not Band.NONE and not attack:
            # A policy may act on the band, whatever the threshold is.
            verdict += f" and lies in the band {band.value}"
        timings["total"] = (perf_counter() - started) * 1e3
        return Detection(
            **common,
            score=score,
            attack=attack,
            band=band,
            action=action,
            reasons=(verdict, *rule_reasons(hits), *why),
            family=family,
            families=families,
            spans=spans_of(hits, told, places),
            windows=windows,
            signals=signals_of(hits, windows[0], anomaly),
            faults=tuple(dict.fromkeys(faults)),
            anomaly=anomaly,
            distance=far,
            read=len(found),
            timings=timings,
        )

    def _common(self, text: str, place: str, digest: str, thresholds: Thresholds) -> dict[str, Any]:
        """What every answer holds, whatever came of it."""
        return {
            "threshold": thresholds.confidence,
            "place": place,
            "digest": digest,
            "characters": len(text),
            "bundle": None if self.model is None else self.model.digest,
            "rules": "" if self.rules is None else self.rules.digest,
            "policy": self.policy.digest,
        }

    def _empty(
        self,
        common: dict[str, Any],
        hits: tuple[Hit, ...],
        faults: Sequence[str],
        why: Sequence[str],
        timings: dict[str, float],
        started: float,
    ) -> Detection:
        """A text without anything to read: no attack, unless there was something illegible."""
        timings["total"] = (perf_counter() - started) * 1e3
        return Detection(
            **common,
            score=0.0,
            attack=False,
            band=Band.NONE,
            action=self.policy.decide(
                place=common["place"], severity=worst_severity(hits), faults=faults
            ),
            reasons=tuple(why) or ("the text is empty",),
            spans=spans_of(hits),
            faults=tuple(dict.fromkeys(faults)),
            timings=timings,
        )

    def _unjudged(
        self,
        common: dict[str, Any],
        hits: tuple[Hit, ...],
        faults: Sequence[str],
        why: Sequence[str],
        timings: dict[str, float],
        started: float,
    ) -> Detection:
        """A text that no model judged."""
        worst = weightiest(hits)
        family = worst[0].family if worst else None
        timings["total"] = (perf_counter() - started) * 1e3
        return Detection(
            **common,
            score=None,
            attack=None,
            band=Band.NONE,
            action=self.policy.decide(
                place=common["place"],
                family=family,
                severity=worst_severity(hits),
                faults=faults,
            ),
            reasons=(*filter(None, why), *rule_reasons(hits)),
            family=family,
            spans=spans_of(hits),
            signals=("rules",) if hits else (),
            faults=tuple(dict.fromkeys(faults)),
            timings=timings,
        )

    def _broken(
        self,
        text: str,
        place: str,
        digest: str,
        thresholds: Thresholds,
        error: BaseException,
        started: float,
    ) -> Detection:
        if isinstance(error, MemoryError):
            told = "memory ran out"
        elif isinstance(error, InterlockError):
            told = f"{error.code}: {error.message}"
        else:
            # The message of a foreign error may quote the text.
            told = f"an internal error ({type(error).__name__})"
        _log.error("text %s was not judged: %s", digest, told)
        common = self._common(text, place, digest, thresholds)
        return self._unjudged(common, (), ["error"], [told], {}, started)


def _lap(timings: dict[str, float], stage: str, since: float) -> float:
    now = perf_counter()
    timings[stage] = (now - since) * 1e3
    return now
