"""Which model is asked for which language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from interlock.kernel.errors import ConfigError
from interlock.summarize.asked import SummaryModel
from interlock.summarize.languages import NAMES


@dataclass(frozen=True)
class Models:
    """A model for everything, None for none, and others for some languages, by name in lower case.

    A chunk, file or folder in several languages is the default's. Raises ConfigError for an unknown
    language.
    """

    default: SummaryModel | None = None
    by_language: Mapping[str, SummaryModel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ConfigError for a language that no file can be in."""
        check_languages(self.by_language)

    def __iter__(self) -> Iterator[SummaryModel]:
        """Every model, the default first, each once."""
        seen = set()
        for model in (self.default, *self.by_language.values()):
            if model is not None and model.digest not in seen:
                seen.add(model.digest)
                yield model

    def of(self, language: str) -> SummaryModel | None:
        """The model for sources in `language`."""
        return self.by_language.get(language.lower(), self.default)

    @property
    def context(self) -> int | None:
        """The shortest context of all; None without a model."""
        return min((model.context for model in self), default=None)

    def count(self, text: str) -> int:
        """Tokens of a text, by the tokenizer that makes most of it."""
        return max(model.count(text) for model in self)

    def close(self) -> None:
        """Close every one of them; one bundle may have been opened under two names."""
        opened = [
            model for model in (self.default, *self.by_language.values()) if model is not None
        ]
        for model in {id(model): model for model in opened}.values():
            model.close()

    @property
    def name(self) -> str | None:
        """What to call them; None for none."""
        names = [] if self.default is None else [self.default.name]
        names += [f"{model.name} for {language}" for language, model in self.by_language.items()]
        return ", ".join(names) or None


def check_languages(languages: Iterable[str]) -> None:
    """Raise ConfigError for a language that no file can be in."""
    known = {name.lower() for name in NAMES}
    for language in languages:
        if language not in known:
            raise ConfigError(
                f"there is no language {language!r} to choose a model for",
                hint=f"one of: {', '.join(sorted(known))}",
            )


def as_models(model: SummaryModel | Models | None) -> Models:
    """One model, or none, as the model for everything."""
    return model if isinstance(model, Models) else Models(model)
