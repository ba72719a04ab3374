"""What becomes of a sample: an answer's status by its stop reason, or a typed failure in words.

stop reason      status     reason kept
end, stop_text   accepted
max_tokens       flagged    the answer is cut
refusal          flagged    declining is an answer, and part of what an experiment measures
other            flagged    the provider's word is in raw_stop
content_filter   refused    what was held back is not the model's answer
(empty text)     refused    a turn that ended without a word
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from interlock.engines.chat import ChatAnswer, ChatRequest, Sampling, StopReason, Usage
from interlock.experiment.plan import Variant, asked_sampling, sample_seed
from interlock.experiment.prices import Price
from interlock.experiment.prompts import Prompt
from interlock.experiment.recorded import requested, timestamp
from interlock.experiment.records import PromptResult
from interlock.kernel.errors import ConnectionLostError, InterlockError, MalformedAnswerError
from interlock.kernel.outcome import Status

_STATUS: Mapping[StopReason, Status] = {
    StopReason.END: Status.ACCEPTED,
    StopReason.STOP_TEXT: Status.ACCEPTED,
    StopReason.MAX_TOKENS: Status.FLAGGED,
    StopReason.REFUSAL: Status.FLAGGED,
    StopReason.OTHER: Status.FLAGGED,
    StopReason.CONTENT_FILTER: Status.REFUSED,
}

WORDS: Mapping[str, str] = {
    "rate_limit": "Rate limit exceeded",
    "service": "Service error",
    "connection_lost": "Connection lost",
    "deadline": "Connection timeout",
    "authentication": "Authentication failed",
    "request_rejected": "Request rejected",
    "quota": "Quota exhausted",
    "malformed_answer": "Malformed answer",
    "memory_limit": "Out of memory",
    "engine_crash": "Model process died",
    "engine_unavailable": "Model unavailable",
    "content_filter": "Content filter",
    "empty_answer": "Empty answer",
    "budget": "Budget exhausted",
    "transient": "Temporary error",
}
"""Codes of errors in words, as retries and failures are told."""

MAYBE_BILLED = frozenset(["deadline", "engine", "malformed_answer", "service"])
"""Errors after which a request may have been billed, without usage to show for it; `engine` is what
nobody foresaw, such as an SDK that fails on the answer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question of the run, ready to be asked."""

    variant: Variant
    prompt: Prompt
    index: int
    request: ChatRequest
    seed: int
    run_id: str


def words(error: InterlockError | str) -> str:
    """An error's type in words."""
    code = error if isinstance(error, str) else error.code
    return WORDS.get(code, code.replace("_", " ").capitalize())


def maybe_billed(error: InterlockError) -> bool:
    """Whether the service may bill a request that ended so."""
    if isinstance(error, ConnectionLostError):
        return error.sent
    return error.code in MAYBE_BILLED


def blank(sample: Sample) -> PromptResult:
    """A result that says what was asked, and nothing of the answer."""
    variant = sample.variant
    return PromptResult(
        prompt_id=sample.prompt.id,
        model=variant.model.name,
        full_response="",
        tokens_used={"input": 0, "output": 0, "total": 0},
        model_version=variant.model.name,
        sampling_params=requested(variant, sample.seed),
        timestamp=timestamp(datetime.now()),
        run_id=sample.run_id,
        prompt_category=sample.prompt.category,
        is_synthetic_probe=sample.prompt.is_synthetic,
        variant=variant.label,
        sample_index=sample.index,
        seed=sample_seed(sample.seed, sample.prompt.id, sample.index),
    )


def answered(
    sample: Sample, answer: ChatAnswer, *, seconds: float, retries: int, price: Price | None
) -> PromptResult:
    """The result of an answer; `error_type` and `flag` say why it is not simply accepted."""
    result = blank(sample)
    status = _STATUS[answer.stop]
    if status is Status.REFUSED:
        result.error_type = "content_filter"
        result.error = f"Refused: {WORDS['content_filter']}"
    elif not answer.text.strip() and answer.stop is not StopReason.REFUSAL:
        status = Status.REFUSED
        result.error_type = "empty_answer"
        result.error = f"Refused: {WORDS['empty_answer']}"
    elif status is Status.FLAGGED:
        result.flag = answer.stop.value
    _count(result, answer.usage, price)
    result.status = status.value
    if status.usable:
        result.full_response = answer.text
    result.model_version = answer.model_version or result.model
    result.stop_reason = answer.stop.value
    result.raw_stop = answer.raw_stop
    result.request_id = answer.request_id
    result.not_applied = dict(answer.not_applied)
    result.applied_sampling = _applied(sample.request.sampling, answer)
    result.token_logprobs = _logprobs(answer)
    result.elapsed_seconds = seconds
    result.retry_count = retries
    return result


def _count(result: PromptResult, usage: Usage, price: Price | None) -> None:
    """Tokens and their cost, as the provider counted."""
    both = usage.input is not None and usage.output is not None
    result.tokens_used = {
        "input": usage.input,
        "output": usage.output,
        "total": (usage.input or 0) + (usage.output or 0) if both else None,
    }
    details = {"cached": usage.cached, "reasoning": usage.reasoning}
    result.token_details = {k: v for k, v in details.items() if v is not None} or None
    result.cost_usd = None if price is None else price.cost(usage)


def failed(
    sample: Sample,
    error: InterlockError,
    *,
    seconds: float,
    retries: int,
    price: Price | None = None,
) -> PromptResult:
    """The result of a sample that nothing could answer; one without text may have been counted."""
    result = blank(sample)
    if isinstance(error, MalformedAnswerError) and isinstance(error.usage, Usage):
        _count(result, error.usage, price)
    result.status = Status.FAILED.value
    result.error_type = error.code
    tried = f"Failed after {retries} retries" if retries else "Failed"
    result.error = f"{tried}: {words(error)}"
    result.error_detail = error.message
    result.elapsed_seconds = seconds
    result.retry_count = retries
    return result


def _applied(sampling: Sampling, answer: ChatAnswer) -> dict[str, Any] | None:
    """What was applied, None where that is what was asked for but for `not_applied`."""
    applied = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in answer.applied.items()
    }
    asked = asked_sampling(sampling)
    expected = {name: value for name, value in asked.items() if name not in answer.not_applied}
    return None if applied == expected else applied


def _logprobs(answer: ChatAnswer) -> list[dict[str, Any]] | None:
    if answer.logprobs is None:
        return None
    return [
        {
            "token_position": position,
            "top_tokens": [token for token, _ in each.top] or [each.token],
            "top_logprobs": [round(p, 5) for _, p in each.top] or [round(each.logprob, 5)],
            "token": each.token,
            "logprob": round(each.logprob, 5),
        }
        for position, each in enumerate(answer.logprobs)
    ]
