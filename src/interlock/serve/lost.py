"""The error that an outcome without any answer amounts to."""

from __future__ import annotations

from interlock.kernel import errors
from interlock.kernel.errors import EngineError, InterlockError
from interlock.kernel.outcome import StepResult
from interlock.serve.served import Answer

_BY_CODE = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, EngineError)
}


def error_of(answer: Answer) -> InterlockError:
    """Of the last step that was tried: its error's class by the code that its reason begins with.

    A route's earlier steps are in the outcome's parameters; the last one is what failed for good.
    """
    steps = answer.summary.steps
    if not steps:
        return EngineError("no engine was asked")
    last = steps[-1]
    # A batch's reason ends in the number of rows.
    code, _, message = last.reason.partition(": ")
    kind = _BY_CODE.get(code)
    if kind is not None:
        return kind(message)
    if last.result is StepResult.OVER_TIME:
        return errors.DeadlineError(last.reason)
    if last.result is StepResult.UNAVAILABLE:
        return errors.EngineUnavailableError(last.reason)
    return EngineError(last.reason or "no engine answered")
