"""Chat providers under names: what a configuration's `type` means.

A provider is one file with a factory, put under its name by an entry point:

    [project.entry-points."interlock.chat_providers"]
    claude = "interlock.engines.claude:claude [claude]"

The factory takes the options of a model and the directory of their file, checks the options with
`read_options` against a msgspec Struct of its own, and makes the provider without connecting or
loading anything: `capabilities` does that.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from interlock.engines.chat import BatchChatProvider, ChatProvider
from interlock.kernel.errors import ConfigError
from interlock.kernel.registry import Factory, Registry

S = TypeVar("S", bound=msgspec.Struct)

CHAT_PROVIDERS = Registry(
    "model type",
    "interlock.chat_providers",
    lambda made: any(callable(getattr(made, name, None)) for name in ("answer", "answer_batch")),
)


def register_chat_provider(name: str, factory: Factory, *, extra: str | None = None) -> None:
    """Put a factory of chat providers under `name` for this process. See `Registry.register`."""
    CHAT_PROVIDERS.register(name, factory, extra=extra)


def make_chat_provider(
    name: str, options: Mapping[str, Any] | None = None, *, base: Path
) -> ChatProvider | BatchChatProvider:
    """The provider under `name`, with `options`; relative paths among them resolve against `base`.

    Raises ConfigError for an unknown name and for an option that is wrong, naming it, and
    MissingExtraError where the provider's package is not installed.
    """
    made: ChatProvider | BatchChatProvider = CHAT_PROVIDERS.make(name, options, base=base)
    return made


def read_options(schema: type[S], options: Mapping[str, Any], provider: str) -> S:
    """`options` as `schema`, which should forbid unknown fields.

    Raises ConfigError naming the field that is unknown, missing or of the wrong type. Values stay
    out of the message, as one of them may be a key.
    """
    known = [each.encode_name for each in msgspec.structs.fields(schema)]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"{provider}: unknown option '{name}'",
                hint=f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(known)}",
            )
    try:
        return msgspec.convert(dict(options), schema)
    except msgspec.ValidationError as error:
        # "Expected `str`, got `int` - at `$.api_key`"; a rule of the schema's own may quote more.
        told = re.fullmatch(r"(.*?)(?: - at `\$\.?([^`]*)`)?", str(error), flags=re.S)
        assert told is not None
        where = f"option '{told[2]}'" if told[2] else "options"
        raise ConfigError(f"{provider}: {where}: {told[1]}") from None
