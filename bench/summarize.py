"""Chunks a second, service time and parallel efficiency of summaries, by what the model sees.

    python bench/summarize.py [TREE] [--model smollm2] [--chunks 24] [--rounds 1]
    python bench/summarize.py [TREE] --whole signatures|full [--output DIRECTORY]

TREE is Tokio's source by default, as Debian's librust-tokio-dev has it, which apt-get fetches; of a
tree of one's own, `--include` chooses files. With `--whole` the tree is summarised as `interlock
summarize --instances 20` does, resumable in DIRECTORY, and the contracts of the run are printed.
Else, one run: the same chunks, spread over TREE, are summarised with one instance on one core and
with one instance a core on all cores, by signatures and by full text, in turn. Efficiency is chunks
a second on all cores / (cores x chunks a second on one); service time is the model's, attempts that
were refused included. Peak memory is the process's, all of the above in one.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from measure import bar, machine

from interlock.kernel.drive import run_items
from interlock.kernel.outcome import Outcome
from interlock.summarize import Options, contracts, summarize
from interlock.summarize.plan import make_plan
from interlock.summarize.route import Summarizer
from interlock.summarize.tree import Selection, read_tree
from interlock.summarize.views import View
from interlock.summarize.workers import open_model

PACKAGE = "librust-tokio-dev"
INSTANCES = 20


@contextmanager
def tokio() -> Iterator[Path]:
    """Tokio's source, from the user's own Debian mirror."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["apt-get", "download", PACKAGE], cwd=scratch, check=True)
        [archive] = Path(scratch).glob("*.deb")
        subprocess.run(["dpkg", "-x", str(archive), scratch], check=True)
        [tree] = Path(scratch).glob("usr/share/cargo/registry/tokio-*")
        yield tree


def whole(tree: Path, include: tuple[str, ...], view: View, name: str, output: Path) -> None:
    """Summarise all of the tree, and print what the run kept."""
    options = Options(view=view, instances=INSTANCES, selection=Selection(include=include))
    started, worked = time.perf_counter(), time.process_time()
    cores = contracts.cores()
    with closing(open_model(name, instances=INSTANCES, cores=cores)) as model:
        loaded = time.perf_counter() - started
        done = summarize(tree, output, options, model=model, init_seconds=loaded)
    found = done.contracts
    print(f"{view}, all of {tree.name}: {found.seconds:,.0f} s of wall time on {found.cores} cores")
    for what, measured, limit, kept in found.kept():
        held = {True: "kept", False: "MISSED", None: ""}[kept]
        print(f"  {what}: {measured} ({limit}) {held}")
    print(f"  the model's own: {found.model_share:.1%} of {found.chunks} chunks")
    spent = (time.process_time() - worked) / max(1, found.asked)
    print(f"  median service time {found.chunk_seconds_median or 0.0:.2f} s a chunk")
    print(f"  {spent:.2f} s of processor time a chunk, all that stands above chunks included")
    print(
        f"  {found.tokens_a_second or 0.0:,.0f} tokens a second, {found.asked} chunks in this start"
    )


def sample(tree: Path, include: tuple[str, ...], view: View, model: Any, n: int) -> list[Any]:
    """`n` chunks in even steps over the tree, as an executor gets them."""
    read = read_tree(tree, Selection(include=include))
    chunks = make_plan(read, Options(view=view), model).level("chunk")
    step = max(1, len(chunks) // n)
    return [msgspec.to_builtins(node.asked) for node in chunks[::step][:n]]


def timed(model: Any, items: list[Any], workers: int) -> tuple[float, list[Outcome[Any]]]:
    """Chunks a second, and the outcomes."""
    started = time.perf_counter()
    outcomes = list(run_items(Summarizer(model), items, workers=workers))
    return len(items) / (time.perf_counter() - started), outcomes


def main() -> None:
    """Measure, and print a table and the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tree", type=Path, nargs="?")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--chunks", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--include", action="append", default=[])
    parser.add_argument("--whole", choices=("signatures", "full"))
    parser.add_argument("--output", type=Path, default=Path("results/summarize"))
    arguments = parser.parse_args()
    print(machine(("onnxruntime",)))
    if arguments.tree is None:
        with tokio() as tree:
            measure(tree, ("*.rs",), arguments)
    else:
        measure(arguments.tree, tuple(arguments.include), arguments)


def measure(tree: Path, include: tuple[str, ...], arguments: argparse.Namespace) -> None:
    """Measure one tree."""
    if arguments.whole:
        output = arguments.output / arguments.whole
        return whole(tree, include, arguments.whole, arguments.model, output)
    cores = contracts.cores()
    started = time.perf_counter()
    models = {n: open_model(arguments.model, instances=n, cores=n) for n in (1, cores)}
    print(f"{cores} cores; both models opened in {time.perf_counter() - started:.1f} s")
    views: tuple[View, ...] = ("signatures", "full")
    rates: dict[tuple[View, int], list[float]] = {(v, n): [] for v in views for n in models}
    last: dict[View, list[Outcome[Any]]] = {}
    items = {view: sample(tree, include, view, models[1], arguments.chunks) for view in views}
    for _ in range(arguments.rounds):
        for view in views:
            for n, model in models.items():
                rate, outcomes = timed(model, items[view], n)
                rates[view, n].append(rate)
                print(f"{view}, {n} at a time: {rate:.2f} chunks/s", flush=True)
                if n == 1:
                    last[view] = outcomes
    for view in views:
        spent = [outcome.value["spent"] for outcome in last[view] if outcome.value]
        seconds = sorted(each["seconds"] for each in spent)
        read = statistics.mean(each["input_tokens"] for each in spent)
        own = sum(o.value is not None and o.value["origin"] == "model" for o in last[view])
        one = statistics.median(rates[view, 1])
        print(
            f"\n{view}, n = {len(items[view])} chunks: {read:,.0f} tokens read a chunk, refused "
            f"attempts included; the model's own {own}; {1 / one:.2f} s a chunk on one core"
        )
        print(bar(f"{view}: median service time, one core", statistics.median(seconds), 2.0))
        print(bar(f"{view}: 95th percentile of it", seconds[int(0.95 * (len(seconds) - 1))], 2.0))
        if cores > 1:
            both = statistics.median(rates[view, cores])
            print(
                bar(
                    f"{view}: parallel efficiency on {cores} cores",
                    both / (cores * one),
                    0.8,
                    at_least=True,
                )
            )
    print(bar("peak memory in GiB", contracts.usage().memory_bytes / 2**30, 4.0))


if __name__ == "__main__":
    main()
