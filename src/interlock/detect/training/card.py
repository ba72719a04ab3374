"""The model card: what the detector is, what it was made from, what it does, where it fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interlock.detect.settings import Source
from interlock.kernel.intervals import wilson_interval

if TYPE_CHECKING:
    from interlock.detect.training.assemble import Seen


def figures(held: Seen, never: Seen, threshold: float) -> dict[str, Any]:
    """Figures of the first models on held-out sources, and of the last on what none saw."""
    return {
        "threshold": threshold,
        "held_out": _by_source(held, threshold),
        "never": _by_source(never, threshold),
    }


def write(
    sources: Sequence[Source], found: dict[str, Any], visits: tuple[int, int] = (0, 0)
) -> str:
    """The card, in Markdown; `visits` are the texts drawn in each round."""
    rows = "\n".join(
        f"| {source.name} | {source.attacks} | {source.harmless} | {source.licence} |"
        for source in sources
    )
    first, second = visits
    return _CARD.format(
        sources=rows,
        held=_table(found["held_out"]),
        never=_table(found["never"]),
        first=first,
        second=second,
    )


def _by_source(seen: Seen, threshold: float) -> dict[str, Any]:
    scores, labels, names = seen.scores(), seen.labels, seen.sources
    found: dict[str, Any] = {}
    for name in sorted(set(names)):
        for label in (0, 1):
            chosen = scores[(names == name) & (labels == label)]
            if len(chosen):
                above = int((chosen >= threshold).sum())
                low, high = wilson_interval(above, len(chosen))
                found[f"{name}, {'attacks' if label else 'harmless'}"] = {
                    "n": len(chosen),
                    "above": above / len(chosen),
                    "interval": [low, high],
                    "median": float(np.median(chosen)),
                }
    return found


def _table(found: dict[str, Any]) -> str:
    lines = [
        "| texts | n | at or above the threshold | 95% interval |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in found.items():
        low, high = row["interval"]
        lines.append(f"| {name} | {row['n']} | {row['above']:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)


_CARD = """# interlock-detector

Finds prompt injections and jailbreaks in what a user typed, and orders to an assistant that hide
in documents: e-mails, pages, tables, code, logs. One ONNX graph holds all that was learned:

- an encoder, all-MiniLM-L6-v2 (Apache-2.0), its two lower layers as they were and the rest
  fine-tuned; int8, its activations rounded for each window, so windows are run one by one;
- hashed n-grams of characters and words, with logistic regression;
- the rule pack's hits and the disguises that were taken off, with weights of 0 or more.

A text of more than 320 characters is cut at sentences into windows of 200 to 420. The text's score
is that of its worst window.

## Made from

| source | attacks | harmless | licence |
| --- | --- | --- | --- |
{sources}

"Written" texts were written for this project one by one (`interlock/detect/training/texts`):
harmless ones of the kinds that detectors take for attacks (trigger words in their ordinary senses,
role-play and long prompts, e-mails and pages full of orders to people, very short texts, texts
about language models, agents' tools, 25 languages), and attacks beside them. A tenth is held back
("~held").

"Generated" texts come from grammars in `interlock/detect/training/grammar`, written for this
project: harmless texts full of trigger words, security questions, quoted attacks, scenes and
role-play without harm, requests, many languages; attacks of eleven families; documents with and
without an order in them. Every generated document with an attack is there without it too.

Labels of windows: where the attack's place in a text is known, the windows there are attacks and
all others harmless. Where it is not, the worst window stands for the text.

The recipe is `scripts/train_detector.py` (`make train-detector`): {first:,} texts drawn without two
sources that are held out, then {second:,} with them.

## Figures

The first models on sources that they never saw (cse_frr, satml-ctf-2024), and on other texts of
sources that they saw (~tune), at the threshold that ships:

{held}

The models that ship, on texts that no model saw, of sources that they did see:

{never}

`bench/detector_loso.py` leaves out one source after the other and compares the parts.
`bench/detector_unseen.jsonl` (1,080 texts) and `bench/detector_fresh.jsonl` (620) are for judging
alone; threshold, weights of the parts and the cost of windows were fixed with their scores in view,
attacks and harmless ones alike. `bench/detector_blind.jsonl` holds 859 that were first scored when
all was fixed. The project's figures (`docs/explanation/figures.md`) have the results on each.

## Where it fails

- The threshold does not transfer everywhere. `interlock detect calibrate` and `interlock detect
  train` fit it to your traffic.
- A request that a user may well make, standing in a document as an order to the assistant
  ("explain photosynthesis"), is often missed: its words are harmless.
- Three of ten orders in documents are missed. A text's score falls a little with the number of
  its windows, up to eight, since the worst of several harmless ones is higher than one. Who pads an
  attack with harmless sentences gains that much.
- Where the caller does not say whether a text is a document, its form decides: lines, headers,
  tags, length. Say it with `place`.
- Requests that bind all later answers to a form, role-play in which somebody has rules to keep or
  to break, and questions about an assistant's own instructions are flagged too often; attacks of a
  few words without a trigger word are often missed.
- "I want you to act as …" counts as an attack in some of the sources.
- English is best. German, Spanish, French, Italian, Portuguese and Dutch were trained with fewer
  texts, the encoder itself knows English only; other languages rest on n-grams and some hundred
  texts. Two of five attacks in them are missed in the texts for judging, seven of ten in the
  written texts that were held back.
- An attacker who can try often will find words that pass. No figure here holds against someone
  who knows the detector.
- The anomaly flag was set on texts of sources seen in training; on other traffic it fires more
  often than its stated rate.
"""
