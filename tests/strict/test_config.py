"""Thresholds: what is accepted, and what they become in a narrower format."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.decode_oracle import nearest

from interlock.errors import ConfigError
from interlock.strict import InferenceConfig


def test_thresholds_are_kept_as_floats_and_cannot_change() -> None:
    config = InferenceConfig(np.float64(0.5), 1)
    assert (config.tau_infer, config.tau_train) == (0.5, 1.0)
    assert type(config.tau_infer) is float
    with pytest.raises(FrozenInstanceError):
        config.tau_infer = 0.0  # type: ignore[misc]


@pytest.mark.parametrize("value", [0, -1e-6, math.nan, math.inf, 10**400, "0.1", True, None, 1j])
def test_a_threshold_that_decides_nothing_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigError, match="tau_infer is"):
        InferenceConfig(value)  # type: ignore[arg-type]
    if value is not None:
        with pytest.raises(ConfigError, match="tau_train is"):
            InferenceConfig(1e-6, value)  # type: ignore[arg-type]


def test_the_training_threshold_may_equal_the_inference_one_but_not_be_below() -> None:
    assert InferenceConfig(1e-6, 1e-6).tau_train == 1e-6
    with pytest.raises(ConfigError, match=r"tau_train is 1e-07.*1e-06"):
        InferenceConfig(1e-6, 1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@given(value=st.floats(min_value=5e-324, allow_infinity=False))
def test_rounding_is_to_nearest_even_or_refused(dtype: str, value: float) -> None:
    expected = nearest(*value.as_integer_ratio(), dtype)
    config = InferenceConfig(value)
    if 0 < expected < math.inf:
        assert config.in_format(dtype).infer == expected
    else:
        with pytest.raises(ConfigError, match=f"tau_infer is .* in {dtype}"):
            config.in_format(dtype)


def test_complex_formats_use_that_of_their_components() -> None:
    config = InferenceConfig(0.1, 0.2)
    assert config.in_format("complex64") == config.in_format("float32")
    assert config.in_format("complex128") == config.in_format("float64")
    with pytest.raises(ConfigError, match="int8"):
        config.in_format("int8")
