"""Why an answer is bottom; NumPy arrays."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.adversarial import CONFIGS, FORMATS, pairs, values
from support.parity import assert_same

from interlock.errors import ConfigError
from interlock.strict import BottomCode, InferenceConfig, strict_inference

NAN, INF = np.nan, np.inf
NAMES = ("fault_mask", "semantic_bottom_mask", "bottom_provenance")


def asking(config: InferenceConfig, representation: Any = "split_masks") -> InferenceConfig:
    return InferenceConfig(config.tau_infer, config.tau_train, "experimental", representation)


def test_each_cause() -> None:
    config = InferenceConfig(0.1, 0.3)
    P = np.array([1, NAN, 1, 1, NAN, 3e38, 1, 1], np.float32)
    Q = np.array([1, 1, 0, INF, 1e-3, 0.5, 0.2, NAN], np.float32)
    split: Any = strict_inference(P, Q, config=asking(config))
    codes: Any = strict_inference(P, Q, config=asking(config, "codes"))
    none, fault, semantic, mixed = BottomCode
    expected = [none, fault, semantic, fault, mixed, fault, none, fault]
    assert codes.bottom_provenance.tolist() == expected
    assert split.fault_mask.tolist() == [code in (fault, mixed) for code in expected]
    assert split.semantic_bottom_mask.tolist() == [code in (semantic, mixed) for code in expected]


def test_nothing_is_there_that_was_not_asked_for() -> None:
    config = InferenceConfig(0.1)
    given_ = np.ones(3), np.ones(3)
    absent = strict_inference(*given_, config=config)
    assert [getattr(absent, name, None) for name in NAMES] == [None, None, None]
    split = strict_inference(*given_, config=asking(config))
    assert [hasattr(split, name) for name in NAMES] == [True, True, False]
    codes: Any = strict_inference(*given_, config=asking(config, "codes"))
    assert [hasattr(codes, name) for name in NAMES] == [False, False, True]
    assert codes.bottom_provenance.dtype == np.uint8


@given(
    st.sampled_from(["float16", "float32", "float64"]),
    st.integers(0, 2),
    st.sampled_from([(-1,), (-1, 1), (-1, 4)]),
    st.integers(0, 2**32 - 1),
)
def test_bottom_is_the_union_and_the_stable_contract_stays(
    dtype: str, index: int, q_shape: tuple[int, ...], seed: int
) -> None:
    form, config = FORMATS[dtype], CONFIGS[dtype][index]
    bits = pairs(form, 400, config, np.random.default_rng(seed))
    p, q = (values(array, form) for array in bits)
    p = p[: len(p) // 4 * 4].reshape(-1, 4)
    q = q[: len(p) * 4].reshape(-1, 4) if q_shape[-1] == 4 else q[: len(p)].reshape(q_shape)
    plain = strict_inference(p, q, config=config)
    split: Any = strict_inference(p, q, config=asking(config))
    codes: Any = strict_inference(p, q, config=asking(config, "codes"))
    for result in (split, codes):
        assert_same(tuple(result), plain)
        assert result._fields == ("decoded", "bottom_mask", "gap_mask")
    fault, semantic = split.fault_mask, split.semantic_bottom_mask
    assert fault.shape == semantic.shape == plain.bottom_mask.shape
    assert np.array_equal(fault | semantic, plain.bottom_mask)
    tau = config.in_format(dtype).infer
    small = np.broadcast_to(np.abs(q) < tau, plain.bottom_mask.shape)
    assert np.array_equal(semantic, small)
    assert np.array_equal(codes.bottom_provenance, fault + 2 * semantic)


@pytest.mark.parametrize("shapes", [((0,), (0,)), ((0, 2), (0, 1)), ((0, 2), (0,)), ((), ())])
def test_empty_batches_and_single_numbers(shapes: tuple[tuple[int, ...], ...]) -> None:
    p, q = (np.zeros(shape) for shape in shapes)
    for representation in ("split_masks", "codes"):
        config = asking(InferenceConfig(0.1), representation)
        result: Any = strict_inference(p, q, config=config)
        for array in vars(result).values():
            assert array.shape == result.bottom_mask.shape


def test_complex_numbers_and_two_dtypes() -> None:
    P = np.array([1, 1, complex(NAN, 0), 1e308 + 1e308j])
    Q = np.array([0.05 + 0.05j, 0.1 + 0.1j, 1e-3, 0.5])
    result: Any = strict_inference(P, Q, config=asking(InferenceConfig(0.1)))
    assert result.fault_mask.tolist() == [False, False, True, True]
    assert result.semantic_bottom_mask.tolist() == [True, False, True, False]
    wide: Any = strict_inference(
        np.ones(2), np.array([0.1, 0.05], np.float32), config=asking(InferenceConfig(0.1))
    )
    assert wide.semantic_bottom_mask.tolist() == [False, True]


def test_numba_has_it_too() -> None:
    pytest.importorskip("numba")
    P, Q = np.array([1.0, NAN, 1.0, 1.0]), np.array([1.0, 1.0, 0.0, 0.2])
    config = asking(InferenceConfig(0.1, 0.3), "codes")
    result: Any = strict_inference(P, Q, config=config, engine="numba")
    assert result.bottom_provenance.tolist() == [0, 1, 2, 0]
    assert result.gap_mask.tolist() == [False, False, False, True]


def test_results_can_be_kept() -> None:
    result: Any = strict_inference(
        np.ones(2), np.array([0.0, 1.0]), config=asking(InferenceConfig(0.1))
    )
    for again in (pickle.loads(pickle.dumps(result)), copy.copy(result)):
        assert again.semantic_bottom_mask.tolist() == [True, False]
        assert again.bottom_mask.tolist() == [True, False]


@pytest.mark.parametrize("field", ["provenance", "provenance_representation"])
@pytest.mark.parametrize("value", ["on", "", None, True, 1, ("off",), ["off"], "bottom_provenance"])
def test_other_values_are_a_config_error(field: str, value: Any) -> None:
    settings: dict[str, Any] = {field: value}
    with pytest.raises(ConfigError, match=rf"^{field} is "):
        InferenceConfig(0.1, **settings)
