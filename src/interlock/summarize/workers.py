"""Where summaries are made: threads that share one model, or processes with one each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from interlock.kernel.errors import ConfigError, InterlockError, MemoryLimitError
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
    """In a worker process: a model of its own, and the route to it.

    `memory_limit` is the process's own. Raises MemoryLimitError where the model does not fit.
    """
    if model is None:
        return Summarizer(None, seconds=seconds)
    try:
        return Summarizer(open_model(model), seconds=seconds)
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        # Under a limit, libraries fail to map themselves, to start threads and to allocate, each
        # with an error of its own.
        if memory_limit is None or isinstance(error, InterlockError):
            raise
        raise MemoryLimitError(
            f"the model {model!r} cannot be opened with {memory_limit / 1e6:,.0f} MB of memory",
            hint="raise --memory-limit, or leave it out",
        ) from error


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
    options: Mapping[str, Any] = {
        "model": isolate,
        "seconds": seconds,
        "memory_limit": memory_limit,
    }
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
