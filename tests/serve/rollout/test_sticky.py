"""Which clients a canary takes."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from interlock.serve.rollout.sticky import new_salt, place_of


@given(st.text())
def test_a_client_has_one_place(client: str) -> None:
    try:
        client.encode()
    except UnicodeEncodeError:
        return
    salt = new_salt()
    assert 0 <= place_of(salt, client) < 100
    assert place_of(salt, client) == place_of(salt, client)


def test_the_share_is_the_percent_and_another_rollout_takes_others() -> None:
    names = [f"client-{k}" for k in range(20_000)]
    salts = [new_salt() for _ in range(2)]
    taken = [{name for name in names if place_of(salt, name) < 10} for salt in salts]
    for found in taken:
        # Six standard deviations.
        assert abs(len(found) - 2000) < 6 * math.sqrt(20_000 * 0.1 * 0.9)
    assert 100 < len(taken[0] & taken[1]) < 320  # a tenth of a tenth, as if drawn anew
