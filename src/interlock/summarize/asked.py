"""What a summary is asked of, what it is, and the words of the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from interlock.engines.chat import Message
from interlock.kernel.clock import Deadline
from interlock.summarize.extractive import defines, first_sentence
from interlock.summarize.outline import one_line

Level = Literal["chunk", "file", "folder", "repository"]
LEVELS: tuple[Level, ...] = ("chunk", "file", "folder", "repository")

Origin = Literal["model", "extractive"]

PROMPT_VERSION = 3
"""Part of every summary's address: raise it where a changed prompt or guard changes answers."""

ANSWER_TOKENS = 80
"""Most tokens of a summary; one that is longer has run on, and is refused."""

SENTENCE_ENDS = (". ", ".\n", "\n")
"""Where generation stops: a summary is one sentence."""


class Spent(msgspec.Struct, frozen=True):
    """Model work: how often it was asked, tokens, and service seconds, without waiting."""

    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    def plus(self, other: Spent) -> Spent:
        """The sum of both."""
        return Spent(
            self.attempts + other.attempts,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.seconds + other.seconds,
        )


class Summary(msgspec.Struct, frozen=True):
    """One summary.

    text           what it says
    origin         who wrote it: the model, or the extractive step from the source's own words
    confidence     0 to 1 (see docs/reference/summarize.md); None for extractive ones
    input_tokens, output_tokens  what the model read and wrote; 0 for extractive ones
    mean_logprob   mean natural log probability of the written tokens
    seconds        service time: without waiting for a turn
    seed           what the draw began with; None for greedy and extractive ones
    """

    text: str
    origin: Origin
    confidence: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    mean_logprob: float | None = None
    seconds: float = 0.0
    seed: int | None = None
    cut: bool = False
    """The model ran into its limit of tokens."""
    spent: Spent = Spent()
    """What the model spent on it, attempts that were refused included."""
    flagged: str = ""
    """Of a part's summary that stands for the whole: why it was flagged."""


class Asked(msgspec.Struct, frozen=True):
    """What one summary is made from; plain enough to cross to another process.

    name      a file's or folder's own name; a chunk has none, so that it keeps its summary where
              its file is moved
    language  as `interlock.summarize.languages` names it; several are joined by commas
    shown     what the model reads: a view of the source, or the summaries of the parts
    ground    where the names in a summary must occur, beside `shown`
    doc, defined, opening  what the extractive step works from (see `extractive.describe`)
    further   definitions, or files of a folder, beyond those in `defined`
    left_out  says what of the input the token budget left out, empty where nothing
    width     most characters a line; 0 for a single line
    most      most characters in all
    seed      what a draw begins with
    only      the summary of the only part, which then stands for the whole
    """

    level: Level
    name: str = ""
    language: str = ""
    shown: str = ""
    ground: str = ""
    doc: str = ""
    defined: tuple[tuple[str, str], ...] = ()
    opening: str = ""
    left_out: str = ""
    width: int = 0
    most: int = 400
    seed: int = 0
    only: Summary | None = None
    further: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote. `cut` says that it ran into the limit of tokens."""

    text: str
    cut: bool
    input_tokens: int
    output_tokens: int
    mean_logprob: float | None
    seconds: float


class SummaryModel(Protocol):
    """A model that summaries are asked of; safe to share between threads."""

    name: str
    digest: str
    """`sha256:` and the digest of its bundle."""
    context: int
    """Tokens that prompt and answer may take together."""

    def count(self, text: str) -> int:
        """Tokens of `text`."""
        ...

    def write(
        self, messages: tuple[Message, ...], *, seed: int | None, deadline: Deadline
    ) -> Written:
        """The answer: greedy without a seed, else drawn.

        Raises an EngineError, DeadlineError after `deadline`.
        """
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


_SYSTEM = (
    "You explain source code to a programmer in one short sentence. "
    "Say what the code is for. Use the names in the code, and no other names."
)
_QUESTION = {
    "chunk": "What is this {language} code for? Answer in one short sentence.",
    "file": "What is the file {name} for? Answer in one short sentence.",
    "folder": "What is the folder {name} for? Answer in one short sentence.",
    "repository": "What is the project {name} for? Answer in one short sentence.",
}


_NAMED_QUESTION = (
    "What is `{name}` in this {language} code for? "
    "Answer in one short sentence that begins with its name."
)

_DOC_SHOWN, _DEFINED_SHOWN, _LONGEST_NAME = 200, 240, 80


def facts(asked: Asked) -> str:
    """What the source says of a chunk, for the end of its prompt: documentation, definitions.

    A small model keeps to what it read last; without it, it speaks of any of the definitions, or of
    what it expects to be there.
    """
    if asked.level != "chunk":
        return ""
    lines = []
    if asked.doc:
        lines.append(f"Its documentation: {one_line(first_sentence(asked.doc), _DOC_SHOWN)}")
    defined = defines(asked.defined, asked.further)
    if defined:
        lines.append(f"It defines: {one_line(defined, _DEFINED_SHOWN)}.")
    return "\n".join(lines)


def messages(asked: Asked, *, named: bool = True, with_facts: bool = True) -> tuple[Message, ...]:
    """The conversation that asks for a summary. Its beginning is the same for all of them.

    named       of a chunk that defines something, ask what its first definition is for: public
                ones and outermost ones come first. Else the chunk as a whole is asked for
    with_facts  add what `facts` tells
    """
    template, name = _QUESTION[asked.level], asked.name
    chunk = asked.level == "chunk" and asked.defined
    if named and chunk and len(asked.defined[0][1]) <= _LONGEST_NAME:
        template, name = _NAMED_QUESTION, asked.defined[0][1]
    question = template.format(language=asked.language, name=name)
    parts = (asked.shown, facts(asked) if with_facts else "", question)
    return (
        Message("system", _SYSTEM),
        Message("user", "\n\n".join(part for part in parts if part)),
    )


def instruction_words() -> str:
    """All of the prompt's own words, so that a summary that repeats them can be told."""
    return " ".join((_SYSTEM, *_QUESTION.values(), _NAMED_QUESTION))


# The first use of a class builds what msgspec knows of it; threads that did so at the same time
# ended the process (msgspec 0.22). So it is built here, where one thread imports.
msgspec.json.Decoder(Asked)
