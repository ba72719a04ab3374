"""A bundle fitted further to a user's own labelled texts, without torch.

The encoder stays as it is. The n-gram weights and the encoder's last layer move from where they
are towards the new texts, as far as these say so; the threshold is chosen anew on texts that the
fit did not see.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from interlock.bundle import Bundle, Metadata, load, pack, signature_of
from interlock.bundle.publish import check_target
from interlock.detect.fuse import fused_logit, probability
from interlock.detect.inputs import windows_beside
from interlock.detect.labelled import Labelled, distinct
from interlock.detect.model import DetectorModel
from interlock.detect.rules import RulePack
from interlock.detect.settings import CARD, SETTINGS, Settings, Source
from interlock.detect.training.bundle import upper_quantile
from interlock.detect.training.corpus import Cut, Text, cut_all
from interlock.detect.training.linear import (
    NgramModel,
    fit_dense,
    fit_ngrams,
    open_labels,
    rows_of,
)
from interlock.kernel.errors import BundleContractError, InputError

Floats = np.ndarray[Any, np.dtype[np.float64]]

FEWEST = 40
"""Texts of each class that an adaptation needs."""

_ROUNDING = 1e-4
"""Between a text's logit in the bundle's graph, in float32, and the one here: shares of it, or of 1
where it is smaller.
"""


@dataclass(frozen=True, slots=True)
class Adapted:
    """What came of it, on the texts that were held out of the fit.

    bundle             as written
    threshold          chosen on harmless held-out texts, as a score
    before, after      recall at the wanted false-positive rate and the area under the ROC curve,
                       with the old weights and the new ones
    attacks, harmless  held-out texts of each class
    rate               the false-positive rate that was wanted
    """

    bundle: Bundle
    threshold: float
    before: dict[str, float]
    after: dict[str, float]
    attacks: int
    harmless: int
    rate: float

    @property
    def coarse(self) -> str:
        """What to say where the harmless texts cannot tell the rate; empty where they can."""
        return _coarse(self.harmless, self.rate)


def adapt(
    rows: Sequence[Labelled],
    bundle: Path,
    output: Path,
    pack_of_rules: RulePack,
    *,
    rate: float = 0.01,
    held_out: float = 0.3,
    seed: int = 0,
    told: Callable[[str, int, int], None] = lambda stage, done, of: None,
) -> Adapted:
    """Fit the bundle at `bundle` further to `rows` and write the result at `output`.

    rate      share of harmless texts that may reach the threshold
    held_out  share of the texts that the threshold is chosen on, drawn by `seed`. A text that
              comes again counts once, and under several labels or places it is on one side
    told      hears how many texts were read

    Raises InputError where a class has fewer than 40 texts that hold something or a rate is out of
    range, ConfigError where `output` is something else than a bundle, before anything is read,
    BundleContractError where the bundle is not one that `make train-detector` wrote, and the
    errors of `interlock.bundle.load`.
    """
    if not 0 < rate < 1:
        raise InputError(f"rate is {rate}; it must lie between 0 and 1")
    if not 0 < held_out < 1:
        raise InputError(f"held_out is {held_out}; it must lie between 0 and 1")
    rows = distinct(rows)
    _check_enough([(row.text, row.attack) for row in rows])
    check_target(output)
    loaded = load(bundle)
    model = DetectorModel(loaded)
    graph = onnx.load_model_from_string(loaded.model)
    weights = _Weights(graph)
    cuts = _cut(rows, model, pack_of_rules)
    # What is white space alone, or invisible, has no windows.
    _check_enough([(item.text.text, bool(item.text.label)) for item in cuts])
    windows = _read(cuts, model, told)
    held = _held(windows.cuts, held_out, seed)
    before = windows.logits(weights)
    changed = _fit(windows, weights, ~held, seed)
    after = windows.logits(changed)
    settings = model.settings
    texts_before = windows.fused(before, settings)
    texts_after = windows.fused(after, settings)
    labels = np.array([item.text.label for item in windows.cuts])
    highest = upper_quantile(texts_after[held & (labels == 0)], rate)
    threshold = probability(highest + _ROUNDING * max(1.0, abs(highest)))
    threshold = min(max(threshold, 1e-6), 1 - 1e-6)
    figures = [_figures(scores[held], labels[held], rate) for scores in (texts_before, texts_after)]
    changed.put(graph)
    written = _write(
        output, graph, loaded, settings, threshold, rate, labels, held, figures, pack_of_rules
    )
    return Adapted(
        written,
        threshold,
        figures[0],
        figures[1],
        int((held & (labels == 1)).sum()),
        int((held & (labels == 0)).sum()),
        rate,
    )


def _coarse(harmless: int, rate: float) -> str:
    if harmless * rate >= 1 - 1e-9:
        return ""
    return (
        f"{harmless:,} harmless texts held out are too few to measure a rate of {rate:g}: the "
        "threshold lies above the highest of them, and the rate of other texts is not known"
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    """All windows of all texts, end to end."""

    cuts: list[Cut]
    owner: np.ndarray[Any, np.dtype[np.int64]]
    embedding: Floats
    rule_logit: Floats
    document: Floats
    labels: np.ndarray[Any, np.dtype[np.int64]]
    grams: Any

    def logits(self, weights: _Weights) -> Floats:
        """(W,) the graph's logit with these weights."""
        both = self.embedding @ weights.attack.T + weights.attack_bias
        encoder = both[:, 0] + self.document * (both[:, 1] - both[:, 0])
        parts = (encoder, weights.ngrams.logits(self.grams), self.rule_logit)
        return np.asarray(
            weights.mix_bias
            + sum(part * share for part, share in zip(parts, weights.mix, strict=True))
        )

    def fused(self, logits: Floats, settings: Settings) -> Floats:
        """(n,) each text's logit."""
        found = []
        for at, item in enumerate(self.cuts):
            own = logits[self.owner == at]
            beside = windows_beside(item.windows, int(own.argmax()))
            found.append(fused_logit(own, settings.fuse, beside))
        return np.array(found)


