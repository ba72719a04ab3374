"""Result files that this release did not write: read, or refused with what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from interlock.errors import InputError
from interlock.experiment import PromptResult, read_results

ENTRY = {
    "prompt_id": "p1",
    "model": "m",
    "full_response": "Yes.",
    "tokens_used": {"input": 42, "output": 156, "total": 198},
}


def read(path: Path, *entries: dict[str, Any]) -> list[PromptResult]:
    """The entries as a result file of one run."""
    run = {"model_config": {"name": "m"}, "results": entries, "completed_at": None}
    path.write_text(json.dumps({"metadata": {}, "runs": [run]}))
    return list(read_results(path))


def test_a_field_that_is_null_is_one_that_is_not_there(tmp_path: Path) -> None:
    names = ("sampling_params", "elapsed_seconds", "retry_count", "sample_index", "not_applied")
    empty = dict.fromkeys([*names, "tokens_used", "status", "variant", "is_synthetic_probe"])
    (found,) = read(tmp_path / "r.json", ENTRY | empty)
    assert found == PromptResult("p1", "m", "Yes.", {})
    (failed,) = read(tmp_path / "r.json", {"prompt_id": "p2", "error": "x", "full_response": None})
    assert (failed.status, failed.full_response) == ("failed", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"full_response": None}, "lacks full_response"),
        ({"full_response": 5}, "full_response"),
        ({"tokens_used": {"input": "42"}}, "tokens_used"),
        ({"token_logprobs": "x"}, "token_logprobs"),
        ({"cost_usd": "1"}, "cost_usd"),
        ({"elapsed_seconds": "2.3"}, "elapsed_seconds"),
        ({"sample_index": -1}, "sample_index"),
        ({"status": "fine"}, "status is none of accepted, flagged, refused, failed"),
        ({"prompt_id": 5}, "prompt_id"),
    ],
)
def test_a_field_of_another_kind_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"is not a result file: .*{message}"):
        read(tmp_path / "r.json", ENTRY, ENTRY | change)
