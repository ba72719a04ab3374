"""What disguises cost the whole detector: `python bench/detector_disguises.py [DATA ...]`.

Of the attacks that are found as they stand, the share that is found in each disguise (bar: 90%),
and the harmless texts that are flagged in it beside those flagged as they stand (bar: half a point
more). Texts of at most --characters, since longer ones are seldom disguised as a whole; a text
that nothing could judge counts as flagged. DATA is `bench/detector_blind.jsonl` by default.
"""

from __future__ import annotations

import measure  # first: it pins the threads of the numeric libraries

# isort: split
import argparse
from pathlib import Path

from interlock.detect.detector import Detector
from interlock.detect.disguise import DISGUISES, disguise
from interlock.detect.labelled import read_labelled
from interlock.kernel.intervals import wilson_interval

BAR, MORE = 0.90, 0.005


def main() -> None:
    """Print a line a disguise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    blind = Path(__file__).with_name("detector_blind.jsonl")
    parser.add_argument("data", type=Path, nargs="*", default=[blind])
    parser.add_argument("--characters", type=int, default=250)
    options = parser.parse_args()
    print(measure.machine(("onnxruntime",)))
    detector = Detector.open()
    rows = [row for path in options.data for row in read_labelled(path)]
    rows = [row for row in rows if len(row.text) <= options.characters]

    def flagged(text: str) -> bool:
        return detector.scan(text).attack is not False

    attacks = [row.text for row in rows if row.attack]
    found = [text for text in attacks if flagged(text)]
    harmless = [row.text for row in rows if not row.attack]
    plain = sum(flagged(text) for text in harmless)
    print(f"plain: {len(found)} of {len(attacks)} attacks, {plain} of {len(harmless)} harmless")
    for kind in DISGUISES:
        kept = sum(flagged(disguise(text, kind)) for text in found)
        false = sum(flagged(disguise(text, kind)) for text in harmless)
        low, high = wilson_interval(kept, len(found))
        good = kept >= BAR * len(found) and false - plain <= MORE * len(harmless)
        print(
            f"  {'kept  ' if good else 'MISSED'} {kind:11s} {kept / len(found):6.1%} of the found "
            f"({low:.1%} to {high:.1%}), {false} of {len(harmless)} harmless flagged"
        )


if __name__ == "__main__":
    main()
