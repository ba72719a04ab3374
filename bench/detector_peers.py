"""The detector beside detectors that can be installed, on the same labelled texts, in one run.

    python bench/detector_peers.py --data texts.parquet [--nanoguard]

Each peer runs in an environment of its own, made on the first run: `aicordon` (Apache-2.0, rules;
its other detector asks a service and is left out), `pyatr` (MIT, rules) and, with --nanoguard,
`metatronnanoguard` (MIT, a transformer of 16.8 million weights; needs torch, and reads its
tokenizer from a pickle). Every detector decides at its own threshold, fixed beforehand. Give texts
that none was trained on: what the shipped bundle was trained on stands in its model card.

Text by text all detectors take turns, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import measure
import numpy as np
from peer_venv import interpreter

from interlock.detect import metrics
from interlock.detect.detector import Detector
from interlock.detect.labelled import Labelled, read_labelled

REQUIREMENTS = {
    "picket": ("aicordon==1.4.0",),
    "pyatr": ("pyatr==0.3.1",),
    "nanoguard": ("metatronnanoguard==0.1.0", "torch==2.13.0", "numpy"),
}

PUBLISHED = """\
Published by their authors, on their own data, and not run here:
  PIGuard (InjecGuard)   average accuracy 83.48%, accuracy on NotInject 87.32% (arXiv 2410.22770)
  Prompt Guard 2, 86M    AUC .998 and recall 97.5% at 1% FPR on English jailbreaks (model card)
  Prompt Guard 2, 22M    AUC .995 and recall 88.7% at 1% FPR on English jailbreaks (model card)
  ProtectAI v2           accuracy 95.25% on its own test set (as the authors of nanoguard quote),
                         56.64% on NotInject (as the authors of PIGuard measured)
Each comes from another set, so no two of them compare, nor do they with the table above."""


class Peer:
    """A peer's process, asked one text at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        python = interpreter(f"detector-{name}", REQUIREMENTS[name])
        self._process = subprocess.Popen(
            [python, Path(__file__).with_name("detector_peer.py"), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def judge(self, text: str) -> dict[str, Any]:
        """Its verdict; raises SystemExit where it is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"text": text}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--most", type=int, default=2000, help="texts, drawn evenly")
    parser.add_argument("--nanoguard", action="store_true")
    arguments = parser.parse_args()
    rows = [row for path in arguments.data for row in read_labelled(path)]
    if len(rows) > arguments.most:
        draw = np.random.default_rng(0).choice(len(rows), arguments.most, replace=False)
        rows = [rows[at] for at in sorted(draw)]
    names = ["picket", "pyatr", *(["nanoguard"] if arguments.nanoguard else [])]
    peers = [Peer(name) for name in names]
    detector = Detector.open(bundle=arguments.bundle)
    verdicts = judged(detector, peers, rows)
    for peer in peers:
        peer.close()
    attacks = np.array([row.attack for row in rows])
    print(measure.machine(("onnxruntime", "numpy")))
    print(f"{len(rows):,} texts, {int(attacks.sum()):,} attacks")
    print(
        f"{'':12}{'FPR':>22}{'recall':>22}{'F1':>7}{'AUC':>7}{'at 1% FPR':>11}"
        f"{'ms':>8}{'errors':>8}"
    )
    for name, found in verdicts.items():
        print(line(name, found, attacks))
    ours = correct(verdicts["interlock"], attacks)
    for name in names:
        theirs = correct(verdicts[name], attacks)
        print(f"right where the other is wrong: interlock {int((ours & ~theirs).sum())}, "
              f"{name} {int((theirs & ~ours).sum())}, p = {mcnemar(ours, theirs):.2g}")  # fmt: skip
    print(f"\n{PUBLISHED}")


def judged(
    detector: Detector, peers: list[Peer], rows: list[Labelled]
) -> dict[str, list[dict[str, Any]]]:
    """Every detector's verdict on every row, taking turns."""
    found: dict[str, list[dict[str, Any]]] = {"interlock": [], **{peer.name: [] for peer in peers}}
    for at, row in enumerate(rows):
        answer = detector.scan(row.text, row.place)
        found["interlock"].append(
            {
                "flagged": answer.attack is not False,
                "score": 1.0 if answer.score is None else answer.score,
                "seconds": answer.timings["total"] / 1e3,
            }
        )
        for peer in peers:
            found[peer.name].append(peer.judge(row.text))
        if at % 200 == 199:
            print(f"{at + 1:,} of {len(rows):,}", file=sys.stderr)
    return found


def line(name: str, found: list[dict[str, Any]], attacks: metrics.Truth) -> str:
    """A row of the table. A text that a detector failed on counts as not flagged."""
    flagged = np.array([verdict.get("flagged", False) for verdict in found])
    counts = metrics.count(flagged.astype(np.float64), attacks, 0.5)
    ranges = counts.intervals()

    def share(name: str) -> str:
        value, (low, high) = counts.figures()[name], ranges[name]
        return f"{value:.3f} ({low:.3f}–{high:.3f})"

    errors = sum("error" in verdict for verdict in found)
    area = recall = ""
    if all(verdict.get("score") is not None for verdict in found):
        scores = np.array([verdict["score"] for verdict in found])
        area = f"{metrics.auc(scores, attacks)[0]:.3f}"  # type: ignore[index]
        recall = f"{metrics.recall_at(scores, attacks, 0.01)[0]:.3f}"  # type: ignore[index]
    spent = statistics.median(verdict.get("seconds", 0.0) for verdict in found) * 1e3
    return (
        f"{name:12}{share('fpr'):>22}{share('recall'):>22}{counts.f1:7.3f}{area:>7}{recall:>11}"
        f"{spent:8.2f}{errors:8}"
    )


def correct(found: list[dict[str, Any]], attacks: metrics.Truth) -> metrics.Truth:
    """(n,) which texts were told right."""
    flagged = np.array([verdict.get("flagged", False) for verdict in found])
    return np.asarray(flagged == attacks)


def mcnemar(ours: metrics.Truth, theirs: metrics.Truth) -> float:
    """The two-sided exact p of McNemar's test on paired right and wrong answers."""
    from interlock.kernel.intervals import binomial_cdf

    better, worse = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    if better + worse == 0:
        return 1.0
    return min(1.0, 2 * binomial_cdf(min(better, worse), better + worse, 0.5))


if __name__ == "__main__":
    main()
