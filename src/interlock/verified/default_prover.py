"""The proof system that is used where a caller names none."""

from __future__ import annotations

import importlib.util

from interlock.verified.prover import NoProver, Prover


def default_prover() -> Prover:
    """ezkl where the extra `zk` is installed, else a `NoProver` that names the extra."""
    if importlib.util.find_spec("ezkl") is None:
        return NoProver("no circuit: proving needs the extra 'zk' (pip install 'interlock[zk]')")
    from interlock.verified.circuit_prover import CircuitProver

    return CircuitProver()
