"""The quantile sketch keeps its stated error, its exact figures and its memory."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.counts import count

from interlock.errors import ConfigError, InputError
from interlock.kernel.sketch import QuantileSketch, SketchState

EXAMPLES = settings(max_examples=count(150, 3_000), deadline=None)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ORDINARY = st.floats(1e-9, 1e6) | st.floats(-1e6, -1e-9) | st.just(0.0)
QUANTILES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)


def sketch_of(values: Any, accuracy: float = 0.01, bins: int = 2048) -> QuantileSketch:
    """A sketch of `values`."""
    sketch = QuantileSketch(accuracy, bins)
    sketch.add(values)
    return sketch


def rank_value(values: list[float], q: float) -> float:
    """The value that `quantile(q)` estimates."""
    return sorted(values)[math.floor(q * (len(values) - 1))]


@EXAMPLES
@given(st.lists(ORDINARY, min_size=1, max_size=80), st.floats(1e-3, 0.3), st.floats(0, 1))
def test_a_quantile_is_within_the_stated_relative_error(
    values: list[float], accuracy: float, q: float
) -> None:
    sketch = sketch_of(values, accuracy, bins=1 << 16)
    assert not sketch.collapsed
    for quantile in (q, *QUANTILES):
        wanted = rank_value(values, quantile)
        found = sketch.quantile(quantile)
        assert found is not None
        assert abs(found - wanted) <= (accuracy + 1e-9) * abs(wanted)


@pytest.mark.parametrize("seed", range(count(3, 30)))
def test_the_error_holds_on_a_long_heavy_tailed_stream(seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(0, 3, 50_000)
    sketch = QuantileSketch()
    for part in np.array_split(values, 37):
        sketch.add(part)
    ordered = np.sort(values)
    for q in np.linspace(0, 1, 201):
        wanted = ordered[math.floor(q * (values.size - 1))]
        assert sketch.quantile(q) == pytest.approx(wanted, rel=0.01 + 1e-9)


@EXAMPLES
@given(st.lists(FINITE, max_size=60))
def test_count_sum_and_range_are_exact(values: list[float]) -> None:
    sketch = sketch_of(values)
    assert sketch.count == len(values)
    assert (sketch.minimum, sketch.maximum) == (
        (min(values), max(values)) if values else (None, None)
    )
    total = sum(map(Fraction, values), Fraction(0))
    try:
        exact = float(total)
    except OverflowError:
        exact = math.inf if total > 0 else -math.inf
    assert sketch.sum == exact


def test_a_sum_is_rounded_once_however_long_the_stream() -> None:
    sketch = QuantileSketch()
    sketch.add([1e308, 1.0, 1e308, 5e-324, -1e308, -1e308])
    assert sketch.sum == 1.0
    sketch = sketch_of(np.full(3_000_000, 0.1))
    assert sketch.sum == float(3_000_000 * Fraction(0.1))


STREAMS = st.lists(FINITE | st.sampled_from([math.nan, math.inf, -math.inf, -0.0]), max_size=25)


@EXAMPLES
@given(STREAMS, STREAMS, STREAMS, st.sampled_from([2, 5, 64, 2048]))
@example([-0.0], [0.0], [], 64)
def test_merging_is_associative_and_commutative_and_the_same_as_one_stream(
    a: list[float], b: list[float], c: list[float], bins: int
) -> None:
    def merged(*parts: QuantileSketch) -> QuantileSketch:
        whole = QuantileSketch(bins=bins)
        for part in parts:
            whole.merge(part)
        return whole

    def written(sketch: QuantileSketch) -> bytes:
        # As JSON, where -0.0 and 0.0 differ.
        return msgspec.json.encode(sketch.state())

    x, y, z = (sketch_of(part, bins=bins) for part in (a, b, c))
    left = written(merged(merged(x, y), z))
    assert written(merged(x, merged(y, z))) == left
    assert written(merged(z, y, x)) == left
    assert written(merged(y, merged(), z, x)) == left
    assert written(sketch_of(a + b + c, bins=bins)) == left


@EXAMPLES
@given(st.lists(FINITE, min_size=1, max_size=60), st.integers(2, 8))
def test_memory_is_bounded_and_the_largest_magnitudes_keep_their_accuracy(
    values: list[float], bins: int
) -> None:
    sketch = QuantileSketch(0.1, bins)
    for value in values:
        sketch.add(value)
    state = sketch.state()
    assert max(len(state.positive.counts), len(state.negative.counts)) <= bins
    assert sketch.quantile(1) == max(values)
    estimates = [sketch.quantile(q) for q in QUANTILES]
    assert all(min(values) <= e <= max(values) for e in estimates if e is not None)
    assert estimates == sorted(e for e in estimates if e is not None)


def test_a_collapse_is_admitted_and_spares_the_largest() -> None:
    values = np.linspace(1, 10, 1001)
    sketch = sketch_of(values, bins=64)
    assert sketch.collapsed
    # 64 buckets of 1% each reach down to 10 / 1.0202 ** 63 = 2.8.
    for rank in range(1001):
        found = sketch.quantile(rank / 1000)
        assert found is not None
        if values[rank] > 2.9:
            assert found == pytest.approx(values[rank], rel=0.0101)
        else:
            assert 1 <= found <= 3
    assert not sketch_of(values).collapsed


@EXAMPLES
@given(STREAMS)
def test_one_at_a_time_is_the_same_as_all_at_once(values: list[float]) -> None:
    whole, single = sketch_of(values), QuantileSketch()
    for value in values:
        single.add(value)
    for name in ("count", "sum", "minimum", "maximum", "nan", "positive_infinite"):
        assert getattr(single, name) == getattr(whole, name)
    assert single.negative_infinite == whole.negative_infinite
    # A value on the very edge of a bucket may round into the next one.
    for q in QUANTILES:
        one, other = single.quantile(q), whole.quantile(q)
        assert (one is None) == (other is None)
        if one is not None and other is not None and not whole.collapsed:
            assert one == pytest.approx(other, rel=0.0203, abs=0)


def test_what_is_not_finite_is_counted_apart() -> None:
    sketch = sketch_of([math.nan, 1.0, math.inf, -math.inf, math.nan, 3.0])
    assert (sketch.count, sketch.sum, sketch.maximum) == (2, 4.0, 3.0)
    assert (sketch.nan, sketch.positive_infinite, sketch.negative_infinite) == (2, 1, 1)


def test_nothing_has_no_quantile() -> None:
    sketch = sketch_of([])
    assert (sketch.quantile(0.5), sketch.sum, sketch.minimum) == (None, 0.0, None)


@pytest.mark.parametrize(
    "values", [5, True, np.float32(0.5), [[1, 2], [3, 4]], np.arange(3, dtype="u1")]
)
def test_numbers_of_every_real_kind_and_shape_are_counted(values: Any) -> None:
    assert sketch_of(values).sum == np.sum(np.asarray(values, dtype=float))


@pytest.mark.parametrize("values", [1j, "1", [None], np.array(["2026"], dtype="M8[Y]")])
def test_what_is_no_number_is_refused(values: Any) -> None:
    with pytest.raises(InputError):
        sketch_of(values)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_outside_its_range_is_refused(q: float) -> None:
    with pytest.raises(InputError):
        sketch_of([1.0]).quantile(q)


@pytest.mark.parametrize(
    "fields", [{"accuracy": 0.0}, {"accuracy": 1.0}, {"accuracy": math.nan}, {"bins": 1}]
)
def test_a_sketch_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        QuantileSketch(**fields)


def test_sketches_of_different_accuracy_do_not_merge() -> None:
    with pytest.raises(ConfigError, match="accuracy"):
        QuantileSketch(0.01).merge(QuantileSketch(0.02))


@EXAMPLES
@given(STREAMS, st.sampled_from([2, 64]))
def test_the_state_survives_json(values: list[float], bins: int) -> None:
    sketch = sketch_of(values, bins=bins)
    state = msgspec.json.decode(msgspec.json.encode(sketch.state()), type=SketchState)
    back = QuantileSketch.from_state(state)
    back.add([1.0, -2.0])
    sketch.add([1.0, -2.0])
    assert back.state() == sketch.state()


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": 0.0},
        {"bins": 2},
        {"zeros": -1},
        {"nan": -1},
        {"units": "many"},
        {"minimum": None},
        {"minimum": 9.0},
        {"minimum": -math.inf},
        {"maximum": math.nan},
        {"zeros": 0, "positive": {"low": 0, "lowest_seen": 0, "counts": []}},
        {"positive": {"low": 0, "lowest_seen": 0, "counts": [-1, 1]}},
        {"positive": {"low": 0, "lowest_seen": 1, "counts": [1]}},
        {"positive": {"low": 0, "lowest_seen": 0, "counts": [1 << 63]}},
        {"positive": {"low": 1 << 62, "lowest_seen": 0, "counts": [1]}},
        {"positive": {"low": 0, "lowest_seen": 0, "counts": [1, 0]}},
    ],
)
def test_a_state_that_is_no_sketch_is_refused(change: dict[str, Any]) -> None:
    document = msgspec.to_builtins(sketch_of([0.0, 1.0, 1.5, 2.0]).state()) | change
    with pytest.raises(InputError):
        QuantileSketch.from_state(msgspec.convert(document, SketchState))