class _Weights:
    """What of a graph can be fitted again; see `graph.Parts`."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        stored = {tensor.name: tensor for tensor in graph.graph.initializer}
        wanted = ("attack", "attack.bias", "ngrams.table", "ngrams.bias", "mix.bias")
        missing = [name for name in (*wanted, *_MIX) if name not in stored]
        if missing:
            raise BundleContractError(
                f"the bundle's graph has no {missing[0]!r}, so it cannot be fitted further"
            )
        values = {
            name: numpy_helper.to_array(stored[name]).astype(np.float64)
            for name in (*wanted, *_MIX)
        }
        self.attack = values["attack"]
        self.attack_bias = values["attack.bias"]
        self.mix = [float(values[name][0]) for name in _MIX]
        self.mix_bias = float(values["mix.bias"][0])
        idf = np.sqrt(values["ngrams.table"][:, 1])
        weight = np.divide(values["ngrams.table"][:, 0], idf, out=np.zeros_like(idf), where=idf > 0)
        self.ngrams = NgramModel(weight, idf, float(values["ngrams.bias"][0]))

    def put(self, graph: onnx.ModelProto) -> None:
        """Put these weights into the graph."""
        table = np.stack([self.ngrams.weight * self.ngrams.idf, self.ngrams.idf**2], axis=1)
        values = {
            "attack": self.attack,
            "attack.bias": self.attack_bias,
            "ngrams.table": table,
            "ngrams.bias": np.array([self.ngrams.bias]),
        }
        for tensor in graph.graph.initializer:
            if tensor.name in values:
                fresh = values[tensor.name].astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(fresh, tensor.name))


_MIX = ("mix.0", "mix.1", "mix.2")


def _check_enough(texts: Sequence[tuple[str, bool]]) -> None:
    for label, name in ((True, "attacks"), (False, "harmless texts")):
        count = len({text for text, attack in texts if attack is label})
        if count < FEWEST:
            raise InputError(
                f"there are {count} different {name}; {FEWEST} are needed",
                hint="`interlock detect calibrate` needs fewer",
            )


def _cut(rows: Sequence[Labelled], model: DetectorModel, pack_of_rules: RulePack) -> list[Cut]:
    texts = [
        Text(row.text, int(row.attack), row.source, where=row.place)  # type: ignore[arg-type]
        for row in rows
    ]
    return list(cut_all(texts, pack_of_rules, model.settings.windows, most=24))


def _read(cuts: list[Cut], model: DetectorModel, told: Callable[[str, int, int], None]) -> _Windows:
    embeddings, rules = [], []
    for done, item in enumerate(cuts, 1):
        judged = model.judge([window.text for window in item.windows], item.rules, item.document)
        embeddings.append(judged.embedding)
        rules.append(judged.rules)
        told("reading", done, len(cuts))
    sizes = [len(item.windows) for item in cuts]
    return _Windows(
        cuts,
        np.repeat(np.arange(len(cuts)), sizes),
        np.concatenate(embeddings).astype(np.float64),
        np.concatenate(rules).astype(np.float64),
        np.repeat([item.document for item in cuts], sizes),
        np.concatenate([item.labels for item in cuts]),
        rows_of([w.text for item in cuts for w in item.windows], model.settings.ngrams),
    )


def _held(cuts: Sequence[Cut], share: float, seed: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which texts are held out: a share of each class, and one at least."""
    rng = random.Random(f"held out {seed}")
    held: set[str] = set()
    for label in (0, 1):
        texts = sorted({item.text.text for item in cuts if item.text.label == label})
        rng.shuffle(texts)
        held.update(texts[: max(1, round(share * len(texts)))])
    return np.array([item.text.text in held for item in cuts])


