"""One peer over texts: {"text"} a line on standard input, {"flagged", "score", "seconds"} out.

Runs in the peer's own environment; `detector_peers.py` starts it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

Verdict = tuple[bool, float | None]


def picket() -> Callable[[str], Verdict]:
    """The rule of `aicordon` that runs without a network."""
    from aicordon import picket as module

    detector: Any = module.load()

    def judge(text: str) -> Verdict:
        return bool(detector.check(text).findings), None

    return judge


def pyatr() -> Callable[[str], Verdict]:
    """The rules that come with `pyatr`."""
    import pyatr as module

    def judge(text: str) -> Verdict:
        return bool(module.scan(text)), None

    return judge


def nanoguard() -> Callable[[str], Verdict]:
    """The transformer of `metatronnanoguard`, at its own threshold."""
    import torch
    from nanoguard import NanoGuard

    torch.set_num_threads(1)
    detector: Any = NanoGuard(device="cpu")

    def judge(text: str) -> Verdict:
        found = detector.scan(text)
        return bool(found.is_injection), float(found.injection_score)

    return judge


PEERS = {"picket": picket, "pyatr": pyatr, "nanoguard": nanoguard}


def main() -> None:
    """Judge every line."""
    judge = PEERS[sys.argv[1]]()
    judge("warm up")
    for line in sys.stdin:
        text = json.loads(line)["text"]
        started = time.perf_counter()
        try:
            flagged, score = judge(text)
        except Exception as error:  # noqa: BLE001 - a peer that fails is counted, not hidden
            print(json.dumps({"error": type(error).__name__}), flush=True)
            continue
        seconds = time.perf_counter() - started
        print(json.dumps({"flagged": flagged, "score": score, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
