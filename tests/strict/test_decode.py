"""Strict decode of NumPy arrays, by example and against exact arithmetic."""

from __future__ import annotations

import math
import sys
import warnings
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import decode_oracle
from support.adversarial import CONFIGS, FORMATS, pairs, values
from support.counts import count

from interlock.errors import ConfigError, InputError
from interlock.strict import InferenceConfig, StrictResult, strict_inference
from interlock.strict import decode as decode_module

CONFIG = InferenceConfig(tau_infer=1e-6, tau_train=1e-4)
NUMPY_FORMATS = ["float16", "float32", "float64"]


def rows(result: StrictResult) -> tuple[list[Any], list[Any], list[Any]]:
    decoded, bottom, gap = result
    return decoded.tolist(), bottom.tolist(), gap.tolist()


def test_each_rule_once() -> None:
    p = np.array([1, 1, 1, 1, math.nan, 1, math.inf, 1, -0.0, 1e300])
    q = np.array([2, 1e-6, 5e-7, 5e-5, 1, math.nan, 1, math.inf, 1, 1e-10])
    decoded, bottom, gap = strict_inference(p, q, config=InferenceConfig(1e-6, 1e-4))
    accepted = [True, True, False, True, False, False, False, False, True, False]
    assert (~bottom).tolist() == accepted
    assert gap.tolist() == [False, True, False, True, *[False] * 6]
    assert np.isnan(decoded[bottom]).all()
    assert decoded[~bottom].tobytes() == (p[~bottom] / q[~bottom]).tobytes()
    assert math.copysign(1, decoded[8]) == -1


@pytest.mark.parametrize("dtype", NUMPY_FORMATS)
def test_an_overflowing_quotient_is_a_fault(dtype: str) -> None:
    largest = np.finfo(dtype).max
    p, q = np.full(3, largest, dtype), np.array([0.5, 1, 2], dtype)
    decoded, bottom, _ = strict_inference(p, q, config=InferenceConfig(0.1))
    assert bottom.tolist() == [True, False, False]
    assert decoded[1:].tolist() == [largest, largest / 2]


def test_zero_is_bottom_below_the_smallest_threshold() -> None:
    smallest = InferenceConfig(5e-324)
    assert rows(strict_inference(np.array([0.0, 0.0]), np.array([0.0, 5e-324]), config=smallest))[
        1
    ] == [True, False]


@pytest.mark.parametrize("dtype", NUMPY_FORMATS)
@pytest.mark.parametrize("tau", [0.1, 1e-3, 0.3])
def test_the_threshold_itself_is_accepted_and_its_lower_neighbour_is_not(
    dtype: str, tau: float
) -> None:
    edge = np.array(tau).astype(dtype)
    q = np.array([np.nextafter(edge, edge.dtype.type(0)), edge, -edge])
    result = strict_inference(np.ones_like(q), q, config=InferenceConfig(tau))
    assert result.bottom_mask.tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", NUMPY_FORMATS)
@pytest.mark.parametrize("index", range(3))
def test_masks_and_bits_agree_with_exact_arithmetic(dtype: str, index: int) -> None:
    form, config = FORMATS[dtype], CONFIGS[dtype][index]
    p, q = (values(b, form) for b in pairs(form, count(2_000, 100_000), config, _rng(index)))
    decoded, bottom, gap = strict_inference(p, q, config=config)
    expected = [
        decode_oracle.decode(a, b, dtype, config.tau_infer, config.tau_train)
        for a, b in zip(p.tolist(), q.tolist(), strict=True)
    ]
    assert bottom.tolist() == [e.bottom for e in expected]
    assert gap.tolist() == [e.gap for e in expected]
    exact = np.array([e.value for e in expected]).astype(dtype)
    assert decoded[~bottom].tobytes() == exact[~bottom].tobytes()
    assert np.isnan(decoded[bottom]).all()
    assert 0.05 < bottom.mean() < 0.95


