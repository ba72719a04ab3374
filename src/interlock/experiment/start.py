"""How a run starts: fresh or resumed, with its models found and looked at."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from interlock.experiment import directory
from interlock.experiment.answers import Sample
from interlock.experiment.config import ExperimentConfig
from interlock.experiment.lane_async import LoopThread
from interlock.experiment.lanes import Found, check_prices, look
from interlock.experiment.plan import Variant, variants
from interlock.experiment.prices import FREE, Price, PriceTable
from interlock.experiment.records import PromptResult
from interlock.kernel.journal import Journal

Runner = Callable[[Sample], PromptResult]
"""Asks one sample, retries and all; what the pilot's own kinds of models are."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run is started; what it asks is the configuration's.

    resume                go on with the directory's unfinished run
    accept_changes        go on even where the configuration or the prompts differ
    retry_failed          on resuming, ask failed samples again
    prices                a price table of the user's own
    allow_unknown_prices  with a budget, leave models whose price is not known uncounted
    export                write the result files at the end
    """

    resume: bool = False
    accept_changes: bool = False
    retry_failed: bool = False
    prices: Path | None = None
    allow_unknown_prices: bool = False
    export: bool = True


AS_GIVEN = RunOptions()


class Start:
    """What a start is given, and the models that it found."""

    def __init__(
        self,
        journal: Journal,
        where: Path,
        config: ExperimentConfig,
        raw: dict[str, Any],
        source: Path,
        options: RunOptions,
        prices: PriceTable,
        runners: Callable[[Variant], Runner | None],
        base: Path,
    ) -> None:
        self.journal = journal
        self.where = where
        self.config = config
        self.raw = raw
        self.source = source
        self.options = options
        self.prices = prices
        self.base = base
        self.variants = variants(config)
        own = {variant.label: runners(variant) for variant in self.variants}
        self.runners = {label: runner for label, runner in own.items() if runner is not None}
        self.loop: LoopThread | None = None
        self.found: list[Found] = []
        self.notes: list[str] = []

    def take(self, stack: ExitStack) -> directory.Taken:
        """The run, fresh or resumed, held; models are looked at before a fresh one is entered."""
        if self.options.resume:
            last, note = directory.to_resume(self.journal, self.where)
            if note:
                self.notes.append(note)
            if last is not None:
                return directory.resume(
                    self.journal,
                    self.where,
                    self.config,
                    self.raw,
                    self.source,
                    last.run_id,
                    accept_changes=self.options.accept_changes,
                )
        else:
            directory.refuse_unfinished(self.journal, self.where)
        prepared = directory.prepare(self.where, self.config, self.raw, self.source)
        try:
            self.look(stack)
            return directory.begin(self.journal, self.config, prepared)
        except BaseException:
            if prepared.plan.run_id not in {run.run_id for run in self.journal.runs()}:
                prepared.discard()
            raise

    def look(self, stack: ExitStack) -> None:
        """Find out what the models can do, once."""
        if self.loop is not None:
            return
        self.loop = LoopThread()
        stack.callback(self.loop.close)
        asked = [m for m in self.config.models if not self._runs_itself(m.label)]
        config = replace(self.config, models=tuple(asked))
        self.found = look(config, self.prices, self.loop, base=self.base)
        check_prices(
            {each.model.label: each.price for each in self.found},
            self.config,
            allow_unknown=self.options.allow_unknown_prices,
        )
        for each in self.found:
            for name in each.not_applied:
                self.notes.append(
                    f"model '{each.model.label}' takes no {name}: recorded as not applied"
                )
            if each.price is None:
                self.notes.append(f"the price of '{each.model.label}' is not known: cost is null")

    def _runs_itself(self, label: str) -> bool:
        return any(v.model.label == label and v.label in self.runners for v in self.variants)

    def price(self, variant: Variant) -> Price | None:
        """The price of a variant's tokens."""
        if variant.label in self.runners:
            return FREE
        if self.loop is None:
            # A run that is complete contacts nobody.
            return FREE if variant.model.type == "local" else self.prices.price(variant.model)
        return next(each.price for each in self.found if each.model.label == variant.model.label)
