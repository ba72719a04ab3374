"""The command with a real, tiny model: estimated, interrupted by Ctrl-C, and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.source_trees import small_tree
from support.text_models import save_directory

from interlock.cli.app import run
from interlock.engines.generate.convert.publish import convert
from interlock.kernel.journal import Journal

HANG_SECONDS = 120.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    source = save_directory(root / "source")
    convert(source, root / "bundle", name="tiny", weights="int8", accept_fidelity=True)
    return root / "bundle"


def arguments(tree: Path, bundle: Path, output: Path) -> list[str]:
    shown = ["--input", "full", "--chunk-lines", "1", "--max-input-tokens", "200"]
    return ["summarize", str(tree), "--model", str(bundle), "-o", str(output), "--json", *shown]


def recorded(journal: Path) -> int:
    """How many summaries are there."""
    if not journal.exists():
        return 0
    with Journal.open(journal) as opened:
        return sum(sum(info.counts.values()) for info in opened.runs())


def nodes(output: Path) -> list[tuple[str, str]]:
    found = json.loads((output / "summary.json").read_text())["nodes"]
    return [(node["key"], node["summary"]) for node in found]


def test_ctrl_c_ends_it_with_130_and_the_same_command_goes_on(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree, output = small_tree(tmp_path / "tree"), tmp_path / "out"
    command = [sys.executable, "-m", "interlock", *arguments(tree, bundle, output)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        end = time.monotonic() + HANG_SECONDS
        while recorded(output / "journal.sqlite") < 3:
            assert child.poll() is None, "it ended before it could be interrupted"
            assert time.monotonic() < end
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        said, _ = child.communicate(timeout=HANG_SECONDS)
    assert child.returncode == 130
    assert json.loads(said)["error"]["code"] == "interrupted"
    kept = recorded(output / "journal.sqlite")

    def called(*more: str, to: Path = output) -> Any:
        assert run([*arguments(tree, bundle, to), *more]) == 0
        return json.loads(capsys.readouterr().out)

    estimated = called("--dry-run")
    assert estimated["counted"] is True
    # Equal lines elsewhere have the same address, and so a summary already.
    assert estimated["reused"] >= kept
    assert called()["reused"] == estimated["reused"]
    after = called("--dry-run")
    assert (after["reused"], after["tokens"], after["seconds"]) == (after["nodes"], 0, 0.0)
    called(to=tmp_path / "whole")
    assert nodes(output) == nodes(tmp_path / "whole")
