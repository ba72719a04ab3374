"""Experiments against `inspect-ai`, against declared and undeclared limits, and at 100,000 prompts.

    python bench/experiment.py [speed] [pacing] [scale]

All of it talks to the fake server of the tests on loopback, in a process of its own, through the
OpenAI SDK. The journal is on, synced at every group of answers.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import peer_venv

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.fake_llm import FakeLLM, Plan  # noqa: E402

PEER = ["inspect-ai==0.3.285", "openai==3.54.0"]
LATENCY = 0.05
ROUNDS = 3
SAMPLES = {20: 600, 100: 1_000}


def prompts_file(directory: Path, count: int) -> Path:
    """A benchmark of `count` prompts of about 200 characters."""
    path = directory / f"prompts_{count}.json"
    if not path.exists():
        with path.open("w", encoding="utf-8") as file:
            file.write('{"metadata": {}, "prompts": [\n')
            for n in range(count):
                prompt = {
                    "id": f"prompt_{n:06}",
                    "original_id": f"cve_existence-REAL-{n:06}",
                    "category": f"category_{n % 5}",
                    "prompt": f"Question number {n}: " + "some words " * 16,
                    "is_synthetic_probe": n % 3 == 0,
                    "gold_label": {"exists": True, "description": "exists (a thing)"},
                    "gold_refs": ["CVE-2023-34362"],
                }
                file.write((",\n" if n else "") + json.dumps(prompt))
            file.write("\n]}\n")
    return path


def child(python: Path | str, script: str, given: dict[str, Any]) -> dict[str, Any]:
    """What a script of this directory prints, run by `python`."""
    done = subprocess.run(
        [str(python), str(ROOT / "bench" / script), json.dumps(given)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def config(directory: Path, prompts: Path, **model: Any) -> dict[str, Any]:
    """A configuration of one model, into a fresh directory."""
    output = tempfile.mkdtemp(dir=directory)
    entry = {"name": "m", "type": "openai", "temperature": 0.0, **model}
    return {"prompts_file": str(prompts), "output_dir": output, "models": [entry]}


def journal_bytes(given: dict[str, Any]) -> int:
    """The journal's size after a run."""
    return (Path(given["output_dir"]) / "journal.sqlite").stat().st_size


def speed(directory: Path) -> None:
    """Samples a second and CPU a sample, ours and the peer's in turns."""
    peer = peer_venv.interpreter("inspect", PEER)
    for concurrency, count in SAMPLES.items():
        prompts = prompts_file(directory, count)
        ours, theirs, sizes = [], [], []
        with FakeLLM(Plan(latency=LATENCY, keep=0)) as server:
            for _ in range(ROUNDS):
                theirs.append(
                    child(
                        peer,
                        "peer_inspect.py",
                        {
                            "prompts": str(prompts),
                            "base_url": server.openai,
                            "concurrency": concurrency,
                            "log_dir": tempfile.mkdtemp(dir=directory),
                        },
                    )
                )
                given = config(directory, prompts, base_url=server.openai, concurrency=concurrency)
                ours.append(child(sys.executable, "experiment_child.py", {"config": given}))
                sizes.append(journal_bytes(given) / count)
        ratios = [b["seconds"] / a["seconds"] for a, b in zip(ours, theirs, strict=True)]
        mine = statistics.median(count / each["seconds"] for each in ours)
        other = statistics.median(count / each["seconds"] for each in theirs)
        cpu = statistics.median(each["cpu"] / count for each in ours)
        peer_cpu = statistics.median(each["cpu"] / count for each in theirs)
        ratio = statistics.median(ratios)
        print(
            f"concurrency {concurrency}: {mine:.0f} samples/s, inspect-ai {other:.0f}/s, ratio "
            f"{ratio:.1f} ({min(ratios):.1f} … {max(ratios):.1f}, {ROUNDS} rounds of {count}); "
            f"CPU a sample {1000 * cpu:.2f} ms, inspect-ai {1000 * peer_cpu:.2f} ms; journal "
            f"{statistics.median(sizes):.0f} B a sample"
        )
        print(measure.bar(f"samples/s at {concurrency}, over the peer's", ratio, 5, at_least=True))
        print(measure.bar(f"ms CPU a sample at {concurrency}", 1000 * cpu, 4))
        print(measure.bar(f"journal bytes a sample at {concurrency}", max(sizes), 1024))