@given(st.data())
def test_what_holds_for_every_pair(data: st.DataObject) -> None:
    width: Literal[16, 32, 64] = data.draw(st.sampled_from([16, 32, 64]))
    floats = st.floats(width=width)
    cells = data.draw(st.lists(st.tuples(floats, floats), max_size=20))
    p, q = np.array(cells, f"float{width}").reshape(-1, 2).T
    before = p.tobytes(), q.tobytes()
    config = InferenceConfig(1e-3, 1e-2)
    decoded, bottom, gap = strict_inference(p, q, config=config)
    assert not (bottom & gap).any()
    assert (np.isnan(decoded) == bottom).all()
    assert np.isfinite(decoded[~bottom]).all()
    assert (p.tobytes(), q.tobytes()) == before
    negated = strict_inference(-p, -q, config=config)
    assert (negated.bottom_mask == bottom).all()
    assert (negated.gap_mask == gap).all()


@pytest.mark.parametrize(
    ("p", "q", "mask"),
    [
        ((4,), (4,), (4,)),
        ((4, 1), (4,), (4,)),
        ((4, 3), (4,), (4,)),
        ((4, 3), (4, 1), (4, 3)),
        ((4, 3), (4, 3), (4, 3)),
        ((4, 3, 2), (4,), (4,)),
        ((4, 3, 2), (4, 3), (4, 3)),
        ((4, 3, 2), (4, 3, 1), (4, 3, 2)),
        ((0,), (0,), (0,)),
        ((0, 3), (0, 1), (0, 3)),
        ((0, 3), (0,), (0,)),
        ((4, 0), (4,), (4,)),
        ((4, 0), (4, 1), (4, 0)),
        ((), (), ()),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_shapes(p: tuple[int, ...], q: tuple[int, ...], mask: tuple[int, ...], dtype: str) -> None:
    decoded, bottom, gap = strict_inference(np.ones(p, dtype), np.ones(q, dtype), config=CONFIG)
    assert (decoded.shape, bottom.shape, gap.shape) == (p, mask, mask)
    assert (decoded.dtype, bottom.dtype, gap.dtype) == (np.dtype(dtype), np.bool_, np.bool_)
    assert isinstance(decoded, np.ndarray)
    assert not bottom.any()


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ((4,), (4, 1)),
        ((4,), (1,)),
        ((1,), (4,)),
        ((4, 3), (3,)),
        ((4, 3), (4, 2)),
        ((4, 3), (1, 1)),
        ((4, 1), (4, 3)),
        ((4, 3, 2), (4, 1)),
        ((4, 3), ()),
        ((), (1,)),
        ((1,), ()),
    ],
)
def test_shapes_that_would_need_a_silent_broadcast_are_refused(
    p: tuple[int, ...], q: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="do not belong together"):
        strict_inference(np.ones(p), np.ones(q), config=CONFIG)


def test_a_row_is_bottom_if_anything_in_it_is() -> None:
    p = np.array([[1, 2], [1, math.nan], [1e300, 1], [1, 2], [1, 2]])
    q = np.array([1, 1, 1e-10, 1e-20, 5e-5])
    decoded, bottom, gap = strict_inference(p, q, config=InferenceConfig(1e-12, 1e-4))
    assert bottom.tolist() == [False, True, True, True, False]
    assert gap.tolist() == [False, False, False, False, True]
    assert np.isnan(decoded[1:4]).all()
    assert decoded[[0, 4]].tolist() == [[1, 2], [1 / 5e-5, 2 / 5e-5]]


def test_an_element_is_judged_on_its_own_with_a_column_of_denominators() -> None:
    p = np.array([[1, math.nan], [1, 2], [1, math.inf]])
    decoded, bottom, gap = strict_inference(p, np.array([[1], [0], [5e-5]]), config=CONFIG)
    assert bottom.tolist() == [[False, True], [True, True], [False, True]]
    assert gap.tolist() == [[False, False], [False, False], [True, False]]
    assert decoded[0, 0] == 1


