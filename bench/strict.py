"""`make bench-strict`: ratios from one interleaved run; needs the index once, for the peer."""

from __future__ import annotations

import measure
import strict_bundle
import strict_decode
import strict_monitor


def main() -> None:
    """Print the machine, every figure, and whether each bar is kept."""
    print(measure.machine(("numpy", "numba", "onnxruntime")))
    bars = strict_decode.run() + strict_bundle.run() + strict_monitor.run()
    print("\nbars")
    for line in bars:
        print(f"  {line}")


if __name__ == "__main__":
    main()
