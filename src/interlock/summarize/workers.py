"""Where summaries are made: threads that share one model, or processes with one each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from interlock.kernel.errors import ConfigError
from interlock.kernel.executor import LocalExecutor
from interlock.kernel.outcome import Outcome
from interlock.summarize.asked import SummaryModel
from interlock.summarize.route import Summarizer

ModelOpener = Callable[..., SummaryModel]


def open_model(
    name: str, *, instances: int = 1, cores: int = 1, memory_limit: int | None = None
) -> SummaryModel:
    """The model under `name`, or in the directory that it names, for so many summaries at a time.

    Raises EngineUnavailableError where there is none, BundleError where its files are not what
    they were, MissingExtraError without the extra `text`.
    """
    from interlock.engines.generate import Generator, load_text_model
    from interlock.summarize.model import EngineModel

    model = load_text_model(name)
    generator = Generator(
        model, workers=min(cores, instances), slots=instances, memory_limit=memory_limit
    )
    return EngineModel(name, model, generator)


def make_work(
    model: str | None, seconds: float | None, memory_limit: int | None = None
) -> Callable[[Sequence[Any]], list[Outcome[Any]]]:
    """In a worker process: a model of its own, and the route to it."""
    opened = None if model is None else open_model(model, memory_limit=memory_limit)
    return Summarizer(opened, seconds=seconds)


def open_executor(
    model: SummaryModel | None,
    *,
    instances: int,
    seconds: float | None,
    isolate: str | None = None,
    memory_limit: int | None = None,
) -> LocalExecutor:
    """Workers for `run`.

    isolate       name of the model that every worker process loads for itself; None for threads
                  that share `model`
    memory_limit  bytes that a worker process may use; needs `isolate`

    Raises ConfigError where a memory limit is asked of threads, and what loading raises.
    """
    if isolate is None:
        if memory_limit is not None:
            raise ConfigError("a memory limit needs processes", hint="add --isolate")
        return LocalExecutor(
            Summarizer(model, seconds=seconds), workers=instances, kind="threads", queued=0
        )
    options: Mapping[str, Any] = {"model": isolate, "seconds": seconds}
    return LocalExecutor(
        "interlock.summarize.workers:make_work",
        workers=instances,
        kind="processes",
        queued=0,
        options=options,
        memory_limit=memory_limit,
        # The route's own limits come first; this one ends what does not heed them.
        time_limit=None if seconds is None else 2 * seconds + 60.0,
    )
