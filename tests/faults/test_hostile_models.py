"""Hostile and malformed models: each is refused for its own reason, and the parent goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support.bundles import plain_metadata, plain_model
from support.hostile import Hostile, corpus, write_bundle

from interlock.bundle import BundleLimits, load, pack
from interlock.bundle import probe as probe_module

LIMITS = BundleLimits(max_structure_bytes=1 << 20, probe_memory_bytes=1 << 30)
SHORT = dataclasses.replace(LIMITS, probe_seconds=1.0)
CASES = corpus(Path("/nowhere"))


def test_the_corpus_is_large_and_its_names_are_distinct() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 30


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused(case: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "bundle", case.model, case.files)
    if not case.runs:
        # Nothing may be started for a model whose structure tells.
        monkeypatch.setattr(probe_module, "WorkerProcess", None)
        monkeypatch.setattr(probe_module, "_probe", probe_module._Probe())
    with pytest.raises(case.error, match=case.reason) as caught:
        load(bundle, limits=SHORT if "did not end" in case.reason else LIMITS)
    assert type(caught.value).code in ("bundle_format", "bundle_contract")
    assert len(caught.value.message) < 1000


def test_after_all_of_them_a_sound_bundle_still_loads(tmp_path: Path) -> None:
    for case in [case for case in CASES if "did not end" in case.reason]:
        with pytest.raises(case.error):
            load(write_bundle(tmp_path / case.name, case.model, case.files), limits=SHORT)
    model = plain_model()
    pack(tmp_path / "sound", model, plain_metadata(model), limits=LIMITS)
