"""Replaying: another process gives the same bits, or the answer is refused."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from support.networks import examples, shipped
from support.provers import FixedPointProver

from interlock.errors import EngineError
from interlock.kernel.outcome import EvidenceKind
from interlock.verified import ChainRun, NoProver, Policy, SliceChain, slice_model
from interlock.verified.replay import gives, replay
from interlock.verified.replay_process import ReplayProcess

NET = slice_model(shipped("net"))
IMAGE = {"input": examples("net", 1)[0]}


def test_slices_that_onnx_answered_become_replayed() -> None:
    chain = SliceChain(NET, FixedPointProver(keys={"slice_1", "slice_4"}))
    before = chain.run(IMAGE, Policy(record=True))
    after = replay(before)
    assert (before.proved, before.replayed, before.unverified) == (2, 0, 3)
    assert (after.proved, after.replayed, after.unverified) == (2, 3, 0)
    kinds = [entry.outcome.evidence.kind for entry in after.slices]
    assert kinds.count(EvidenceKind.REPLAYED) == 3
    assert after.outputs is before.outputs


def test_other_bits_are_refused_with_the_slices_name() -> None:
    found = SliceChain(NET, NoProver("none")).run(IMAGE, Policy(record=True))
    entry = found.slices[2]
    changed = entry.outputs["fc1_relu"].copy()
    changed[0, 0] = np.nextafter(changed[0, 0], np.float32(np.inf))
    slices = [*found.slices[:2], msgspec.structs.replace(entry, outputs={"fc1_relu": changed})]
    with pytest.raises(EngineError, match="slice_2: another process gave other bits"):
        replay(ChainRun(found.model, slices, found.inputs, found.outputs, found.seconds))


def test_gives_looks_at_shape_and_dtype_too() -> None:
    part = NET.slices[0]
    found = SliceChain(NET, NoProver("none")).run(IMAGE, Policy(record=True)).slices[0]
    flat = {name: array.ravel() for name, array in found.outputs.items()}
    wide = {name: array.astype(np.float64) for name, array in found.outputs.items()}
    with ReplayProcess() as process:
        assert gives(process, part.model, found.inputs, found.outputs)
        assert not gives(process, part.model, found.inputs, flat)
        assert not gives(process, part.model, found.inputs, wide)
