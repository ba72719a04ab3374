"""`interlock experiment run`, `check`, `export` and `prices` on a shell."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from support.scripted_chat import Scripted, registered, say

from interlock.cli.app import run
from interlock.errors import EngineUnavailableError, RequestRejectedError
from interlock.experiment import directory

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def setup(tmp_path: Path) -> Path:
    """A configuration beside its prompts."""
    prompts = [{"id": f"prompt_{n:04}", "prompt": f"Question {n}?"} for n in range(1, 6)]
    (tmp_path / "prompts.json").write_text(json.dumps({"metadata": {}, "prompts": prompts}))
    path = tmp_path / "config.json"
    path.write_text(
        "{ // a pilot\n"
        '  "prompts_file": "prompts.json",\n'
        f'  "output_dir": {json.dumps(str(tmp_path / "out"))},\n'
        '  "models": [{"name": "m1", "type": "one", "temperature": 0.0}]\n}'
    )
    return path


def change(path: Path, **changes: Any) -> None:
    """Change fields of the configuration."""
    from interlock.experiment.config import load_config

    path.write_text(json.dumps(load_config(path) | changes))


def call(capsys: Captured, *arguments: object, code: int = 0) -> tuple[str, str]:
    """What a call prints; its exit code is checked."""
    found = run(["experiment", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert found == code, out + err
    return out, err


def as_json(capsys: Captured, *arguments: object, code: int = 0) -> Any:
    """The one document that a call prints."""
    return json.loads(call(capsys, *arguments, "--json", code=code)[0])


def test_run_prints_a_line_a_sample_and_its_files(capsys: Captured, setup: Path) -> None:
    with registered(one=Scripted()):
        out, err = call(capsys, "run", "--config", setup)
    lines = err.splitlines()
    assert re.fullmatch(r"\[1/5\] prompt_000\d: OK \(0\.0s\)", lines[1])
    assert sum(bool(re.match(r"\[\d/5\] ", line)) for line in lines) == 5
    assert "5 samples: 5 accepted" in out
    assert out.count("wrote ") == 2


def test_run_exits_with_1_where_a_sample_has_no_answer(capsys: Captured, setup: Path) -> None:
    def script(request: Any, attempt: int) -> Any:
        if request.key.endswith("prompt_0003|0"):
            return RequestRejectedError("no")
        return say(request)

    with registered(one=Scripted(script)):
        document = as_json(capsys, "run", "--config", setup, code=1)
        assert document["counts"] == {"accepted": 4, "flagged": 0, "refused": 0, "failed": 1}
        # Nothing is asked again unless told; then the failed one alone is.
        assert as_json(capsys, "run", "--config", setup, "--resume", code=1)["sent"] == 0
    one = Scripted()
    with registered(one=one):
        call(capsys, "run", "--config", setup, "--resume", "--retry-failed")
    assert list(one.asked) == ["m1_temp0.0|prompt_0003|0"]


def test_run_takes_a_subset_prompts_and_a_directory(
    capsys: Captured, setup: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps([{"id": f"q{n}", "prompt": "x"} for n in range(9)]))
    where = tmp_path / "elsewhere"
    with registered(one=Scripted()):
        document = as_json(
            capsys,
            *("run", "--config", setup, "--num-prompts", 3),
            *("--prompts", other, "--output", where),
        )
    assert document["samples"] == 3
    assert document["directory"] == str(where)


def test_mistakes_are_one_message(capsys: Captured, setup: Path, tmp_path: Path) -> None:
    assert "cannot be read" in call(capsys, "run", "--config", tmp_path / "no.json", code=2)[1]
    change(setup, models=[{"name": "m", "type": "claud"}])
    _, err = call(capsys, "run", "--config", setup, code=2)
    assert "unknown model type 'claud'" in err
    assert "claude" in err
    _, err = call(capsys, "run", "--config", setup, "--retry-failed", code=2)
    assert "--resume" in err
    assert not list((tmp_path / "out").glob("prompts_*"))


def findings(document: Any, level: str) -> list[str]:
    """The messages of a level."""
    return [f["message"] for f in document["findings"] if f["level"] == level]


def test_check_finds_a_good_setup_ready_and_writes_nothing(
    capsys: Captured, setup: Path, tmp_path: Path
) -> None:
    one = Scripted()
    with registered(one=one):
        out, _ = call(capsys, "check", "--config", setup)
        document = as_json(capsys, "check", "--config", setup)
    assert "ready to run" in out
    assert document["ok"]
    assert not one.asked
    assert not (tmp_path / "out").exists()


def test_check_names_every_mistake_before_anything_is_asked(
    capsys: Captured, setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACME_KEY", raising=False)
    (tmp_path / "prompts.json").write_text('[{"id": "a", "prompt": ""}, {"id": "b"}]')
    change(
        setup,
        models=[
            {"name": "m1", "type": "nothing"},
            {"name": "m2", "type": "one", "api_key": "${ACME_KEY}"},
        ],
        output_dir=str(setup),
    )
    with registered(one=Scripted()):
        document = as_json(capsys, "check", "--config", setup, code=1)
    errors = findings(document, "error")
    assert "line 1: prompts[0].prompt is empty" in errors
    assert "line 1: prompts[1].prompt is missing" in errors
    assert any("unknown model type 'nothing'" in e for e in errors)
    assert any("ACME_KEY is not set" in e for e in errors)
    assert any("is not a directory" in e for e in errors)
    change(setup, sed=1)
    assert findings(as_json(capsys, "check", "--config", setup, code=1), "error") == [
        "config: sed is not known; is it seed?"
    ]


def test_check_finds_a_model_that_cannot_be_used(capsys: Captured, setup: Path) -> None:
    class Broken(Scripted):
        async def capabilities(self, model: str) -> Any:
            raise EngineUnavailableError("no CUDA device is there", hint="set device to cpu")

    with registered(one=Broken()):
        out, _ = call(capsys, "check", "--config", setup, code=1)
        assert "error    model: model 'm1': no CUDA device is there" in out
        assert "set device to cpu" in out
        _, err = call(capsys, "run", "--config", setup, code=2)
        assert "model 'm1': no CUDA device is there" in err
        document = as_json(capsys, "check", "--config", setup, "--no-contact")
    assert findings(document, "warning") == ["'m1' was not contacted"]


def test_check_tells_of_a_finished_run_that_would_be_paid_for_again(
    capsys: Captured, setup: Path
) -> None:
    with registered(one=Scripted()):
        call(capsys, "run", "--config", setup)
        document = as_json(capsys, "check", "--config", setup)
    assert any("pays for, everything" in w for w in findings(document, "warning"))


def test_check_finds_the_directory_of_another_run(
    capsys: Captured, setup: Path, tmp_path: Path
) -> None:
    with registered(one=Scripted()):
        call(capsys, "run", "--config", setup)
        # As a run leaves it that was interrupted.
        (tmp_path / "out" / "checkpoint.json").write_text("{}")
        document = as_json(capsys, "check", "--config", setup)
        assert any("--resume" in f["hint"] for f in document["findings"])
        document = as_json(capsys, "check", "--config", setup, "--num-prompts", 3, code=1)
        assert any("asks something else" in e for e in findings(document, "error"))
        with directory.held(tmp_path / "out"):
            document = as_json(capsys, "check", "--config", setup, code=1)
        assert any("in use by" in e for e in findings(document, "error"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file system of its own")
def test_check_and_run_find_a_directory_that_cannot_be_written(
    capsys: Captured, setup: Path
) -> None:
    """/proc takes no files, whoever asks; a read-only disk says the same."""
    with registered(one=Scripted()):
        document = as_json(
            capsys, "check", "--config", setup, "--output", "/proc/interlock", code=1
        )
        assert any("cannot be written" in e for e in findings(document, "error"))
        _, err = call(capsys, "run", "--config", setup, "--output", "/proc/interlock", code=2)
    assert "output_dir /proc/interlock cannot be made" in err


def test_check_finds_a_full_disk(
    capsys: Captured, setup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    def full(path: Any) -> Any:
        return shutil._ntuple_diskusage(1 << 40, 1 << 40, 100)

    monkeypatch.setattr("interlock.experiment.check.shutil.disk_usage", full)
    with registered(one=Scripted()):
        document = as_json(capsys, "check", "--config", setup, code=1)
    assert any("are free" in e for e in findings(document, "error"))


@pytest.mark.parametrize(("samples", "level"), [(100, ""), (1000, "warning"), (10_000, "error")])
def test_check_counts_the_prompts_that_the_disk_is_for(
    capsys: Captured, setup: Path, monkeypatch: pytest.MonkeyPatch, samples: int, level: str
) -> None:
    import shutil

    def nearly_full(path: Any) -> Any:
        # For about 3,000 samples.
        return shutil._ntuple_diskusage(1 << 40, 1 << 40, 12 << 20)

    monkeypatch.setattr("interlock.experiment.check.shutil.disk_usage", nearly_full)
    change(setup, samples=samples)
    with registered(one=Scripted()):
        document = as_json(capsys, "check", "--config", setup, code=int(level == "error"))
    told = {f["level"] for f in document["findings"] if "are free" in f["message"]}
    assert told == ({level} if level else set())


def test_check_estimates_the_cost(capsys: Captured, setup: Path, tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("as_of = 2026-01-01\n[one]\nm1 = { input = 1.0, output = 10.0 }\n")
    with registered(one=Scripted()):
        document = as_json(
            capsys, "check", "--config", setup, "--prices", prices, "--budget", "0.001"
        )
    (estimate,) = document["estimates"]
    assert estimate["samples"] == 5
    assert estimate["expected_usd"] == pytest.approx(5 * 400 * 10 / 1e6, rel=0.01)
    assert estimate["worst_usd"] == pytest.approx(5 * 2048 * 10 / 1e6, rel=0.01)
    assert any("above the budget" in w for w in findings(document, "warning"))


def test_export_writes_the_files_again(capsys: Captured, setup: Path, tmp_path: Path) -> None:
    with registered(one=Scripted()):
        document = as_json(capsys, "run", "--config", setup)
    elsewhere = tmp_path / "elsewhere"
    again = as_json(capsys, "export", tmp_path / "out", "--output", elsewhere)
    assert again["pending"] == 0
    for first, second in zip(document["files"], again["files"], strict=True):
        assert Path(first).read_bytes() == Path(second).read_bytes()
    _, err = call(capsys, "export", tmp_path / "nowhere", code=1)
    assert "no journal" in err


def test_check_without_contact_estimates_what_it_can(
    capsys: Captured, setup: Path, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("as_of = 2026-01-01\n[one]\nm1 = { input = 1.0, output = 10.0 }\n")
    offline = ("check", "--config", setup, "--no-contact")
    with registered(one=Scripted()):
        asked = as_json(capsys, "check", "--config", setup, "--prices", prices)
        document = as_json(capsys, *offline, "--prices", prices, "--budget", "0.001")
        assert document["estimates"] == asked["estimates"] != []
        assert any("above the budget" in w for w in findings(document, "warning"))
        document = as_json(capsys, *offline, "--budget", "1")
        assert any("the price of 'm1' is not known" in w for w in findings(document, "warning"))
        document = as_json(capsys, *offline, "--budget", "1", "--allow-unknown-prices")
        assert findings(document, "warning") == ["'m1' was not contacted"]


def test_prices_are_shown_and_copied(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    out, _ = call(capsys, "prices")
    assert "claude-3-5-sonnet" in out
    copy = tmp_path / "mine.toml"
    call(capsys, "prices", "--copy", copy)
    copy.write_text(copy.read_text().replace("input = 2.5,", "input = 99.0,"))
    document = as_json(capsys, "prices", "--prices", copy)
    (entry,) = [e for e in document["prices"] if e["model"] == "gpt-4o"]
    assert entry["input"] == 99.0
    assert "exists" in call(capsys, "prices", "--copy", copy, code=2)[1]
    assert os.environ["XDG_CONFIG_HOME"] in document["user_file"]
