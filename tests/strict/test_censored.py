"""Three-way censoring; NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interlock.errors import ConfigError, InputError
from interlock.strict import CensoredClass, InferenceConfig, strict_inference
from interlock.strict import decode_strict_censored_3way as decode

BELOW, IN_RANGE, ABOVE, UNDECIDED = CensoredClass
NAN, INF = np.nan, np.inf
TAU = 1e-6


def test_the_direction_head_decides_where_q_is_small() -> None:
    P, Q = np.ones(5), np.array([1.0, 0.0, 1e-9, -1e-9, 1e-9])
    logits = np.array([[5, 0], [5, 0], [0, 5], [0, 5], [1, 1]], float)
    decoded, bottom_mask, class_id = decode(P, Q, tau_infer=TAU, direction_logits=logits)
    assert class_id.tolist() == [IN_RANGE, BELOW, ABOVE, ABOVE, UNDECIDED]
    assert bottom_mask.tolist() == [False, True, True, True, True]
    assert decoded[0] == 1
    assert np.isnan(decoded[1:]).all()


def test_without_a_head_the_sign_of_p_decides_where_q_is_not_negative() -> None:
    P = np.array([-1.0, 1.0, 0.0, -1.0, 1.0, 1.0, -2.0])
    Q = np.array([0.0, -0.0, 0.0, -1e-9, -1e-9, 1e-9, 1.0])
    class_id = decode(P, Q, tau_infer=TAU).class_id
    assert class_id.tolist() == [BELOW, ABOVE, UNDECIDED, UNDECIDED, UNDECIDED, ABOVE, IN_RANGE]


@pytest.mark.parametrize("logits", [[NAN, 0], [0, NAN], [NAN, NAN], [INF, 0], [0, -INF]])
def test_logits_that_are_not_finite_decide_nothing(logits: list[float]) -> None:
    found = decode(np.ones(1), np.zeros(1), tau_infer=TAU, direction_logits=np.array([logits]))
    assert found.class_id.tolist() == [UNDECIDED]


@pytest.mark.parametrize("p", [INF, -INF])
def test_a_numerator_that_overflowed_over_a_vanishing_q_takes_the_side_of_the_head(
    p: float,
) -> None:
    P, Q = np.full(2, p), np.array([0.0, 1e-9])
    logits = np.array([[5.0, 0.0], [0.0, 5.0]])
    found = decode(P, Q, tau_infer=TAU, direction_logits=logits)
    assert found.class_id.tolist() == [BELOW, ABOVE]
    assert found.bottom_mask.all()
    # Its own sign is not trusted.
    assert decode(P, Q, tau_infer=TAU).class_id.tolist() == [UNDECIDED, UNDECIDED]


@pytest.mark.parametrize(
    ("p", "q"), [(NAN, 0.0), (INF, 1.0), (1.0, NAN), (1.0, INF), (-INF, INF), (1e308, 0.1)]
)
def test_a_fault_has_no_side(p: float, q: float) -> None:
    sure = np.array([[0.0, 100.0]])
    for logits in (None, sure):
        found = decode(np.array([p]), np.array([q]), tau_infer=TAU, direction_logits=logits)
        assert found.class_id.tolist() == [UNDECIDED]
        assert found.bottom_mask.tolist() == [True]


@given(
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
    st.booleans(),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.integers(0, 2**32 - 1),
)
def test_any_leading_shape(shape: tuple[int, ...], head: bool, dtype: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    odd = [0.0, 1e-7, 1.0, -1.0, NAN, INF, -INF]
    P, Q = (rng.choice(odd, size=shape).astype(dtype) for _ in range(2))
    P, Q = np.asarray(P), np.asarray(Q)
    logits = rng.choice([0.0, 1.0, NAN], size=(*shape, 2)) if head else None
    tau = 1e-3
    found = decode(P, Q, tau_infer=tau, direction_logits=logits)
    expected = strict_inference(P, Q, config=InferenceConfig(tau))
    assert np.array_equal(found.decoded, expected.decoded, equal_nan=True)
    assert np.array_equal(found.bottom_mask, expected.bottom_mask)
    assert found.class_id.shape == shape
    assert found.class_id.dtype == np.int64
    assert np.array_equal(found.class_id == IN_RANGE, ~found.bottom_mask)
    sided = (found.class_id == BELOW) | (found.class_id == ABOVE)
    assert (np.abs(Q[sided]) < tau).all()
    assert not np.isnan(P[sided]).any()
    assert head or np.isfinite(P[sided]).all()


def test_an_undecided_class_does_not_pass_as_one_of_the_three() -> None:
    class_id = decode(np.array([NAN]), np.ones(1), tau_infer=TAU).class_id
    with pytest.raises(IndexError):
        np.array(["below", "in range", "above"])[class_id]


@pytest.mark.parametrize(
    ("p", "q", "logits"),
    [
        ((4,), (4, 1), None),
        ((4, 2), (4,), None),
        ((4, 2), (4, 1), None),
        ((4,), (4,), (4,)),
        ((4,), (4,), (4, 3)),
        ((4,), (4,), (2, 4)),
        ((4, 1), (4, 1), (4, 2)),
        ((4,), (4,), (1, 2)),
    ],
)
def test_other_shapes_are_an_input_error(p: Any, q: Any, logits: Any) -> None:
    head = None if logits is None else np.zeros(logits)
    with pytest.raises(InputError, match="shape"):
        decode(np.ones(p), np.ones(q), tau_infer=TAU, direction_logits=head)


def test_other_kinds_are_an_input_error() -> None:
    ones = np.ones(2)
    with pytest.raises(InputError, match="complex"):
        decode(ones + 0j, ones, tau_infer=TAU)
    with pytest.raises(InputError, match="direction_logits"):
        decode(ones, ones, tau_infer=TAU, direction_logits=[[0, 1], [0, 1]])
    with pytest.raises(InputError, match="direction_logits"):
        decode(ones, ones, tau_infer=TAU, direction_logits=np.zeros((2, 2), np.int64))


@pytest.mark.parametrize("tau", [0.0, -1.0, NAN, INF, "1", None, True])
def test_a_threshold_that_is_none_is_a_config_error(tau: Any) -> None:
    with pytest.raises(ConfigError, match="tau_infer"):
        decode(np.ones(1), np.ones(1), tau_infer=tau)
