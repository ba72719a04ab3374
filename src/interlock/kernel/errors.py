"""The one error tree.

    InterlockError
    ├── UsageError                 the caller's mistake, found before work starts
    │   ├── InputError             a value has the wrong shape, dtype, range or encoding
    │   │   └── MalformedProofError  the file is no proof, or its parts contradict each other
    │   │       └── ReadableValueError  its values for people are not those that it is about
    │   ├── ConfigError            a configuration, route file or option is wrong
    │   └── MissingExtraError      the feature needs an extra that is not installed
    ├── BundleError                a bundle must not be used
    │   ├── BundleFormatError      malformed, missing or forbidden content
    │   ├── BundleIntegrityError   bytes differ from the manifest or the expected digest
    │   ├── BundleContractError    graph and metadata disagree
    │   └── SignatureError         the required signature is absent or wrong
    ├── EngineError                an engine gave no answer
    │   ├── EngineUnavailableError it cannot run here
    │   ├── TransientError         a later attempt may succeed (retryable)
    │   │   ├── RateLimitError     the service asks for fewer requests or tokens
    │   │   ├── ServiceError       the service is overloaded or broken
    │   │   └── ConnectionLostError the connection failed or was cut
    │   ├── AuthenticationError    the service does not accept the key
    │   ├── RequestRejectedError   the service does not accept the request
    │   ├── QuotaError             the account has nothing left to spend
    │   ├── MalformedAnswerError   the answer cannot be read
    │   ├── DeadlineError          the time ran out
    │   ├── CancelledRequestError  the caller no longer wants the answer
    │   ├── MemoryLimitError       the memory limit was reached
    │   └── EngineCrashError       the process that ran it died (retryable)
    ├── JournalError               a run's durable record cannot be used
    │   ├── RunNotFoundError       no such run
    │   ├── RunLockedError         another process is writing this run
    │   ├── RunChangedError        configuration or inputs differ from the recorded ones
    │   ├── JournalVersionError    written by a newer release, or not a journal
    │   └── StorageError           the disk is full or a write failed
    ├── InterruptedRunError        stopped on request; the run can be resumed
    ├── BudgetError                the budget leaves no room for more; the run can be resumed
    └── HeldPromptError            the detector's policy holds the prompt, and nothing was sent

Every error carries a stable `code`, a `hint` of what to do, and `retryable`. Messages name
the field and the value that are wrong; they never hold prompt text or keys.
"""

from __future__ import annotations

from typing import Any, ClassVar


class InterlockError(Exception):
    """Base of every error that Interlock raises on purpose.

    `code` is stable across releases; `hint` says what to do; `retryable` says whether the
    same call may succeed later without a change. Instances pickle, so they cross processes.
    """

    code: ClassVar[str] = "interlock"
    default_hint: ClassVar[str] = ""
    default_retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later without a change."""
        return self.default_retryable

    def to_dict(self) -> dict[str, Any]:
        """`code`, `message`, `hint` and `retryable`, for JSON output."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


def _rebuild(
    cls: type[InterlockError], args: tuple[Any, ...], state: dict[str, Any]
) -> InterlockError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class UsageError(InterlockError, ValueError):
    """The caller's mistake, found before work starts."""

    code = "usage"


class InputError(UsageError):
    """A value has the wrong shape, dtype, range or encoding."""

    code = "input"


class MalformedProofError(InputError):
    """The file is no proof, or its parts contradict each other."""

    code = "malformed_proof"
    default_hint = "the proof was edited or cut short; ask for it again"


class ReadableValueError(MalformedProofError):
    """A proof's values for people are not those of the field elements that it is about."""

    code = "readable_value"


class ConfigError(UsageError):
    """A configuration, route file or option is wrong."""

    code = "config"


class MissingExtraError(UsageError, ImportError):
    """The feature needs an extra that is not installed."""

    code = "missing_extra"

    def __init__(self, extra: str, feature: str) -> None:
        super().__init__(
            f"{feature} needs the extra '{extra}'",
            hint=f"pip install 'interlock[{extra}]'",
        )
        self.extra = extra


class BundleError(InterlockError):
    """A bundle must not be used."""

    code = "bundle"


class BundleFormatError(BundleError):
    """The bundle holds malformed, missing or forbidden content."""

    code = "bundle_format"
    default_hint = "pack the bundle again with `interlock bundle pack`"


class BundleIntegrityError(BundleError):
    """The bytes differ from the manifest or from the expected digest."""

    code = "bundle_integrity"
    default_hint = "fetch the bundle again from where it was published"


