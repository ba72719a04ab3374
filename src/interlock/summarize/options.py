"""What a user chooses for a run of summaries."""

from __future__ import annotations

from dataclasses import dataclass, field

from interlock.kernel.errors import ConfigError
from interlock.summarize.chunks import LINES, MODES, Mode
from interlock.summarize.tree import Selection
from interlock.summarize.views import VIEWS, View

MOST_INSTANCES = 1024

SEED_WIDTH = 120
"""Most characters a line of a summary in the concatenated mode."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a tree is summarised.

    chunks            how it is cut, see `interlock.summarize.chunks.cut`
    chunk_lines       most lines a chunk
    view              what of a chunk the model sees
    instances         summaries that are worked on at a time
    max_input_tokens  most tokens of one input; None for what the model's context allows
    width             most characters a line of a summary; None for 120 in the concatenated mode
                      and a single line else
    most              most characters of a summary
    seconds           what one summary may take of the model, waiting for a turn included
    seed              where the seeds of drawn summaries come from
    selection         which files are taken in
    """

    chunks: Mode = "lines"
    chunk_lines: int = LINES
    view: View = "signatures"
    instances: int = 1
    max_input_tokens: int | None = None
    width: int | None = None
    most: int = 360
    seconds: float | None = 600.0
    seed: int = 0
    selection: Selection = field(default_factory=Selection)

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        for name, value, allowed in (("chunks", self.chunks, MODES), ("input", self.view, VIEWS)):
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        for name, number, least in (
            ("chunk_lines", self.chunk_lines, 1),
            ("instances", self.instances, 1),
            ("max_input_tokens", self.max_input_tokens, 16),
            ("width", self.width, 20),
            ("most", self.most, 40),
            ("seed", self.seed, 0),
        ):
            if number is not None and number < least:
                raise ConfigError(f"{name} is {number}; it must be {least} or more")
        if self.instances > MOST_INSTANCES:
            raise ConfigError(f"instances is {self.instances}; it must be {MOST_INSTANCES} or less")
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigError(f"seconds is {self.seconds}; it must be above 0")

    @property
    def line_width(self) -> int:
        """Most characters a line, 0 for summaries on a single line."""
        if self.width is not None:
            return self.width
        return SEED_WIDTH if self.chunks == "concatenated" else 0
