"""The lanes of a run: each model's provider made, looked at, and given its account and price."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard, cast

from interlock.engines.chat import BatchChatProvider, Capabilities, ChatProvider
from interlock.engines.chat_registry import make_chat_provider
from interlock.experiment.account import Account
from interlock.experiment.config import ExperimentConfig, ModelConfig, expand_all
from interlock.experiment.executor import Lane, Mailbox
from interlock.experiment.lane_async import AsyncLane, LoopThread
from interlock.experiment.lane_batch import BatchLane
from interlock.experiment.ledger import Ledger
from interlock.experiment.pacing import AccountLimits
from interlock.experiment.plan import Variant, asked_sampling
from interlock.experiment.prices import FREE, Price, PriceTable
from interlock.kernel.errors import ConfigError, EngineUnavailableError, InterlockError
from interlock.kernel.limits import RetryPolicy

Provider = ChatProvider | BatchChatProvider


def in_batches(provider: Provider) -> TypeGuard[BatchChatProvider]:
    """Whether the provider answers in the calling thread, several requests together."""
    return hasattr(provider, "answer_batch")


LOOK_SECONDS = 60.0
"""Longest time that a provider may take to say what it can do; it may load a model meanwhile."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found out about a model before anything is asked.

    not_applied  sampling parameters that were asked for and that it does not take
    """

    model: ModelConfig
    provider: Provider
    capabilities: Capabilities
    price: Price | None
    not_applied: tuple[str, ...]


@dataclass
class Lanes:
    """The lanes of all variants, and what must be closed after them."""

    by_label: Mapping[str, Lane]
    found: Sequence[Found]
    accounts: Mapping[str, Account]
    loop: LoopThread | None

    def close(self) -> None:
        """Close lanes, providers and the loop."""
        for lane in self.by_label.values():
            lane.close()
        close_all(self.found, self.loop)


def look(
    config: ExperimentConfig, prices: PriceTable, loop: LoopThread, *, base: Path
) -> list[Found]:
    """Make every model's provider and find out what it can do, before a request is paid for.

    Raises what the provider raises, with the model's name before it, and ConfigError where a model
    is not to be had or a sampling parameter that matters is not taken.
    """
    found: list[Found] = []
    try:
        for model in config.models:
            found.append(look_at(model, config, prices, loop, base=base))
    except BaseException:
        close_all(found, loop)
        raise
    return found


def look_at(
    model: ModelConfig,
    config: ExperimentConfig,
    prices: PriceTable,
    loop: LoopThread,
    *,
    base: Path,
) -> Found:
    """As `look`, for one model."""
    try:
        options = expand_all(dict(model.options), f"model '{model.label}'")
        provider = make_chat_provider(model.type, options, base=base)
        if in_batches(provider):
            capabilities = provider.capabilities(model.name)
        else:
            asked = cast(ChatProvider, provider).capabilities(model.name)
            capabilities = loop.run(asked, timeout=LOOK_SECONDS)
    except EngineUnavailableError as error:
        # The model that the configuration names, or what it is to run on, is not there.
        raise ConfigError(f"model '{model.label}': {error.message}", hint=error.hint) from None
    except InterlockError as error:
        if not error.message.startswith("model '"):
            error.message = f"model '{model.label}': {error.message}"
            error.args = (error.message,)
        raise
    except TimeoutError:
        raise ConfigError(
            f"model '{model.label}': its service did not say within {LOOK_SECONDS:g} s "
            "what it can do"
        ) from None
    missing = _not_applied(model, capabilities)
    found = Found(
        model=model,
        provider=provider,
        capabilities=capabilities,
        price=prices.price(model) if capabilities.paid else FREE,
        not_applied=missing,
    )
    try:
        _refuse_senseless(found, config)
    except ConfigError:
        close_all([found], loop)
        raise
    return found


def _not_applied(model: ModelConfig, capabilities: Capabilities) -> tuple[str, ...]:
    wanted = set(asked_sampling(model.sampling)) | {"seed"}
    if any(temperature is not None for temperature in model.temperatures):
        wanted.add("temperature")
    missing = wanted - capabilities.sampling
    missing |= {name for name, other in capabilities.not_with.items() if {name, other} <= wanted}
    if model.sampling.logprobs is not None and capabilities.logprobs is None:
        missing.add("logprobs")
    return tuple(sorted(missing))


def _refuse_senseless(found: Found, config: ExperimentConfig) -> None:
    model = found.model
    most = found.capabilities.most_temperature
    hottest = max((each for each in model.temperatures if each is not None), default=0.0)
    if "temperature" not in found.not_applied and hottest > most:
        raise ConfigError(
            f"model '{model.label}': temperature is {hottest:g}; its service takes 0 … {most:g}"
        )
    if "temperature" in found.not_applied and len(model.temperatures) > 1:
        raise ConfigError(
            f"model '{model.label}' takes no temperature; "
            f"{len(model.temperatures)} temperatures would be {len(model.temperatures)} times "
            "the same",
            hint="leave 'temperature' out for this model",
        )
    # A seed that a service does not take is told in the records; that is no reason to stop.
    refused = [name for name in found.not_applied if name != "seed"]
    if config.on_not_applied == "refuse" and refused:
        raise ConfigError(
            f"model '{model.label}' takes no {', no '.join(refused)}, and on_not_applied is "
            "'refuse'",
            hint="leave it out for this model, or set on_not_applied to 'record'",
        )


def check_prices(
    prices: Mapping[str, Price | None], config: ExperimentConfig, *, allow_unknown: bool
) -> None:
    """Raise ConfigError where there is a budget and the price of a model is not known.

    `prices` are by the model's label, FREE where its requests cost nothing.
    """
    unknown = [label for label, price in prices.items() if price is None]
    if unknown and config.budget_usd is not None and not allow_unknown:
        raise ConfigError(
            f"there is a budget, and the price of {', '.join(unknown)} is not known",
            hint="add it to a copy of the table (`interlock experiment prices --copy FILE`) and "
            "give that with --prices, or pass --allow-unknown-prices to leave it uncounted",
        )


def build(
    config: ExperimentConfig,
    variants: Sequence[Variant],
    found: Sequence[Found],
    loop: LoopThread,
    mailbox: Mailbox,
    ledger: Ledger,
    *,
    worst: Mapping[str, float],
) -> Lanes:
    """A lane a variant. `worst` holds the worst price of any sample, by the variant's label."""
    by_model = {each.model.label: each for each in found}
    accounts: dict[str, Account] = {}
    turns: dict[str, threading.Lock] = {}
    retry = RetryPolicy(
        retries=config.max_retries, first=1.0, factor=2.0, longest=60.0, jitter="added"
    )
    lanes: dict[str, Lane] = {}
    for variant in variants:
        model = variant.model
        each = by_model[model.label]
        provider = each.provider
        if in_batches(provider):
            lanes[variant.label] = BatchLane(
                variant,
                provider,
                mailbox,
                batch_size=model.batch_size if each.capabilities.batches else 1,
                retries=config.max_retries,
                turn=turns.setdefault(model.label, threading.Lock()),
            )
            continue
        account = accounts.get(model.account)
        if account is None:
            limits = account_limits(model)
            account = accounts[model.account] = Account(model.account, limits)
        lanes[variant.label] = AsyncLane(
            variant,
            cast(ChatProvider, provider),
            account,
            loop,
            mailbox,
            retry=retry,
            retry_timeouts=config.retry_timeouts,
            price=each.price,
            ledger=ledger,
            longest_prompt=worst.get(variant.label, 0.0),
        )
    return Lanes(lanes, found, accounts, loop)


def account_limits(model: ModelConfig) -> AccountLimits:
    """The limits that a model declares for its account."""
    limits = model.limits
    concurrency = limits.get("concurrency")
    return AccountLimits(
        requests=limits.get("requests_per_minute"),
        tokens=limits.get("tokens_per_minute"),
        burst=limits.get("burst_size"),
        concurrency=None if concurrency is None else int(concurrency),
    )


def close_all(found: Sequence[Found], loop: LoopThread | None) -> None:
    """Close the providers, then the loop's connections."""
    for each in found:
        if in_batches(each.provider):
            each.provider.close()
        elif loop is not None:
            loop.run(cast(ChatProvider, each.provider).close(), timeout=10.0)
