"""The demonstration's summaries, on a small tree and with a tiny model under its name."""

from pathlib import Path

import pytest
from support.source_trees import small_tree
from support.text_models import save_directory

from interlock.demo import summaries
from interlock.engines.generate.convert.publish import convert
from interlock.kernel.outcome import Status


def test_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOCK_MODELS", str(tmp_path))
    assert summaries.missing() == "the model smollm2"


def test_a_killed_run_is_resumed_and_nothing_is_lost_or_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOCK_MODELS", str(tmp_path / "store"))
    monkeypatch.setattr(summaries, "SOURCE", small_tree(tmp_path / "tree"))
    monkeypatch.setattr(summaries, "KILL_AFTER", 3)
    source = save_directory(tmp_path / "source")
    target = tmp_path / "store" / summaries.MODEL
    convert(source, target, name="tiny", weights="int8", accept_fidelity=True)
    assert summaries.missing() is None
    found = summaries.run_killed_and_resumed(tmp_path / "out")
    assert found.acknowledged >= 3
    assert (found.lost, found.repeated) == (0, 0)
    assert found.summaries >= 11
    assert sum(found.counts[status] for status in Status if status.usable) == found.summaries
    assert found.page.is_file()
