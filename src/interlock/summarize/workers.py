"""Where summaries are made: threads that share one model, or processes with one each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interlock.kernel.errors import ConfigError, InterlockError, MemoryLimitError, MissingExtraError
from interlock.kernel.executor import LocalExecutor
from interlock.kernel.outcome import Outcome
from interlock.summarize.asked import SummaryModel
from interlock.summarize.models import Models, as_models, check_languages
from interlock.summarize.route import Summarizer

CACHE_BYTES = 2 << 30
"""Most that the key-value caches and shared prefixes of a model take, unless one input of its whole
context needs more for each core."""


def open_model(
    name: str,
    *,
    instances: int = 1,
    cores: int = 1,
    providers: Sequence[str] = (),
    expected_digest: str | None = None,
) -> SummaryModel:
    """The model under `name`, or in the directory that it names, for so many summaries at a time.

    `providers` are execution providers of ONNX Runtime by name; none for the processor.

    Raises ConfigError where there is no such model, BundleError where its files are not what they
    were, or not of `expected_digest`, EngineUnavailableError where a provider is absent,
    MissingExtraError without the extra `text`.
    """
    from interlock.engines.generate import Generator, cache_needed, load_text_model
    from interlock.engines.onnx import CPU
    from interlock.summarize.model import EngineModel

    model = load_text_model(
        name, providers=tuple(providers) or (CPU,), expected_digest=expected_digest
    )
    workers = min(cores, instances)
    alone = cache_needed(model, slots=instances, workers=workers)
    generator = Generator(
        model, workers=workers, slots=instances, memory_limit=max(CACHE_BYTES, alone)
    )
    return EngineModel(name, model, generator)


def describe_model(name: str) -> SummaryModel:
    """What the model under `name`, or in the directory that it names, says of itself.

    Raises ConfigError where there is no such model, BundleError where its files are none of one,
    MissingExtraError without the extra `text`.
    """
    from interlock.engines.generate.store import located
    from interlock.summarize.model import UnopenedModel

    return UnopenedModel(name, located(name)[0])


@dataclass(frozen=True, slots=True)
class Names:
    """Models by name: for everything, None for none, and for some languages.

    providers  execution providers of ONNX Runtime by name; none for the processor
    """

    default: str | None = None
    by_language: Mapping[str, str] = field(default_factory=dict)
    providers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ConfigError for a language that no file can be in, before a model is opened."""
        check_languages(self.by_language)

    def open(
        self, *, instances: int = 1, cores: int = 1, digests: Mapping[str, str] | None = None
    ) -> Models:
        """Open each of them once; raises what `open_model` does.

        digests  name -> what its digest must be, of those that were opened before
        """
        expected = digests or {}
        return self._each(
            lambda name: open_model(
                name,
                instances=instances,
                cores=cores,
                providers=self.providers,
                expected_digest=expected.get(name),
            )
        )

    def digests(self, models: Models) -> dict[str, str]:
        """The digest of each name's model, where `models` are what `open` gave."""
        opened = [(self.default, models.default)]
        opened += [(name, models.of(language)) for language, name in self.by_language.items()]
        return {
            name: model.digest for name, model in opened if name is not None and model is not None
        }

    @property
    def all(self) -> tuple[str, ...]:
        """Every name, the default first, each once."""
        names = (self.default, *self.by_language.values())
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def describe(self) -> Models | None:
        """What planning needs of them, without opening one; None where one is not to be found.

        Raises BundleError for a directory that is no text model.
        """
        try:
            return self._each(describe_model)
        except (ConfigError, MissingExtraError):
            return None

    def _each(self, open_it: Callable[[str], SummaryModel]) -> Models:
        opened = {name: open_it(name) for name in self.all}
        return Models(
            None if self.default is None else opened[self.default],
            {language: opened[name] for language, name in self.by_language.items()},
        )


def make_work(
    default: str | None = None,
    by_language: Mapping[str, str] | None = None,
    providers: Sequence[str] = (),
    seconds: float | None = None,
    memory_limit: int | None = None,
    digests: Mapping[str, str] | None = None,
) -> Callable[[Sequence[Any]], list[Outcome[Any]]]:
    """In a worker process: the models of these `Names`, and the route to them.

    `memory_limit` is the process's own, `digests` as in `Names.open`. Raises MemoryLimitError where
    the model does not fit.
    """
    names = Names(default, by_language or {}, tuple(providers))
    try:
        return Summarizer(names.open(digests=digests), seconds=seconds)
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        # Under a limit, libraries fail to map themselves, to start threads and to allocate, each
        # with an error of its own.
        if memory_limit is None or isinstance(error, InterlockError):
            raise
        raise MemoryLimitError(
            f"no model can be opened with {memory_limit / 1e6:,.0f} MB of memory",
            hint="raise --memory-limit, or leave it out",
        ) from error


def open_executor(
    model: SummaryModel | Models | None,
    *,
    instances: int,
    seconds: float | None,
    isolate: Names | None = None,
    memory_limit: int | None = None,
) -> LocalExecutor:
    """Workers for `run`.

    isolate       names of the models that every worker process opens for itself; None for threads
                  that share `model`. A process takes the very bundles of `model`, or none
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
        "default": isolate.default,
        "by_language": dict(isolate.by_language),
        "providers": list(isolate.providers),
        "seconds": seconds,
        "memory_limit": memory_limit,
        # A model may be replaced under its name while a run lasts.
        "digests": isolate.digests(as_models(model)),
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