def _fit(
    windows: _Windows, weights: _Weights, used: np.ndarray[Any, np.dtype[np.bool_]], seed: int
) -> _Weights:
    """New weights from the windows of the texts that are `used`."""
    rows = np.flatnonzero(used[windows.owner])
    targets, sure = open_labels(
        windows.labels[rows], windows.owner[rows], windows.logits(weights)[rows]
    )
    counts = np.bincount(windows.owner[rows], minlength=len(windows.cuts))
    label = np.array([item.text.label for item in windows.cuts])[windows.owner[rows]]
    balance = np.where(label == 1, 1 / max(1, label.sum()), 1 / max(1, (1 - label).sum()))
    each = sure * balance / np.sqrt(counts[windows.owner[rows]])
    smooth = 0.02 + 0.96 * targets
    fresh = _Weights.__new__(_Weights)
    fresh.mix, fresh.mix_bias = weights.mix, weights.mix_bias
    fresh.ngrams = fit_ngrams(
        windows.grams.take(rows),
        smooth,
        each,
        len(weights.ngrams.weight),
        start=weights.ngrams,
        rate=0.1,
        epochs=3,
        l2=1e-4,
        seed=seed,
    )
    # One regression for both heads: the place mixes them linearly.
    document = windows.document[rows][:, None]
    embedding = windows.embedding[rows]
    columns = np.concatenate(
        [embedding * (1 - document), embedding * document, 1 - document, document], axis=1
    )
    width = embedding.shape[1]
    start = np.concatenate([weights.attack[0], weights.attack[1], weights.attack_bias])
    found, shift = fit_dense(columns, smooth, each, l2=1e-2, start=(start, 0.0))
    fresh.attack = np.stack([found[:width], found[width : 2 * width]])
    fresh.attack_bias = found[2 * width :] + shift
    return fresh


def _figures(scores: Floats, labels: np.ndarray[Any, Any], rate: float) -> dict[str, float]:
    attacks, harmless = scores[labels == 1], scores[labels == 0]
    cut_at = upper_quantile(harmless, rate)
    above = (attacks[:, None] > harmless).mean() + 0.5 * (attacks[:, None] == harmless).mean()
    return {"recall": float((attacks > cut_at).mean()), "auc": float(above)}


def _write(
    output: Path,
    graph: onnx.ModelProto,
    old: Bundle,
    settings: Settings,
    threshold: float,
    rate: float,
    labels: np.ndarray[Any, Any],
    held: np.ndarray[Any, np.dtype[np.bool_]],
    figures: list[dict[str, float]],
    pack_of_rules: RulePack,
) -> Bundle:
    own = Source("the user's own texts", "the user's", int(labels.sum()), int((1 - labels).sum()))
    bands = settings.bands
    changed = msgspec.structs.replace(
        settings,
        name=f"{settings.name.removesuffix('-adapted')}-adapted",
        thresholds=dict.fromkeys(settings.thresholds, threshold),
        bands=msgspec.structs.replace(
            bands,
            low=min(bands.low, threshold),
            medium=threshold,
            high=max(bands.high, threshold),
        ),
        rules=msgspec.structs.replace(settings.rules, pack=pack_of_rules.digest),
        training=(*settings.training, own),
    )
    attacks, harmless = int(labels[held].sum()), int((1 - labels[held]).sum())
    coarse = _coarse(harmless, rate)
    note = f"{coarse}.\n\n" if coarse else ""
    card = (
        f"# {changed.name}\n\n"
        f"Made from bundle {old.digest} by `interlock detect train`: n-gram weights and the "
        f"encoder's last layer fitted further to {len(labels) - int(held.sum())} texts.\n\n"
        f"On {attacks} attacks and {harmless} harmless texts that were held out, recall at a "
        f"false-positive rate of {rate:g} went from {figures[0]['recall']:.3f} to "
        f"{figures[1]['recall']:.3f}, the area under the ROC curve from {figures[0]['auc']:.3f} "
        f"to {figures[1]['auc']:.3f}. The threshold {threshold:.4f} lets that share of the "
        "held-out harmless texts through to it; it holds for traffic like theirs and for no "
        "other.\n\n"
        f"{note}The first bundle's card follows.\n\n---\n\n"
    )
    model = graph.SerializeToString()
    inputs, outputs = signature_of(graph)
    metadata = Metadata(
        name=changed.name,
        kind="model",
        inputs=inputs,
        outputs=outputs,
        provenance={**old.metadata.provenance, "adapted_from": old.digest},
    )
    files = {
        name: data
        for name, data in old.files.items()
        if name not in ("metadata.json", "model.onnx", SETTINGS, CARD)
    }
    files[SETTINGS] = changed.encode()
    files[CARD] = card.encode() + old.files.get(CARD, b"")
    return pack(output, model, metadata, files)
