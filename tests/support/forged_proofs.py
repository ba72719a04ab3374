"""Proofs with a value too many, made by ezkl itself: no constraint touches what lies behind the
instances of the circuit, and its verification accepts them."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from support.proof_bundles import element

from interlock.kernel.batch import Array
from interlock.kernel.process import WorkerProcess
from interlock.verified import ezkl_backend
from interlock.verified.ezkl_backend import CircuitSettings


def padded_proof(circuit: Path, srs: Path, inputs: Array, more: int) -> bytes:
    """A proof of the circuit in that directory, whose last output is followed by `more`."""
    scale = CircuitSettings().scale
    with tempfile.TemporaryDirectory() as scratch:
        options = {"scratch": scratch, "scale": scale, "more": more}
        flat = np.asarray(inputs, np.float32).reshape(-1)
        call = {"do": "prove", "at": str(circuit), "srs": str(srs), "inputs": [flat]}
        with WorkerProcess(f"{__name__}:serve", options=options, name="forger") as worker:
            return bytes(worker.call(call))


def serve(options: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """The worker's factory: ezkl, behind a witness that is edited before it is proved."""
    scale, private = int(options["scale"]), Path(options["scratch"])
    forger = _Forger(importlib.import_module("ezkl"), private, scale)
    forger.more = int(options["more"])
    return forger.prove


class _Forger(ezkl_backend._Worker):
    more: int

    def _witness(self, call: Mapping[str, Any]) -> Any:
        witness = super()._witness(call)
        written = element(self.more)
        witness["outputs"][-1].append(written)
        shown = witness["pretty_elements"]
        shown["outputs"][-1].append("0x" + bytes.fromhex(written)[::-1].hex())
        shown["rescaled_outputs"][-1].append(str(self.more / (1 << self._scale)))
        (self.private / "witness.json").write_text(json.dumps(witness))
        return witness