class BundleContractError(BundleError):
    """The graph and the metadata disagree."""

    code = "bundle_contract"
    default_hint = "export the bundle again from its model"


class SignatureError(BundleError):
    """The required signature is absent or wrong."""

    code = "signature"
    default_hint = "check that the public key belongs to the bundle's publisher"


class EngineError(InterlockError):
    """An engine gave no answer."""

    code = "engine"


class EngineUnavailableError(EngineError):
    """The engine cannot run here."""

    code = "engine_unavailable"


class TransientError(EngineError):
    """A later attempt may succeed. `wait_seconds`, where given, is the wait that was asked for."""

    code = "transient"
    default_retryable = True

    def __init__(
        self, message: str, *, wait_seconds: float | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.wait_seconds = wait_seconds


class RateLimitError(TransientError):
    """The service asks for fewer requests or tokens, after `wait_seconds` where it says so."""

    code = "rate_limit"
    default_hint = "lower the requests or tokens a minute"


class ServiceError(TransientError):
    """The service is overloaded or broken."""

    code = "service"


class ConnectionLostError(TransientError):
    """The connection failed or was cut. `sent` says whether the service may have the request.

    A request that was sent may be billed, though its answer never came.
    """

    code = "connection_lost"

    def __init__(
        self,
        message: str,
        *,
        sent: bool = True,
        wait_seconds: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, wait_seconds=wait_seconds, hint=hint)
        self.sent = sent


class AuthenticationError(EngineError):
    """The service does not accept the key."""

    code = "authentication"
    default_hint = "check the key's environment variable, and what the key may do"


class RequestRejectedError(EngineError):
    """The service does not accept the request, and would not accept it again."""

    code = "request_rejected"


class QuotaError(EngineError):
    """The account has nothing left to spend; waiting does not help."""

    code = "quota"
    default_hint = "look at the account's billing page"


class MalformedAnswerError(EngineError):
    """The answer cannot be read: not JSON, cut short, empty, or not what the service documents.

    It is not asked again by itself, since it may have been billed. `usage`, where given, is what
    the provider counted all the same (`interlock.engines.chat.Usage`).
    """

    code = "malformed_answer"

    def __init__(self, message: str, *, usage: Any = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.usage = usage


class DeadlineError(EngineError):
    """The time ran out before there was an answer."""

    code = "deadline"
    default_hint = "allow more time, or give the engine less to do"


class CancelledRequestError(EngineError):
    """The caller no longer wants the answer, or closed what was to give it."""

    code = "cancelled"


class MemoryLimitError(EngineError):
    """The memory limit was reached."""

    code = "memory_limit"
    default_hint = "raise the memory limit, or send smaller batches"


class EngineCrashError(EngineError):
    """The process that ran the engine died."""

    code = "engine_crash"
    default_retryable = True


class JournalError(InterlockError):
    """A run's durable record cannot be used."""

    code = "journal"


class RunNotFoundError(JournalError):
    """No such run in the journal."""

    code = "run_not_found"
    default_hint = "`interlock runs list` shows the runs that exist"


class RunLockedError(JournalError):
    """Another process is writing this run."""

    code = "run_locked"
    default_hint = "wait for the other process, or stop it"


class RunChangedError(JournalError):
    """Configuration or inputs differ from those recorded; `changes` lists each difference."""

    code = "run_changed"
    default_hint = "start a new run, or restore the recorded configuration and inputs"

    def __init__(self, message: str, *, changes: tuple[str, ...], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.changes = changes


class JournalVersionError(JournalError):
    """The file was written by a newer release, or is not a journal."""

    code = "journal_version"
    default_hint = "install the release that wrote it, or a newer one"


class StorageError(JournalError):
    """The disk is full or a write failed; nothing unacknowledged was kept."""

    code = "storage"
    default_hint = "free some space and resume the run"


class InterruptedRunError(InterlockError):
    """Stopped on request; what was acknowledged is kept and the run can be resumed."""

    code = "interrupted"
    default_hint = "run the same command again with --resume"


class BudgetError(InterlockError):
    """The budget leaves no room for another request; the run can be resumed with a larger one."""

    code = "budget"
    default_hint = "run it again with --resume and a larger --budget"


class HeldPromptError(InterlockError):
    """The detector's policy holds a prompt, and nothing was sent.

    `detection` is the detector's answer, without the text.
    """

    code = "held_prompt"
    default_hint = "the policy file decides what is held; `interlock detect explain` says why"

    def __init__(self, message: str, *, detection: Any = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.detection = detection
