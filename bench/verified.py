"""`make bench-verified`: slices and circuits against whole models, one interleaved run each."""

from __future__ import annotations

import measure
import verified_chain
import verified_circuits


def main() -> None:
    """Print the machine, every figure, and whether each bar is kept."""
    print(measure.machine(("numpy", "onnxruntime", "ezkl")))
    bars = [*verified_chain.run(), *verified_circuits.run()]
    print("\nbars")
    for line in bars:
        print(f"  {line}")


if __name__ == "__main__":
    main()
