"""What the graph sees of a text beside its words: rules that hit a window, disguises taken off it.

Each feature is 0 … 1, so a bundle may be read without knowing the scale of any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interlock.detect.rules import Hit, Severity

Features = np.ndarray[Any, np.dtype[np.float32]]

# The families of the shipped rule pack, in the order of a bundle's graph.
FAMILIES = (
    "instruction_override",
    "prompt_leak",
    "role_hijack",
    "fake_turn",
    "refusal_suppression",
    "false_authority",
    "indirect_instruction",
    "tool_misuse",
    "exfiltration",
    "output_control",
    "encoding",
)

DISGUISES = (
    "homoglyphs",
    "leetspeak",
    "spacing",
    "base64",
    "hex",
    "percent",
    "character references",
    "escapes",
    "rot13",
    "reversed",
)

FEATURE_NAMES = (
    *(f"rule:{family}" for family in FAMILIES),
    *(f"severity:{severity.value}" for severity in Severity),
    "rules",
    *(f"disguise:{step}" for step in DISGUISES),
    "disguise:nested",
)

_WEIGHT = {Severity.LOW: 1 / 3, Severity.MEDIUM: 2 / 3, Severity.HIGH: 1.0}


def rule_features(
    spans: Sequence[tuple[int, int]],
    hits: Sequence[Hit],
    via: Sequence[Sequence[str]] | None = None,
    names: Sequence[str] = FEATURE_NAMES,
) -> Features:
    """(W, R) float32: the features of each window, in the order of `names`.

    spans   where each window lies in the original text, end exclusive
    hits    hits in the original text; a hit counts for a window that it shares a character with
    via     the steps that led to each window's reading

    `rule:F` is the severity of the gravest hit of family F (low 1/3, medium 2/3, high 1),
    `severity:S` is 1 where a hit has it, `rules` grows with the number of rules that hit (1/2 for
    one, 3/4 for two). `disguise:S` is 1 where the reading took off disguise S, or a hit of the
    window was found in such a reading. A name that this release does not know stays 0.
    """
    place = {name: index for index, name in enumerate(names)}
    table = np.zeros((len(spans), len(names)), dtype=np.float32)

    def raise_to(row: int, name: str, value: float) -> None:
        column = place.get(name)
        if column is not None and table[row, column] < value:
            table[row, column] = value

    for row, (start, end) in enumerate(spans):
        rules: set[str] = set()
        steps: set[str] = set()
        deepest = 0
        for hit in hits:
            if hit.start >= end or hit.end <= start:
                continue
            rules.add(hit.rule)
            steps.update(hit.via)
            deepest = max(deepest, _decodings(hit.via))
            raise_to(row, f"rule:{hit.family}", _WEIGHT[hit.severity])
            raise_to(row, f"severity:{hit.severity.value}", 1.0)
        raise_to(row, "rules", 1.0 - 0.5 ** len(rules))
        if via is not None:
            steps.update(via[row])
            deepest = max(deepest, _decodings(via[row]))
        for step in steps:
            raise_to(row, f"disguise:{step}", 1.0)
        if deepest > 1:
            raise_to(row, "disguise:nested", 1.0)
    return table


def _decodings(via: Sequence[str]) -> int:
    return sum(step in DISGUISES[3:] for step in via)
