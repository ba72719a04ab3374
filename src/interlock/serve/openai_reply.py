"""Answers and errors in the shapes of OpenAI's API, each with what an outcome has to say.

The field `interlock` is ours: status, steps, reasons and evidence, as of any other answer of this
server. Clients of OpenAI's pass over fields that they do not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from interlock.engines.chat import StopReason, TokenLogprob, Usage
from interlock.engines.generate.request import GenerateResult
from interlock.kernel.errors import InterlockError
from interlock.kernel.outcome import Outcome
from interlock.serve.openai_request import FieldError, TextAsked
from interlock.serve.served import step_document

PATHS = ("/v1/chat/", "/v1/completions", "/v1/models")
DONE = b"data: [DONE]\n\n"
_REPLACEMENT = "\ufffd"

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


def is_openai(path: str) -> bool:
    """Whether errors on this path have OpenAI's shape."""
    return path.startswith(PATHS)


def error_document(error: InterlockError, status: int, retryable: bool) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`, and ours beside them."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    code, param = error.code, error.param or None if isinstance(error, FieldError) else None
    if code == "unknown_model":
        code, param = "model_not_found", "model"
    told = error.message if not error.hint else f"{error.message} ({error.hint})"
    return {
        "error": {
            "message": told,
            "type": kind,
            "param": param,
            "code": code,
            "interlock": {"code": error.code, "hint": error.hint, "retryable": retryable},
        }
    }


@dataclass(frozen=True)
class Reply:
    """The documents of one answer: whole, or as the events of a stream."""

    asked: TextAsked
    digest: str
    request_id: str
    created: int

    @property
    def _head(self) -> dict[str, Any]:
        chat = self.asked.kind == "chat"
        kind = "chat.completion" if chat else "text_completion"
        if chat and self.asked.stream:
            kind = "chat.completion.chunk"
        return {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.asked.model,
            "system_fingerprint": self.digest,
        }

    def whole(self, found: GenerateResult, outcome: Outcome[Any]) -> dict[str, Any]:
        """The answer in one piece."""
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": _finish(found.stop),
            "logprobs": self._logprobs(found),
        }
        if self.asked.kind == "chat":
            choice["message"] = {"role": "assistant", "content": found.text, "refusal": None}
        else:
            choice["text"] = found.text
        return {
            **self._head,
            "choices": [choice],
            "usage": _usage(found.usage),
            "interlock": self._told(found, outcome),
        }

    def opening(self) -> bytes:
        """The event that begins a stream; none for completions."""
        if self.asked.kind != "chat":
            return b""
        return self._event([self._choice({"role": "assistant", "content": ""})])

    def piece(self, text: str) -> bytes:
        """The event of a piece of the text."""
        return self._event([self._choice({"content": text}, text)])

    def closing(self, found: GenerateResult, outcome: Outcome[Any]) -> bytes:
        """The events that end a stream: log probabilities, reason and outcome; usage; the mark."""
        last = self._choice({}, "")
        last["finish_reason"] = _finish(found.stop)
        last["logprobs"] = self._logprobs(found)
        events = self._event([last], interlock=self._told(found, outcome))
        if self.asked.usage:
            events += self._event([], usage=_usage(found.usage))
        return events + DONE

    def _choice(self, delta: dict[str, Any], text: str = "") -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": None, "logprobs": None}
        if self.asked.kind == "chat":
            choice["delta"] = delta
        else:
            choice["text"] = text
        return choice

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        document = {**self._head, "choices": choices, **more}
        if self.asked.usage:
            document.setdefault("usage", None)
        return event(document)

    def _told(self, found: GenerateResult, outcome: Outcome[Any]) -> dict[str, Any]:
        """The outcome without its value, which stands in the choice."""
        return {
            "status": str(outcome.status),
            "route": outcome.route,
            "digest": self.digest,
            "request_id": self.request_id,
            "steps": [step_document(step) for step in outcome.steps],
            "reasons": list(outcome.reasons),
            "evidence": msgspec.to_builtins(outcome.evidence),
            "seed": found.seed,
            "stop": str(found.stop),
            "mean_logprob": found.mean_logprob,
            "waiting_seconds": found.waiting_seconds,
            "prompt_seconds": found.prompt_seconds,
        }

    def _logprobs(self, found: GenerateResult) -> dict[str, Any] | None:
        if found.logprobs is None:
            return None
        tokens = found.logprobs
        if found.stop is StopReason.END:
            # The end of the turn is no part of the text.
            tokens = tokens[:-1]
        if self.asked.kind == "chat":
            return {"content": [_chat_logprob(token) for token in tokens], "refusal": None}
        return _completion_logprobs(tokens, found.text)


def event(document: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + msgspec.json.encode(document) + b"\n\n"


def _finish(stop: StopReason) -> str:
    return "length" if stop is StopReason.MAX_TOKENS else "stop"


def _usage(usage: Usage) -> dict[str, Any]:
    read, written = usage.input or 0, usage.output or 0
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": usage.cached or 0},
    }


def _bytes(token: str) -> list[int] | None:
    # A token that is a part of a character has no text of its own.
    return None if _REPLACEMENT in token else list(token.encode())


def _chat_logprob(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.token,
        "logprob": token.logprob,
        "bytes": _bytes(token.token),
        "top_logprobs": [
            {"token": name, "logprob": logprob, "bytes": _bytes(name)}
            for name, logprob in token.top
        ],
    }


def _completion_logprobs(tokens: Sequence[TokenLogprob], text: str) -> dict[str, Any]:
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_by_name(token.top) for token in tokens],
        "text_offset": _offsets([token.token for token in tokens], text),
    }


def _offsets(names: Sequence[str], text: str) -> list[int]:
    """Where in `text` each token begins; its end for those that are not written.

    Parts of characters begin where theirs do: how many characters they make up is only known from
    where the next whole token is found.
    """
    offsets, at, parts = [], 0, 0
    for name in names:
        if _REPLACEMENT in name:
            parts += len(name)
        else:
            # The parts are one character at least, and no more than each alone would be.
            found = text.find(name, at + bool(parts), at + parts + len(name))
            if found >= 0:
                offsets.append(found)
                at, parts = found + len(name), 0
                continue
        offsets.append(at)
    return offsets


def _by_name(top: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Names and log probabilities, the likeliest first; it keeps a name that parts of characters
    share."""
    found: dict[str, float] = {}
    for name, logprob in top:
        found.setdefault(name, logprob)
    return found