def test_without_a_training_threshold_nothing_is_in_the_gap() -> None:
    result = strict_inference(np.ones(3), np.array([1e-6, 1e-7, 1]), config=InferenceConfig(1e-6))
    assert rows(result)[1:] == ([False, True, False], [False, False, False])


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_numbers_are_judged_by_magnitude(dtype: str) -> None:
    largest = float(np.finfo(dtype).max)
    q = np.array([0.3 + 0.4j, 0.6j, -0.5, 0.3 + 0.3j, 0, largest * (1 + 1j), complex(1, math.inf)])
    p = np.array([1, 1j, 1 + 1j, 1, 1, 0, 1])
    config = InferenceConfig(0.5, 0.55)
    decoded, bottom, gap = strict_inference(p.astype(dtype), q.astype(dtype), config=config)
    assert bottom.tolist()[1:] == [False, False, True, True, False, True]
    assert gap.tolist()[1:] == [False, True, False, False, False, False]
    assert decoded[1:3].tobytes() == (p.astype(dtype)[1:3] / q.astype(dtype)[1:3]).tobytes()
    assert np.isnan(decoded[bottom].real).all()
    assert np.isnan(decoded[bottom].imag).all()


def test_complex_faults_in_either_component_of_p() -> None:
    p = np.array([complex(1, math.inf), complex(math.nan, 1), complex(-math.inf, math.nan), 1])
    assert strict_inference(p, np.ones(4, complex), config=CONFIG).bottom_mask.tolist() == [
        True,
        True,
        True,
        False,
    ]


def test_a_magnitude_whose_square_underflows_is_not_taken_for_zero() -> None:
    q = np.array([3e-200 + 4e-200j, 3e-300j])
    result = strict_inference(q, q, config=InferenceConfig(1e-250))
    assert result.bottom_mask.tolist() == [False, True]
    assert result.decoded[0] == 1


def test_two_dtypes_give_the_wider_quotient_and_q_decides_on_the_threshold() -> None:
    q = np.array([0.1, np.nextafter(np.float32(0.1), np.float32(0))], np.float32)
    decoded, bottom, _ = strict_inference(np.ones(2), q, config=InferenceConfig(0.1))
    assert decoded.dtype == np.float64
    assert bottom.tolist() == [False, True]
    # 0.1 in float32 lies above 0.1 in float64, so here the same number is not the threshold.
    wide = strict_inference(np.ones(2, np.float32), q.astype(float), config=InferenceConfig(0.1))
    assert wide.bottom_mask.tolist() == [False, True]
    assert strict_inference(np.ones(1, complex), np.ones(1), config=CONFIG).decoded.dtype == complex


