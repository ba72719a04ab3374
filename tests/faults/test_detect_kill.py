"""An evaluation killed with kill -9 goes on from the scores that it kept, and ends the same."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from support.counts import count
from support.detectors import ATTACKS, HARMLESS, write_bundle


def test_a_killed_evaluation_loses_and_repeats_no_whole_line(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    texts = [f"{text} {at}" for at in range(100) for text in (*ATTACKS, *HARMLESS)]
    data = tmp_path / "rows.jsonl"
    data.write_bytes(
        b"\n".join(
            msgspec.json.encode({"text": text, "label": int(text.startswith(ATTACKS))})
            for text in texts
        )
    )
    scores = tmp_path / "scores.jsonl"
    command = [sys.executable, "-m", "interlock", "detect", "evaluate", "--data", str(data)]
    command += ["--bundle", str(bundle), "--scores", str(scores), "--json"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    rng = random.Random(0)
    kills = 0
    for _ in range(count(3, 40)):
        before = _lines(scores)
        if len(before) >= len(texts):
            break
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as child:
            # Killed once some more were kept, so that every kill finds it at work.
            wanted = len(before) + rng.randint(1, 20)
            until = time.monotonic() + 120
            while len(_lines(scores)) < wanted and child.poll() is None:
                assert time.monotonic() < until, "it keeps no scores"
                time.sleep(0.001)
            kills += child.poll() is None
            child.kill()
        after = _lines(scores)
        assert after[: len(before)] == before
    assert kills > 0
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    keys = [line["key"] for line in _lines(scores)]
    assert len(keys) == len(set(keys)) == len(texts)
    alone = subprocess.run(
        [part for part in command if part not in ("--scores", str(scores))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert json.loads(done.stdout) == json.loads(alone.stdout)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines, without the one that a kill may have torn."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
