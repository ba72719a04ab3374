"""Summaries of a tree, killed -9 again and again: each made once, and the end is the same."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from faults import summarize_to_kill
from support.counts import count
from support.kill import run_and_kill, run_to_end
from support.source_trees import small_tree

from interlock.kernel.journal import Journal

SCRIPT = Path(summarize_to_kill.__file__)
MEASURED = {"run", "contracts", "reused"}


def result(output: Path) -> dict[str, Any]:
    """What is in `summary.json`, without what only tells how this start went."""
    document = json.loads((output / "summary.json").read_text())
    return {name: value for name, value in document.items() if name not in MEASURED}


def recorded(output: Path) -> list[str]:
    """Keys with an outcome, of the only run there is."""
    if not (output / "journal.sqlite").exists():
        return []
    with Journal.open(output / "journal.sqlite") as journal:
        runs = journal.runs()
        assert len(runs) <= 1
        return [key for run in runs for key, _ in journal.outcomes(run.run_id)]


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_every_summary_is_made_once_and_the_end_is_that_of_an_undisturbed_run(
    kind: str, tmp_path: Path
) -> None:
    tree = small_tree(tmp_path / "tree")
    undisturbed = (str(tree), str(tmp_path / "whole"), kind, str(tmp_path / "whole.log"))
    keys = run_to_end(SCRIPT, undisturbed).acknowledged
    asked_once = Counter((tmp_path / "whole.log").read_text().splitlines())

    rng = random.Random(f"summarize {kind}")
    kills = count(3, 10)
    output = tmp_path / "killed"
    arguments = (str(tree), str(output), kind, str(tmp_path / "killed.log"))
    acknowledged: list[str] = []
    killed = 0
    while killed < kills:
        left = len(keys) - len(acknowledged)
        lines, extra = (1, max(1, left // (kills - killed + 1))), 0.01
        if rng.random() < 0.2:
            lines, extra = (0, 0), 0.8  # while it starts, reads the tree, or opens the journal
        ended = run_and_kill(SCRIPT, arguments, rng=rng, after_lines=lines, extra_seconds=extra)
        acknowledged += ended.acknowledged
        assert set(acknowledged) <= set(recorded(output)), "acknowledged and lost"
        if not ended.killed:
            break
        killed += 1
    acknowledged += run_to_end(SCRIPT, arguments).acknowledged

    assert killed == kills
    assert sorted(recorded(output)) == sorted(keys)
    assert max(Counter(acknowledged).values()) == 1
    assert result(output) == result(tmp_path / "whole")
    asked = Counter((tmp_path / "killed.log").read_text().splitlines())
    assert set(asked) == set(asked_once)
    again = sum(asked.values()) - sum(asked_once.values())
    # What was on its way at a kill is asked again; a summary asks twice at the most.
    assert again <= killed * summarize_to_kill.INSTANCES * 2