@pytest.mark.parametrize("view", ["strided", "fortran", "big-endian", "read-only", "memmap"])
def test_how_an_array_lies_in_memory_changes_nothing(view: str, tmp_path: Any) -> None:
    config = CONFIG
    p, q = np.random.default_rng(1).normal(size=(2, 50_000, 2)).astype(np.float32)
    expected = strict_inference(p, q, config=config)
    match view:
        case "strided":
            p, q = np.repeat(p, 3, axis=0)[::3], np.repeat(q, 2, axis=1)[:, ::2]
        case "fortran":
            p, q = np.asfortranarray(p), np.asfortranarray(q)
        case "big-endian":
            p, q = p.astype(">f4"), q.astype(">f4")
        case "read-only":
            p.flags.writeable = q.flags.writeable = False
        case "memmap":
            q.tofile(tmp_path / "q")
            q = np.memmap(tmp_path / "q", np.float32, mode="r", shape=q.shape)
    result = strict_inference(p, q, config=config)
    for got, want in zip(result, expected, strict=True):
        assert type(got) is np.ndarray
        assert got.dtype == want.dtype
        assert got.dtype.isnative
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("p_shape", "q_shape"),
    [((101,), (101,)), ((101, 5), (101, 1)), ((101, 5), (101,)), ((101, 2, 2), (101, 2))],
)
def test_blocks_do_not_show(
    p_shape: tuple[int, ...], q_shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    p, q = (rng.choice([0.0, 5e-5, 1, math.nan, -3], shape) for shape in (p_shape, q_shape))
    whole = strict_inference(p, q, config=CONFIG)
    for block in (1, 7, 64):
        monkeypatch.setattr(decode_module, "_BLOCK", block)
        for got, want in zip(strict_inference(p, q, config=CONFIG), whole, strict=True):
            np.testing.assert_array_equal(got, want)


def test_outputs_are_filled_in_place() -> None:
    p, q = np.ones((3, 2)), np.array([1.0, 0, 5e-5])
    out = (np.empty((3, 2)), np.empty(3, bool), np.empty(3, bool))
    result = strict_inference(p, q, config=CONFIG, out=out)
    assert all(got is given_ for got, given_ in zip(result, out, strict=True))
    assert rows(result)[1:] == ([False, True, False], [False, False, True])


def test_arrays_are_decoded_while_another_thread_imports_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # An import that has begun: the module is there, what it defines is not.
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    result = strict_inference(np.ones(2), np.array([0.0, 2.0]), config=CONFIG)
    assert result.bottom_mask.tolist() == [True, False]


def test_outputs_that_cannot_take_the_result_are_refused() -> None:
    p, q = np.ones(4), np.ones(4)

    def out(**changed: Any) -> Any:
        good = {"decoded": np.empty(4), "bottom": np.empty(4, bool), "gap": np.empty(4, bool)}
        return tuple((good | changed).values())

    read_only = np.empty(4)
    read_only.flags.writeable = False
    mask = np.empty(4, bool)
    for broken in (
        out(decoded=np.empty(4, np.float32)),
        out(decoded=np.empty((4, 1))),
        out(bottom=np.empty(4, np.uint8)),
        out(decoded=read_only),
        out(decoded=p),
        out(decoded=q[::1]),
        out(bottom=mask, gap=mask),
        out(decoded=[0.0] * 4),
        out(decoded=np.ma.masked_array(np.empty(4), mask=[True, False, False, False])),
        out(decoded=np.empty(4).view(np.recarray)),
        out()[0],
        out()[:2],
    ):
        with pytest.raises(InputError, match="out"):
            strict_inference(p, q, config=CONFIG, out=broken)


@pytest.mark.parametrize(
    "bad",
    [
        [1.0],
        1.0,
        None,
        np.ones(1, int),
        np.ones(1, bool),
        np.ones(1, np.longdouble),
        np.array(["1"]),
        np.array([1.0], object),
        np.ma.masked_array([1.0], mask=[True]),
    ],
)
def test_other_inputs_are_refused_by_name(bad: Any) -> None:
    good = np.ones(1)
    with pytest.raises(InputError, match=r"^P "):
        strict_inference(bad, good, config=CONFIG)
    with pytest.raises(InputError, match=r"^Q "):
        strict_inference(good, bad, config=CONFIG)


def test_a_threshold_that_the_dtype_cannot_hold_is_refused() -> None:
    half = np.ones(1, np.float16)
    with pytest.raises(ConfigError, match="tau_infer is 1e-08, which rounds to 0 in float16"):
        strict_inference(half, half, config=InferenceConfig(1e-8))
    with pytest.raises(ConfigError, match=r"tau_train is .*rounds to infinity"):
        strict_inference(half, half, config=InferenceConfig(1e-3, 7e4))
    with pytest.raises(ConfigError, match="engine"):
        strict_inference(half, half, config=CONFIG, engine="gpu")  # type: ignore[arg-type]


def test_no_warning_and_no_error_state_leaks() -> None:
    p = np.array([0, 1, math.inf, 1e308, 5e-324])
    q = np.array([0, 0, math.inf, 1e-308, 1e308])
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        strict_inference(p, q, config=CONFIG)
        strict_inference(p.astype(complex), q.astype(complex), config=CONFIG)
        assert set(np.geterr().values()) == {"raise"}


def test_the_result_is_a_named_triple() -> None:
    result = strict_inference(np.ones(1), np.ones(1), config=CONFIG)
    assert result._fields == ("decoded", "bottom_mask", "gap_mask")
    assert result.decoded is result[0]
    assert getattr(result, "fault_mask", None) is None


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
