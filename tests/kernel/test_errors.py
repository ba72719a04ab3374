"""The error tree is what its drawing says, and its errors survive a trip between processes."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from interlock import errors as public
from interlock.kernel import errors
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    ConnectionLostError,
    DeadlineError,
    InterlockError,
    MissingExtraError,
    RunChangedError,
    TransientError,
    UsageError,
)


def every_error(root: type[InterlockError] = InterlockError) -> list[type[InterlockError]]:
    """`root` and all that derive from it within the tree's own file."""
    below = [
        error
        for child in root.__subclasses__()
        if child.__module__ == errors.__name__
        for error in every_error(child)
    ]
    return [root, *below]


def make(error: type[InterlockError]) -> InterlockError:
    """An example of `error`, with everything that it can carry."""
    if error is MissingExtraError:
        return MissingExtraError("sign", "bundle sign")
    if error is RunChangedError:
        return RunChangedError("inputs differ", changes=("seed: 1 -> 2",), hint="start again")
    if error is ConnectionLostError:
        return ConnectionLostError("cut", sent=False, wait_seconds=2.5)
    if issubclass(error, TransientError):
        return error("busy", wait_seconds=2.5)
    return error("what is wrong", hint="what to do")


def drawn() -> dict[str, str | None]:
    """Name -> parent, as the drawing at the top of the file says."""
    parents: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([\s│├└─]*)([A-Z]\w*Error)\b", line)
        if found is None:
            continue
        indent, name = len(found[1]), found[2]
        while above and above[-1][0] >= indent:
            above.pop()
        assert name not in parents, f"{name} is drawn twice"
        parents[name] = above[-1][1] if above else None
        above.append((indent, name))
    return parents


def test_the_drawing_is_the_tree() -> None:
    real = {
        error.__name__: next(
            (base.__name__ for base in error.__bases__ if issubclass(base, InterlockError)), None
        )
        for error in every_error()
    }
    assert drawn() == real


def test_the_public_names_are_pinned() -> None:
    """A name that leaves this list breaks users' `except`; a new one belongs here on purpose."""
    assert set(public.__all__) == {
        "AuthenticationError",
        "BudgetError",
        "BundleContractError",
        "BundleError",
        "BundleFormatError",
        "BundleIntegrityError",
        "CancelledRequestError",
        "ConfigError",
        "ConnectionLostError",
        "DeadlineError",
        "EngineCrashError",
        "EngineError",
        "EngineUnavailableError",
        "HeldPromptError",
        "InputError",
        "InterlockError",
        "InterruptedRunError",
        "JournalError",
        "JournalVersionError",
        "MalformedAnswerError",
        "MalformedProofError",
        "MemoryLimitError",
        "MissingExtraError",
        "QuotaError",
        "RateLimitError",
        "ReadableValueError",
        "RequestRejectedError",
        "RunChangedError",
        "RunLockedError",
        "RunNotFoundError",
        "ServiceError",
        "SignatureError",
        "StorageError",
        "TransientError",
        "UsageError",
    }
    assert {error.__name__ for error in every_error()} == set(public.__all__)
    for name in public.__all__:
        assert getattr(public, name) is getattr(errors, name)


def test_codes_are_unique_and_stable() -> None:
    """Scripts compare codes: what is released keeps its code."""
    codes = {error.__name__: error.code for error in every_error()}
    assert len(set(codes.values())) == len(codes)
    assert codes == {
        "InterlockError": "interlock",
        "UsageError": "usage",
        "InputError": "input",
        "MalformedProofError": "malformed_proof",
        "ReadableValueError": "readable_value",
        "ConfigError": "config",
        "MissingExtraError": "missing_extra",
        "BundleError": "bundle",
        "BundleFormatError": "bundle_format",
        "BundleIntegrityError": "bundle_integrity",
        "BundleContractError": "bundle_contract",
        "SignatureError": "signature",
        "EngineError": "engine",
        "EngineUnavailableError": "engine_unavailable",
        "TransientError": "transient",
        "RateLimitError": "rate_limit",
        "ServiceError": "service",
        "ConnectionLostError": "connection_lost",
        "AuthenticationError": "authentication",
        "RequestRejectedError": "request_rejected",
        "QuotaError": "quota",
        "MalformedAnswerError": "malformed_answer",
        "CancelledRequestError": "cancelled",
        "DeadlineError": "deadline",
        "MemoryLimitError": "memory_limit",
        "EngineCrashError": "engine_crash",
        "JournalError": "journal",
        "RunNotFoundError": "run_not_found",
        "RunLockedError": "run_locked",
        "RunChangedError": "run_changed",
        "JournalVersionError": "journal_version",
        "StorageError": "storage",
        "InterruptedRunError": "interrupted",
        "BudgetError": "budget",
        "HeldPromptError": "held_prompt",
    }


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
def test_an_error_survives_pickling_and_copying(error: type[InterlockError]) -> None:
    before = make(error)
    before.add_note("while loading")
    for after in (pickle.loads(pickle.dumps(before)), copy.copy(before), copy.deepcopy(before)):
        assert type(after) is error
        assert str(after) == str(before) == before.message
        assert vars(after) == vars(before)
        assert after.to_dict() == before.to_dict()


def test_an_error_crosses_a_process_whole() -> None:
    error = make(RunChangedError)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        back = pool.submit(copy.copy, error).result(timeout=60)
        with pytest.raises(DeadlineError, match="loading"):
            pool.submit(Deadline(at=-1.0).check, "loading").result(timeout=60)
    assert isinstance(back, RunChangedError)
    assert back.changes == ("seed: 1 -> 2",)


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
def test_every_error_says_what_it_means(error: type[InterlockError]) -> None:
    assert inspect.getdoc(error)
    assert set(make(error).to_dict()) == {"code", "message", "hint", "retryable"}


def test_only_what_may_succeed_later_is_retryable() -> None:
    retryable = {error.__name__ for error in every_error() if make(error).retryable}
    assert retryable == {
        "TransientError",
        "RateLimitError",
        "ServiceError",
        "ConnectionLostError",
        "EngineCrashError",
    }


def test_the_callers_mistakes_are_value_errors_and_a_missing_extra_an_import_error() -> None:
    assert issubclass(UsageError, ValueError)
    missing = MissingExtraError("sign", "bundle sign")
    assert isinstance(missing, ImportError)
    assert missing.hint == "pip install 'interlock[sign]'"
