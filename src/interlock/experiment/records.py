"""What became of one sample, and reading it back from files, journals and run directories."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from interlock.kernel.errors import InputError
from interlock.kernel.outcome import Status

JOURNAL_NAME = "journal.sqlite"


@dataclass
class PromptResult:
    """What became of one sample: the fields of the pilot's result files, then further ones.

    prompt_id, model    what was asked, and of which model
    full_response       the answer's text; empty where there is none
    tokens_used         `input`, `output` and `total`; None where the provider did not count
    token_logprobs      `{"token_position", "top_tokens", "top_logprobs"}` a token, or None
    model_version       the version that the provider reports
    sampling_params     what was asked for: `temperature`, `seed`, `max_tokens` and others
    timestamp           when the answer came, ISO 8601, local time without a zone
    elapsed_seconds     of the last attempt
    run_id              the run that it belongs to
    error               why there is no answer, in words
    retry_count         retries after the first attempt

    Further ones:

    variant             model and temperature, as named in the checkpoint
    sample_index        0 … samples - 1
    seed                of this sample, derived from the run's seed, the prompt's id and the index
    status              accepted, flagged, refused or failed
    error_type          code of the error (`interlock.errors`), None where there is an answer
    error_detail        what the provider said of it
    flag                why an answer is flagged: max_tokens, refusal or other
    stop_reason         a value of `StopReason`, None where there is no answer
    raw_stop            the provider's own word for it
    applied_sampling    parameters that were sent or used
    not_applied         parameters that were asked for and not used -> why
    request_id          the provider's name for the request
    token_details       `cached` and `reasoning` tokens, where the provider counts them
    cost_usd            by the price table, None where the price or the usage is not known
    uncertain_usd       worst case of attempts that may have been billed though no usage came
    """

    prompt_id: str
    model: str
    full_response: str
    tokens_used: dict[str, int | None]
    token_logprobs: list[dict[str, Any]] | None = None
    model_version: str = ""
    sampling_params: dict[str, Any] = field(default_factory=dict)
    timestamp: str = ""
    elapsed_seconds: float = 0.0
    run_id: str = ""
    error: str | None = None
    prompt_category: str = ""
    is_synthetic_probe: bool = False
    retry_count: int = 0
    variant: str = ""
    sample_index: int = 0
    seed: int | None = None
    status: str = "accepted"
    error_type: str | None = None
    error_detail: str | None = None
    flag: str | None = None
    stop_reason: str | None = None
    raw_stop: str | None = None
    applied_sampling: dict[str, Any] | None = None
    not_applied: dict[str, str] = field(default_factory=dict)
    request_id: str | None = None
    token_details: dict[str, int] | None = None
    cost_usd: float | None = None
    uncertain_usd: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The result as it stands in a result file, in the order of its fields there."""
        return {name: getattr(self, name) for name in FILE_ORDER}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> PromptResult:
        """A result of a file, fields of later releases left out; raises InputError.

        What is null is taken as not there.
        """
        known = {name: value[name] for name in FILE_ORDER if value.get(name) is not None}
        for name in ("prompt_id", "model", "full_response"):
            # The pilot's failed entries have an id and an error alone.
            if name not in known and (name == "prompt_id" or not known.get("error")):
                raise InputError(f"a result lacks {name}")
        known = {"model": "", "full_response": "", "tokens_used": {}} | known
        if known.get("error") and "status" not in known:
            known["status"] = "failed"
        try:
            result = msgspec.convert(known, cls)
        except msgspec.ValidationError as error:
            # "Expected `str`, got `int` - at `$.full_response`": no value stands in it.
            raise InputError(f"a result's field: {error}") from None
        if result.status not in _STATUSES:
            raise InputError(f"a result's status is none of {', '.join(_STATUSES)}")
        if result.sample_index < 0:
            raise InputError("a result's sample_index is negative")
        return result


_STATUSES = tuple(status.value for status in Status)
_SEED_ORDER = (
    "prompt_id",
    "model",
    "model_version",
    "full_response",
    "tokens_used",
    "token_logprobs",
    "sampling_params",
    "timestamp",
    "elapsed_seconds",
    "run_id",
    "error",
    "prompt_category",
    "is_synthetic_probe",
    "retry_count",
)
_NAMES = tuple(entry.name for entry in dataclasses.fields(PromptResult))
FILE_ORDER = _SEED_ORDER + tuple(name for name in _NAMES if name not in _SEED_ORDER)
"""Names of the fields in the order of a result file: the pilot's first."""


def read_results(path: Path | str, *, run_id: str | None = None) -> Iterator[PromptResult]:
    """The results in a result file, a journal, or a run directory's journal.

    A journal is read page by page, in the order of the run: its latest run, or `run_id`. A
    directory without a journal gives its latest combined file, else its latest files a model.
    Raises InputError for what is none of these, RunNotFoundError for a run that is not there.
    """
    path = Path(path)
    if path.is_dir():
        if (path / JOURNAL_NAME).exists():
            path = path / JOURNAL_NAME
        else:
            return (result for file in _result_files(path) for result in _read_file(file))
    if not path.exists():
        raise InputError(f"there is no result file, journal or run directory at {path}")
    with path.open("rb") as file:
        is_journal = file.read(16).startswith(b"SQLite format 3")
    if is_journal:
        from interlock.experiment.recorded import read_journal

        return read_journal(path, run_id=run_id)
    return _read_file(path)


def _result_files(directory: Path) -> list[Path]:
    # The names end in date and time, so the last one by name is the latest.
    combined = sorted(directory.glob("pilot_results_*.json"))
    if combined:
        return combined[-1:]
    latest: dict[str, Path] = {}
    for file in sorted(directory.glob("pilot_*.json")):
        latest[file.stem.rsplit("_", 2)[0]] = file
    if not latest:
        raise InputError(f"{directory} holds neither a journal nor result files")
    return list(latest.values())


def _read_file(path: Path) -> Iterator[PromptResult]:
    try:
        document = msgspec.json.decode(path.read_bytes())
        results = [result for run in document["runs"] for result in run["results"]]
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise InputError(f"{path} is not a result file") from None
    for result in results:
        try:
            yield PromptResult.from_dict(result)
        except (InputError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a result file: {error}") from None
