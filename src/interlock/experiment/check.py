"""What `interlock experiment check` looks at: everything that would stop or spoil a run later.

Nothing is written but one small file that is removed again, and nothing is asked that costs money.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from interlock.experiment import checkpoint, directory
from interlock.experiment.asked_prompts import AskedPrompts, copy_prompts
from interlock.experiment.config import ExperimentConfig, expand, parse_config
from interlock.experiment.estimate import Estimate, estimate
from interlock.experiment.lane_async import LoopThread
from interlock.experiment.lanes import (
    Found,
    Provider,
    check_prices,
    close_all,
    in_batches,
    look_at,
)
from interlock.experiment.plan import asked, read_plan, variants
from interlock.experiment.prices import FREE, Price, PriceTable
from interlock.experiment.prompts import Problem, scan_prompts
from interlock.experiment.records import JOURNAL_NAME
from interlock.experiment.run import DEFAULT_OUTPUT
from interlock.kernel.errors import InterlockError
from interlock.kernel.journal import Journal
from interlock.kernel.journal_lock import FileHold

Level = Literal["ok", "warning", "error"]

BYTES_A_SAMPLE = 4096
"""Disk space that a sample takes, journal and result files together, with a long answer."""
PROBE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `what` is config, prompts, model, output, prices or cost."""

    level: Level
    what: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """All findings, and the estimate where the models and prompts could be read."""

    findings: tuple[Finding, ...]
    estimates: tuple[Estimate, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way of the run."""
        return all(finding.level != "error" for finding in self.findings)


def check_experiment(
    raw: Mapping[str, Any],
    *,
    prices: Path | None = None,
    allow_unknown_prices: bool = False,
    contact: bool = True,
    base: Path | None = None,
) -> Checked:
    """Look at configuration, prompts, models, output directory, prices and cost.

    contact  let each model's provider look at its model: services are asked whether they know it,
             which costs nothing, and models on this machine are loaded
    """
    base = Path.cwd() if base is None else base
    found: list[Finding] = []
    try:
        config = parse_config(raw)
    except InterlockError as error:
        return Checked((_error("config", error),))
    count = sum(len(model.temperatures) for model in config.models)
    found.append(Finding("ok", "config", f"{len(config.models)} models, {count} variants"))
    source, asked_prompts = _prompts(config, base, found)
    table = _table(config, prices, base, found)
    known = _models(config, table, base, contact, found)
    _output(config, base, asked_prompts, found)
    estimates: list[Estimate] = []
    try:
        if known is not None and source is not None:
            if contact:
                check_prices(known, config, allow_unknown=allow_unknown_prices)
            else:
                known = _priced(config, known, allow_unknown_prices, found)
            estimates = _cost(config, known, source, found)
    except InterlockError as error:
        found.append(_error("prices", error))
    return Checked(tuple(found), tuple(estimates))


def _error(what: str, error: InterlockError) -> Finding:
    return Finding("error", what, error.message, error.hint)


def _prompts(config: ExperimentConfig, base: Path, found: list[Finding]) -> tuple[Path | None, int]:
    """The prompts' file, None where it cannot be used, and how many of its prompts are asked."""
    if config.prompts_file is None:
        found.append(Finding("error", "prompts", "prompts_file is missing", "use --prompts"))
        return None, 0
    strata: Counter[tuple[str, bool]] = Counter()
    good = True
    try:
        source = base / expand(config.prompts_file, "prompts_file")
        for each in scan_prompts(source):
            if isinstance(each, Problem):
                good = False
                found.append(Finding("error", "prompts", str(each)))
            else:
                strata[each.category, each.is_synthetic] += 1
    except InterlockError as error:
        found.append(_error("prompts", error))
        return None, 0
    if not good:
        return None, 0
    total = sum(strata.values())
    synthetic = sum(n for (_, made_up), n in strata.items() if made_up)
    categories = len({category for category, _ in strata})
    found.append(
        Finding(
            "ok",
            "prompts",
            f"{total} prompts in {categories} categories, {synthetic} of them synthetic probes",
        )
    )
    if config.num_prompts is not None and config.num_prompts > total:
        found.append(
            Finding("warning", "prompts", f"num_prompts is {config.num_prompts}; all {total} run")
        )
    return source, min(total, config.num_prompts or total)


def _table(
    config: ExperimentConfig, prices: Path | None, base: Path, found: list[Finding]
) -> PriceTable | None:
    try:
        path = prices
        if path is None and config.prices_file is not None:
            path = base / expand(config.prices_file, "prices_file")
        return PriceTable(path)
    except InterlockError as error:
        found.append(_error("prices", error))
        return None


def _models(
    config: ExperimentConfig,
    prices: PriceTable | None,
    base: Path,
    contact: bool,
    found: list[Finding],
) -> dict[str, Price | None] | None:
    """The price of each model by its label, None where it is not known; no dict where one is unfit.

    A model that was not contacted may be free all the same, unless its price is known.
    """
    if prices is None:
        return None
    models: list[Found] = []
    known: dict[str, Price | None] = {}
    loop = LoopThread()
    good = True
    try:
        for model in config.models:
            try:
                if not contact:
                    here = in_batches(_make_only(model, base))
                    found.append(Finding("warning", "model", f"'{model.label}' was not contacted"))
                    known[model.label] = FREE if here else prices.price(model)
                    continue
                each = look_at(model, config, prices, loop, base=base)
            except InterlockError as error:
                found.append(_error("model", error))
                good = False
                continue
            models.append(each)
            known[model.label] = each.price
            found.append(Finding("ok", "model", f"'{model.label}' can be asked"))
            for name in each.not_applied:
                found.append(
                    Finding(
                        "warning",
                        "model",
                        f"'{model.label}' takes no {name}; records will say that it is not applied",
                    )
                )
        close_all(models, loop)
    finally:
        loop.close()
    return known if good else None


def _priced(
    config: ExperimentConfig,
    known: Mapping[str, Price | None],
    allow_unknown: bool,
    found: list[Finding],
) -> dict[str, Price | None]:
    """Those whose price is known; of the others only contact tells whether they cost anything."""
    if config.budget_usd is not None and not allow_unknown:
        found += [
            Finding(
                "warning",
                "prices",
                f"the price of '{label}' is not known: with a budget the run is refused, unless "
                "the model is free",
                "give a table with --prices, or pass --allow-unknown-prices",
            )
            for label, price in known.items()
            if price is None
        ]
    return {label: price for label, price in known.items() if price is not None}


def _make_only(model: Any, base: Path) -> Provider:
    """Make the provider, which checks its options, its key and its package."""
    from interlock.engines.chat_registry import make_chat_provider
    from interlock.experiment.config import expand_all

    options = expand_all(dict(model.options), f"model '{model.label}'")
    return make_chat_provider(model.type, options, base=base)


def _output(config: ExperimentConfig, base: Path, asked_prompts: int, found: list[Finding]) -> None:
    try:
        where = base / expand(config.output_dir or DEFAULT_OUTPUT, "output_dir")
    except InterlockError as error:
        found.append(_error("output", error))
        return
    problem = _unwritable(where)
    if problem:
        found.append(Finding("error", "output", problem, "choose another directory with --output"))
        return
    problems = [*_other_run(config, where), *_space(config, where, asked_prompts)]
    found.extend(problems or [Finding("ok", "output", f"{where} can be written")])


def _unwritable(where: Path) -> str | None:
    """Why the directory cannot be written to, by trying: modes say little to root and on networks.

    The nearest existing directory stands for one that is not there yet.
    """
    there = where
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"output_dir {where}: {there} is not a directory"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"output_dir {where} cannot be written: {error.strerror or error}"
    return None


def _other_run(config: ExperimentConfig, where: Path) -> Iterator[Finding]:
    path = where / JOURNAL_NAME
    if not path.exists():
        return
    try:
        if FileHold.is_held(path, directory.HOLD):
            with Journal.open(path, create=False) as journal:
                yield _error("output", directory.in_use(journal, where))
            return
        with Journal.open(path, create=False) as journal:
            last = directory.latest(journal)
        if last is None:
            return
        if not checkpoint.exists(where):
            yield Finding(
                "warning",
                "output",
                f"{where} holds the run {last.run_id}; a fresh one asks, and pays for, everything",
                "choose another directory with --output for results of their own",
            )
            return
        done = last.items - last.pending
        state = f"run {last.run_id} in {where} is unfinished ({done} of {last.items} recorded)"
        if asked(read_plan(where, last.run_id).parsed()) != asked(config):
            yield Finding(
                "error",
                "output",
                f"{state} and asks something else",
                "choose another directory with --output, or see what differs with --resume",
            )
        else:
            yield Finding("warning", "output", state, "go on with --resume")
    except InterlockError as error:
        yield _error("output", error)


def _space(config: ExperimentConfig, where: Path, asked_prompts: int) -> Iterator[Finding]:
    there = where
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    samples = asked_prompts * config.samples * len(variants(config))
    wanted = samples * BYTES_A_SAMPLE
    if free < wanted:
        yield Finding(
            "error" if free < wanted / 10 else "warning",
            "output",
            f"{free / 2**20:,.0f} MiB are free in {there}; the run may take {wanted / 2**20:,.0f}",
            "make room, or choose another disk with --output",
        )


def _cost(
    config: ExperimentConfig,
    known: Mapping[str, Price | None],
    source: Path,
    found: list[Finding],
) -> list[Estimate]:
    chosen = [variant for variant in variants(config) if variant.model.label in known]
    with tempfile.TemporaryDirectory() as scratch:
        kept = Path(scratch) / "prompts.jsonl"
        copy_prompts(source, kept, config.num_prompts, config.seed)
        prompts = AskedPrompts(kept)
        try:
            prices = [known[variant.model.label] for variant in chosen]
            estimates = estimate(chosen, prices, prompts, config.samples)
        finally:
            prompts.close()
    for each, price in zip(estimates, prices, strict=True):
        if each.expected is None or each.worst is None:
            found.append(
                Finding("warning", "cost", f"{each.label}: {each.samples} samples, price not known")
            )
        elif price is not FREE:
            found.append(
                Finding(
                    "ok",
                    "cost",
                    f"{each.label}: {each.samples} samples, about ${each.expected:.4f}, "
                    f"${each.worst:.4f} at most",
                )
            )
    expected = sum(each.expected or 0.0 for each in estimates)
    if config.budget_usd is not None and expected > config.budget_usd:
        found.append(
            Finding(
                "warning",
                "cost",
                f"the estimate of ${expected:.4f} is above the budget of ${config.budget_usd:g}; "
                "the run will stop before it",
            )
        )
    return estimates
