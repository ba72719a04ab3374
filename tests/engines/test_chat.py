"""Requests to chat models are checked before anything is sent."""

import pytest

from interlock.engines.chat import ChatRequest, Message, Sampling
from interlock.errors import InputError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("top_k", 0),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("seed", 1 << 63),
        ("logprobs", -1),
        ("logprob_tokens", -1),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{field} is {value}"):
        Sampling(**{field: value})  # type: ignore[arg-type]


def test_what_is_not_asked_for_is_left_to_the_provider() -> None:
    request = ChatRequest("a-model", (Message("user", "Is CVE-2021-44228 real?"),))
    assert request.sampling.temperature is None
    assert request.sampling.logprobs is None
