"""Models that summaries are asked of, small enough to be told what to answer."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from interlock.engines.chat import Message
from interlock.kernel.clock import Deadline
from interlock.summarize.asked import Summary, SummaryModel, Written
from interlock.summarize.guards import grounding_of

__all__ = ["NamingModel", "Summary", "SummaryModel", "grounding_of", "open_naming"]


class NamingModel:
    """Answers with names that the prompt holds, so that its summaries are grounded.

    answer  (prompt, seed) -> text, in place of that
    log     a file that gets a line a question, in one system call
    """

    def __init__(
        self,
        answer: Callable[[str, int | None], str] | None = None,
        *,
        context: int = 4096,
        digest: str = "sha256:" + "1" * 64,
        log: Path | None = None,
        seconds: float = 0.0,
    ) -> None:
        self.name = "naming"
        self.digest = digest
        self.context = context
        self.asked: list[str] = []
        self._answer = answer or names_in
        self._log = log
        self._seconds = seconds
        self._lock = threading.Lock()

    def count(self, text: str) -> int:
        """Words and marks, which is what a tokenizer counts, roughly."""
        return len(re.findall(r"\w+|[^\w\s]", text))

    def write(
        self, messages: tuple[Message, ...], *, seed: int | None, deadline: Deadline
    ) -> Written:
        prompt = messages[-1].content
        with self._lock:
            self.asked.append(prompt)
            if self._log is not None:
                with self._log.open("a") as file:
                    file.write(f"{hash_of(prompt)} {seed}\n")
        if self._seconds:
            time.sleep(self._seconds)
        text = self._answer(prompt, seed)
        return Written(
            text=text.removesuffix("<cut>"),
            cut=text.endswith("<cut>"),
            input_tokens=self.count(prompt),
            output_tokens=self.count(text),
            mean_logprob=-0.25,
            seconds=0.01,
        )

    def close(self) -> None:
        """Nothing to release."""


def hash_of(text: str) -> str:
    """A short name for a prompt."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:16]


def names_in(prompt: str, seed: int | None) -> str:
    """A sentence with up to three names of the prompt's source; another seed, other names."""
    source = re.split(r"\n\n(?:Its documentation|It defines): ", prompt.rpartition("\n\n")[0])[0]
    names = list(dict.fromkeys(re.findall(r"[a-z_]{5,}", source)))
    chosen = names[:3] if seed is None else names[-3:]
    return f"It is for {', '.join(chosen) or 'nothing'}"


def open_naming(log: str | None = None, seconds: float = 0.0) -> NamingModel:
    """The model, for a process that is given names and numbers only."""
    return NamingModel(log=None if log is None else Path(log), seconds=seconds)
