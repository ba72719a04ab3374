"""What the rules hit, source by source, what disguises cost them, and how long they take.

    python bench/detector_rules.py DATA... [--written-from SOURCE,SOURCE] [--rows 1000]

DATA are parquet files with the columns text, label (1 for an attack) and source. A rule earns its
place on sources that it was not written from; `--written-from` names those that were looked at,
and the table sets them apart. Hits of low severity are counted apart too: a quotation may cause
one.
"""

from __future__ import annotations

import measure  # first: it pins the threads

import argparse  # isort: skip
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet

from interlock.detect.disguise import DISGUISES, disguise
from interlock.detect.normalise import normalise
from interlock.detect.rules import Hit, Place, RulePack, Severity, load_pack
from interlock.kernel.intervals import wilson_interval

SEED = 0
# Longer texts are seldom disguised as a whole.
DISGUISED = 600


class Row(NamedTuple):
    """One labelled text."""

    text: str
    attack: bool
    source: str


def read(paths: Iterable[Path]) -> list[Row]:
    """The rows of the files, without exact repetitions."""
    rows: dict[str, Row] = {}
    for path in paths:
        table = pyarrow.parquet.read_table(path, columns=["text", "label", "source"])
        for row in table.to_pylist():
            rows.setdefault(row["text"], Row(row["text"], bool(row["label"]), row["source"]))
    return list(rows.values())


def hits(pack: RulePack, text: str) -> tuple[Hit, ...]:
    """The hits in a text of unknown place."""
    return pack.scan(normalise(text), Place.AUTO)


def strong(found: Sequence[Hit]) -> set[str]:
    """The rules that hit with more than low severity."""
    return {hit.rule for hit in found if hit.severity is not Severity.LOW}


def share(count: int, total: int) -> str:
    """A share in per cent with its 95% Wilson interval."""
    low, high = wilson_interval(count, total)
    return f"{count:5}/{total:<5} {100 * count / total:5.1f}% ({100 * low:.1f}-{100 * high:.1f})"


def by_source(pack: RulePack, rows: Sequence[Row], written_from: frozenset[str]) -> None:
    """Print recall and false hits a source, then every rule's hits on attacks and harmless."""
    counts: dict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    earned: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        found = hits(pack, row.text)
        kind = counts[row.source, row.attack]
        kind["rows"] += 1
        kind["strong"] += bool(strong(found))
        kind["any"] += bool(found)
        for name in {hit.rule for hit in found}:
            looked_at = "looked at" if row.source in written_from else "others"
            earned[name][f"{looked_at}, {'attack' if row.attack else 'harmless'}"] += 1
    for attack in (True, False):
        print("\nattacks hit" if attack else "\nharmless texts hit")
        for (source, label), kind in sorted(counts.items()):
            if label == attack:
                mark = "*" if source in written_from else " "
                line = share(kind["strong"], kind["rows"])
                print(f"  {source:16}{mark} {line}   any severity {kind['any']}")
    print("  * looked at while the rules were written")
    columns = ["looked at, attack", "others, attack", "looked at, harmless", "others, harmless"]
    print(f"\n{'rule':32}" + "".join(f"{column:>21}" for column in columns))
    for rule in pack.rules:
        line = "".join(f"{earned[rule.id][column]:21}" for column in columns)
        print(f"{rule.id:32}{line}")
    idle = [rule.id for rule in pack.rules if not earned[rule.id]["others, attack"]]
    print(f"without a hit on an attack of the other sources: {', '.join(idle) or 'none'}")


def disguised(pack: RulePack, rows: Sequence[Row], count: int) -> None:
    """Print, a disguise, the share of the hit attacks that is still hit, and the false hits."""
    chance = random.Random(SEED)
    short = [row for row in rows if len(row.text) <= DISGUISED]
    chance.shuffle(short)
    attacks = [row for row in short if row.attack and strong(hits(pack, row.text))][:count]
    harmless = [row for row in short if not row.attack][: 2 * count]
    plain = sum(bool(strong(hits(pack, row.text))) for row in harmless)
    print(f"\ndisguised, of {len(attacks)} attacks hit plain; harmless plain: {plain} hit")
    for kind in DISGUISES:
        kept = sum(bool(strong(hits(pack, disguise(row.text, kind, SEED)))) for row in attacks)
        false = sum(bool(strong(hits(pack, disguise(row.text, kind, SEED)))) for row in harmless)
        print(f"  {kind:12} kept {share(kept, len(attacks))}   harmless hit {false}")


def speed(pack: RulePack, rows: Sequence[Row]) -> None:
    """Print the time of normalisation and rules on harmless texts of 40 to 60 words."""
    texts = [row.text for row in rows if not row.attack and 40 <= len(row.text.split()) <= 60][:200]
    best = [float("inf")] * len(texts)
    every: list[float] = []
    for _ in range(7):
        for index, text in enumerate(texts):
            taken = measure.calls_of(partial(hits, pack, text))(1)
            every.append(taken)
            best[index] = min(best[index], taken)
    every.sort()
    best.sort()
    print(
        f"\n{len(texts)} texts of 40 to 60 words: median {1e3 * every[len(every) // 2]:.3f} ms, "
        f"99th percentile {1e3 * every[len(every) * 99 // 100]:.3f} ms; median of the best of "
        f"seven {1e3 * best[len(best) // 2]:.3f} ms"
    )


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--written-from", default="")
    parser.add_argument("--rows", type=int, default=1000)
    given = parser.parse_args()
    rows = read(given.data)
    pack = load_pack()
    print(measure.machine())
    print(f"{len(pack.rules)} rules, pack {pack.digest[:12]}, {len(rows)} texts")
    by_source(pack, rows, frozenset(filter(None, given.written_from.split(","))))
    disguised(pack, rows, given.rows)
    speed(pack, rows)


if __name__ == "__main__":
    main()
