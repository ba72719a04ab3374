"""What each part of the shipped detector is worth: `python bench/detector_ablation.py [DATA]`.

Every text is read as the detector reads it; then its score is formed from some of the parts alone:
encoder, n-grams (TF-IDF of characters and words with logistic regression) and rules. Areas and
recalls at 1% false positives come with 95% intervals, differences from a paired bootstrap over
texts. DATA is `bench/detector_blind.jsonl` by default.
"""

from __future__ import annotations

import measure  # first: it pins the threads of the numeric libraries

# isort: split
import argparse
from pathlib import Path
from typing import Any

import numpy as np

from interlock.detect.inputs import Reading, features_of, readings, windows_beside
from interlock.detect.labelled import read_labelled
from interlock.detect.model import load_model
from interlock.detect.normalise import normalise
from interlock.detect.place import document_weight
from interlock.detect.rules import Place, load_pack
from interlock.detect.training.recipe import COUNTED, MIX, WINDOWS

Scores = np.ndarray[Any, np.dtype[np.float64]]

PARTS = {
    "encoder": (1.0, 0.0, 0.0),
    "n-grams": (0.0, 1.0, 0.0),
    "rules": (0.0, 0.0, 1.0),
    "encoder + n-grams": (MIX[0], MIX[1], 0.0),
    "encoder + rules": (MIX[0], 0.0, MIX[2]),
    "n-grams + rules": (0.0, 1.0, MIX[2]),
    "all": MIX,
}
_ROUNDS = 1000


def main() -> None:
    """Print the table and the paired differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    blind = Path(__file__).with_name("detector_blind.jsonl")
    parser.add_argument("data", type=Path, nargs="?", default=blind)
    options = parser.parse_args()
    print(measure.machine(("onnxruntime",)))
    rows = read_labelled(options.data)
    attacks = np.array([row.attack for row in rows])
    logits = _logits([(row.text, row.place) for row in rows])
    scores = {name: _scores(logits, mix) for name, mix in PARTS.items()}
    rng = np.random.default_rng(0)
    drawn = [_draw(attacks, rng) for _ in range(_ROUNDS)]
    print(f"{len(rows)} texts, {attacks.sum()} of them attacks")
    sampled = {
        name: np.array([_figures(found[at], attacks[at]) for at in drawn])
        for name, found in scores.items()
    }
    for name, found in scores.items():
        area, recall = _figures(found, attacks)
        low, high = np.quantile(sampled[name], (0.025, 0.975), axis=0)
        print(
            f"  {name:18s} AUC {area:.3f} ({low[0]:.3f} to {high[0]:.3f})   "
            f"recall at 1% FPR {recall:.2f} ({low[1]:.2f} to {high[1]:.2f})"
        )
    print("all less one part or more, paired")
    whole = np.array(_figures(scores["all"], attacks))
    for name in ("n-grams", "encoder", "encoder + n-grams", "encoder + rules", "n-grams + rules"):
        gain = whole - _figures(scores[name], attacks)
        low, high = np.quantile(sampled["all"] - sampled[name], (0.025, 0.975), axis=0)
        print(
            f"  {name:18s} AUC {gain[0]:+.3f} ({low[0]:+.3f} to {high[0]:+.3f})   "
            f"recall {gain[1]:+.2f} ({low[1]:+.2f} to {high[1]:+.2f})"
        )


def _logits(texts: list[tuple[str, str]]) -> list[tuple[Scores, list[Reading]]]:
    """Of each text (W, 3), what encoder, n-grams and rules say of its windows, and the windows."""
    model, pack = load_model(), load_pack()
    found = []
    for text, place in texts:
        normalised = normalise(text)
        hits = pack.scan(normalised, Place(place))
        windows, _ = readings(normalised, model.settings.windows, hits)
        features = features_of(windows, hits, model.settings.rules.features)
        weight = document_weight(text, Place(place).value)
        judged = model.judge([window.text for window in windows], features, weight)
        parts = np.stack([judged.encoder, judged.ngrams, judged.rules], axis=1)
        found.append((parts.astype(np.float64), windows))
    return found


def _scores(logits: list[tuple[Scores, list[Reading]]], mix: tuple[float, float, float]) -> Scores:
    found = []
    for parts, windows in logits:
        mixed = parts @ np.array(mix)
        own = windows_beside(windows, int(mixed.argmax()))
        found.append(mixed.max() - WINDOWS * np.log(min(own, COUNTED)))
    return np.array(found)


def _draw(attacks: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Texts drawn with replacement, each class apart."""
    classes = [np.flatnonzero(attacks == value) for value in (True, False)]
    return np.concatenate([rng.choice(members, len(members)) for members in classes])


def _figures(scores: Scores, attacks: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Area under the curve, and recall above what 1% of the harmless texts exceed."""
    harmless = np.sort(scores[~attacks])
    below = np.searchsorted(harmless, scores[attacks], "left")
    equal = np.searchsorted(harmless, scores[attacks], "right") - below
    area = float((below + equal / 2).mean() / len(harmless))
    bound = harmless[len(harmless) - 1 - int(0.01 * len(harmless))]
    return area, float((scores[attacks] > bound).mean())


if __name__ == "__main__":
    main()