def pacing(directory: Path) -> None:
    """Time over the ideal and 429s, at declared limits and at one that is not declared."""
    prompts = prompts_file(directory, 600)
    cases: tuple[tuple[str, float | None, float | None, dict[str, int]], ...] = (
        ("1,200 requests a minute", 1200, None, {"requests_per_minute": 1200}),
        ("90,000 tokens a minute", None, 90_000, {"tokens_per_minute": 90_000}),
        ("an undeclared 1,200 requests a minute", 1200, None, {}),
    )
    for name, rpm, tpm, declared in cases:
        with FakeLLM(Plan(latency=0.2, jitter=0.5, keep=0, rpm=rpm, tpm=tpm)) as server:
            given = config(directory, prompts, base_url=server.openai, **declared)
            child(sys.executable, "experiment_child.py", {"config": given})
            counts = server.counts()
        limited = counts.kinds.get("limited", 0)
        # The service's buckets hold a second's worth, which passes at once.
        if tpm is not None:
            ideal = (counts.tokens + sum(map(_input_tokens, range(600)))) / (tpm / 60) - 1
        else:
            assert rpm is not None
            ideal = 600 / (rpm / 60) - 1
        over = counts.seconds / ideal
        share = limited / counts.requests
        print(
            f"{name}: 600 answers in {counts.seconds:.2f} s, ideal {ideal:.2f} s, ratio "
            f"{over:.3f}, {limited} 429s of {counts.requests} requests"
        )
        if declared:
            print(measure.bar(f"{name}: time over the ideal", over, 1.03))
            print(measure.bar(f"{name}: 429s", limited, 1))
        else:
            print(measure.bar(f"{name}: time over the ideal", over, 1.10))
            print(measure.bar(f"{name}: share of 429s", share, 0.10))


def _input_tokens(n: int) -> int:
    """Tokens of a prompt as the server counts them."""
    return (len(f"Question number {n}: " + "some words " * 16) + 3) // 4


def scale(directory: Path) -> None:
    """Memory at 1,000 and 100,000 prompts, and the time from a resume to its first request."""
    few = config(directory, prompts_file(directory, 1_000), type="instant", concurrency=50)
    small = child(sys.executable, "experiment_child.py", {"config": few})
    many = config(directory, prompts_file(directory, 100_000), type="instant", concurrency=50)
    large = child(sys.executable, "experiment_child.py", {"config": many, "stop_after": 99_900})
    rest = child(sys.executable, "experiment_child.py", {"config": many, "resume": True})
    growth = max(large["peak_mb"], rest["peak_mb"]) - small["peak_mb"]
    print(
        f"peak memory: {small['peak_mb']:.0f} MB at 1,000 prompts, {large['peak_mb']:.0f} MB at "
        f"100,000, {rest['peak_mb']:.0f} MB resuming and exporting them; "
        f"{1000 * large['cpu'] / large['samples']:.2f} ms CPU a sample without a network; "
        f"journal {journal_bytes(many) / 100_000:.0f} B a sample"
    )
    print(f"resume of 100,000 records to the first request: {rest['first']:.2f} s")
    print(measure.bar("MB of growth from 1,000 to 100,000 prompts", growth, 30))
    print(measure.bar("seconds to the first request after a resume", rest["first"], 2))


def main(chosen: list[str]) -> None:
    """Run the chosen parts, all of them by default."""
    print(measure.machine(["msgspec", "openai"]))
    with tempfile.TemporaryDirectory() as scratch:
        for part in (speed, pacing, scale):
            if not chosen or part.__name__ in chosen:
                part(Path(scratch))


if __name__ == "__main__":
    main(sys.argv[1:])
