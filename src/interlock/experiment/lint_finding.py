"""One kind of defect of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from interlock.experiment.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of defect. An error spoils results, a warning biases or wastes, a note informs."""

    code: str
    severity: Literal["error", "warning", "note"]
    message: str
    count: int
    ids: tuple[str, ...] = ()
    hint: str = ""


def ids_of(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """Their ids, in their order."""
    return tuple(prompt.id for prompt in prompts)
