"""How many known facts summaries hold, by model, beside two controls that a model must beat.

    python bench/summarize_quality.py MODEL… [--input signatures|stripped|full] [--show]

The chunks are those of summarize_quality.json. Those of Python packages are read from this
environment, those of Debian packages from what `apt-get download` brings; where a package is not to
be had in its version, its chunks are left out, and the n that is printed says so.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from measure import machine

from interlock.kernel.drive import run_items
from interlock.kernel.intervals import wilson_interval
from interlock.summarize import Options
from interlock.summarize.asked import Asked, Summary, SummaryModel
from interlock.summarize.decode import decode
from interlock.summarize.evaluation import Case, Marks, mark, read_cases, shuffled
from interlock.summarize.plan import make_plan
from interlock.summarize.route import Summarizer
from interlock.summarize.tree import Selection, read_tree
from interlock.summarize.workers import open_model

SET = Path(__file__).with_suffix(".json")
KINDS = ("names", "purpose", "language", "all")


def fetch(cases: tuple[Case, ...], scratch: Path) -> dict[str, Path]:
    """Key -> the file that holds the chunk, of those that are here as they were recorded."""
    found = {}
    for package in dict.fromkeys((case.origin, case.package, case.version) for case in cases):
        root = _root(*package, scratch)
        for case in cases:
            if (case.origin, case.package, case.version) != package or root is None:
                continue
            file = root / case.path
            if file.is_file() and _digest(file, case) == case.sha256:
                found[case.key] = file
    return found


def _root(origin: str, package: str, version: str, scratch: Path) -> Path | None:
    if origin == "pypi":
        try:
            same = metadata.version(package) == version
        except metadata.PackageNotFoundError:
            return None
        return Path(str(metadata.distribution(package).locate_file(""))) if same else None
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return None
    target = scratch / package
    target.mkdir()
    wanted = f"{package}={version}"
    done = subprocess.run(
        ["apt-get", "download", wanted], cwd=target, capture_output=True, check=False
    )
    archives = list(target.glob("*.deb"))
    if done.returncode or not archives:
        return None
    subprocess.run(["dpkg", "-x", str(archives[0]), str(target)], check=True)
    return target


def _digest(file: Path, case: Case) -> str:
    text = decode(file.read_bytes())
    lines = () if text is None else text.lines[case.first - 1 : case.last]
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def asked_of(case: Case, file: Path, options: Options, model: SummaryModel | None) -> Asked:
    """What a run would ask of this chunk: the file alone is the tree."""
    selection = Selection(vendored=True, generated=True, data=True)
    plan = make_plan(read_tree(file, selection), options, model)
    return next(
        node.asked
        for node in plan.level("chunk")
        if node.sources[0].first <= case.first <= node.sources[0].last
    )


def summaries_of(
    asked: dict[str, Asked], model: SummaryModel | None, workers: int
) -> dict[str, Summary | None]:
    """The route's summary of each chunk."""
    items = [msgspec.to_builtins(item) for item in asked.values()]
    outcomes = run_items(Summarizer(model), items, workers=workers)
    return {
        key: None if outcome.value is None else msgspec.convert(outcome.value, Summary)
        for key, outcome in zip(asked, outcomes, strict=True)
    }


def row(name: str, marks: list[Marks]) -> str:
    """One line of the table: shares with their 95% intervals."""
    cells = []
    for kind in KINDS:
        held = sum(getattr(found, kind) for found in marks)
        low, high = wilson_interval(held, len(marks))
        cells.append(f"{held / len(marks):4.0%} ({low:.0%} to {high:.0%})")
    return f"| {name} | " + " | ".join(cells) + " |"


def show_model(name: str, cases: list[Case], files: dict[str, Path], arguments: Any) -> None:
    """Summarise every chunk with one model, and print what its summaries hold."""
    options = Options(view=arguments.input, instances=arguments.workers)
    model = open_model(name, instances=arguments.workers, cores=arguments.workers)
    asked = {case.key: asked_of(case, files[case.key], options, model) for case in cases}
    routed = summaries_of(asked, model, arguments.workers)
    extracted = summaries_of(asked, None, 1)
    own = {
        key: summary.text if summary is not None and summary.origin == "model" else None
        for key, summary in routed.items()
    }
    given = {key: summary.text if summary else None for key, summary in routed.items()}
    taken = {key: summary.text if summary else None for key, summary in extracted.items()}
    passed = [case for case in cases if own[case.key] is not None]
    print(f"\n{name} ({model.digest}), input {arguments.input}, n = {len(cases)} chunks;")
    print(f"the model's summary passed its checks for {len(passed)}\n")
    print("| summaries | names | purpose | language | all facts |\n| --- | --- | --- | --- | --- |")
    print(row("the route's: model, else extractive", [mark(c, given[c.key]) for c in cases]))
    print(row("the model's own, a refused one holds nothing", [mark(c, own[c.key]) for c in cases]))
    if passed:
        print(row("the model's own, where it passed", [mark(c, own[c.key]) for c in passed]))
        print(row("control: extractive, the same chunks", [mark(c, taken[c.key]) for c in passed]))
        control = shuffled(passed, own)
        cells = " | ".join(f"{control[kind]:4.0%}" for kind in KINDS)
        print(f"| control: the model's, of other chunks | {cells} |")
    print(row("control: extractive, all chunks", [mark(c, taken[c.key]) for c in cases]))
    better = sum(mark(c, own[c.key]).all and not mark(c, taken[c.key]).all for c in cases)
    worse = sum(mark(c, taken[c.key]).all and not mark(c, own[c.key]).all for c in cases)
    print(f"\nall facts in the model's and not in the extractive: {better}; the reverse: {worse}")
    if arguments.show:
        for case in cases:
            print(f"\n{case.key}\n  model: {own[case.key]}\n  extractive: {taken[case.key]}")


def main() -> None:
    """Fetch the chunks, then print a table a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--input", choices=("signatures", "stripped", "full"), default="signatures")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--show", action="store_true", help="print every summary")
    arguments = parser.parse_args()
    cases = read_cases(SET)
    with tempfile.TemporaryDirectory() as scratch:
        files = fetch(cases, Path(scratch))
        here = [case for case in cases if case.key in files]
        print(machine(("onnxruntime",)))
        print(f"{len(here)} of {len(cases)} chunks are here as they were recorded")
        for name in arguments.models:
            show_model(name, here, files, arguments)


if __name__ == "__main__":
    main()
