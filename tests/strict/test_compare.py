"""Comparing answers with a reference: what rounding explains passes, anything else does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.projective import pairs

from interlock.errors import BundleContractError
from interlock.strict import InferenceConfig, StrictResult, strict_inference
from interlock.strict.compare import compare_answers, near_threshold

CONFIG = InferenceConfig(tau_infer=1e-4, tau_train=1e-2)
X = pairs(500, 3)
P, Q = X[:, :2], X[:, 2:]


def answer() -> StrictResult:
    return StrictResult(*(array.copy() for array in strict_inference(P, Q, config=CONFIG)))


def test_equal_answers_agree_and_are_counted() -> None:
    found = compare_answers(answer(), P, Q, CONFIG, what="here")
    assert (found.rows, found.accepted + found.bottom) == (500, 1000)
    assert found.bottom == int(answer().bottom_mask.sum())
    assert found.gap == int(answer().gap_mask.sum())
    assert (found.largest_error, found.tolerance_used) == (0.0, 0.0)


@given(st.integers(0, 2**32), st.sampled_from(["float32", "float64"]))
@settings(deadline=None, max_examples=50)
def test_what_rounding_does_to_p_and_q_agrees(seed: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    x = pairs(200, seed, dtype)
    p, q = x[:, :2], x[:, 2:]
    eps = float(np.finfo(dtype).eps)
    other_p = (p + rng.uniform(-8, 8, p.shape) * eps).astype(dtype)
    other_q = (q + rng.uniform(-8, 8, q.shape) * eps).astype(dtype)
    # Where rounding decides a mask there is nothing to compare.
    clear = ~near_threshold(q, CONFIG)[:, 0]
    found = strict_inference(other_p[clear], other_q[clear], config=CONFIG)
    agreed = compare_answers(found, p[clear], q[clear], CONFIG, what="rounded")
    assert 0 < agreed.tolerance_used <= 1


def test_a_value_that_is_off_by_more_is_told_with_its_place() -> None:
    found = answer()
    row = int(np.flatnonzero(~found.bottom_mask[:, 0])[7])
    found.decoded[row, 0] *= np.float32(1.5)
    with pytest.raises(BundleContractError, match=rf"^here: accepted.* 1 of 1000 .*\({row}, 0\)"):
        compare_answers(found, P, Q, CONFIG, what="here")


def test_a_huge_row_does_not_excuse_the_others() -> None:
    p, q = np.ones((3, 2), np.float32), np.ones((3, 1), np.float32)
    p[0] = 1e30
    found = strict_inference(p, q, config=CONFIG)
    found.decoded[2, 1] = 1.001
    with pytest.raises(BundleContractError, match=r"at \(2, 1\)"):
        compare_answers(found, p, q, CONFIG, what="here")


@pytest.mark.parametrize("name", ["bottom_mask", "gap_mask"])
def test_one_wrong_mask_element_is_told_with_its_place(name: str) -> None:
    found = answer()
    getattr(found, name)[42, 1] ^= True
    with pytest.raises(BundleContractError, match=rf"{name} .* 1 of 1000 elements, at \(42, 1\)"):
        compare_answers(found, P, Q, CONFIG, what="here")


def test_a_mask_that_rounding_may_decide_is_hinted_at() -> None:
    tau = np.float32(CONFIG.tau_infer)
    q, below = np.array([[tau]]), np.array([[np.nextafter(tau, np.float32(0))]])
    p = np.ones((1, 1), np.float32)
    found = strict_inference(p, below, config=CONFIG)
    with pytest.raises(BundleContractError) as caught:
        compare_answers(found, p, q, CONFIG, what="here")
    assert "within rounding of a threshold" in caught.value.hint


def test_a_refused_row_that_still_carries_a_value_is_a_breach() -> None:
    found = answer()
    found.decoded[int(np.flatnonzero(found.bottom_mask[:, 0])[0]), 0] = 0.0
    with pytest.raises(BundleContractError, match="not NaN everywhere where bottom_mask"):
        compare_answers(found, P, Q, CONFIG, what="here")


def test_another_shape_or_dtype_is_a_breach() -> None:
    found = answer()
    for other in (
        found._replace(gap_mask=found.gap_mask[:, :1]),
        found._replace(decoded=found.decoded.astype(np.float64)),
    ):
        with pytest.raises(BundleContractError, match="the reference's is"):
            compare_answers(other, P, Q, CONFIG, what="here")
