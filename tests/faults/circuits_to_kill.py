"""A child that makes keys, or proves, until it is killed; see test_circuits_kill.

circuits_to_kill.py setup CACHE     sets slices 0 and 1 of the tiny network up
circuits_to_kill.py prove CACHE PIECES BUNDLE    proves one input, keeping pieces, and publishes
"""

from __future__ import annotations

import sys
from pathlib import Path

from support.circuits import SMALL, infer, tiny
from support.kill import acknowledge

from interlock.verified.circuit_prover import CircuitProver
from interlock.verified.proof_bundle import write_bundle


def main(what: str, cache: str, *rest: str) -> None:
    acknowledge("started")
    if what == "setup":
        with CircuitProver(Path(cache), ceiling=SMALL) as prover:
            for part in tiny().slices[:2]:
                prover.setup(part)
                acknowledge(part.name)
        return
    pieces, bundle = map(Path, rest)
    with CircuitProver(
        Path(cache),
        ceiling=SMALL,
        workers=1,
        resume=pieces,
        on_piece=lambda piece: acknowledge(piece.piece),
    ) as prover:
        run = infer(prover, excluded=("slice_2",))
        write_bundle(bundle, run, prover)
    acknowledge("published")


if __name__ == "__main__":
    main(*sys.argv[1:])
