"""The compiled decode gives the same masks and the same bits as the NumPy one."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from support.adversarial import CONFIGS, FORMATS, pairs, values
from support.counts import count
from support.parity import assert_same

from interlock.errors import InputError
from interlock.strict import InferenceConfig, strict_inference

pytest.importorskip("numba")

CONFIG = InferenceConfig(1e-6, 1e-4)
SHAPES = [
    ((-1,), (-1,)),
    ((-1, 1), (-1,)),
    ((-1, 2), (-1,)),
    ((-1, 8), (-1, 1)),
    ((-1, 2, 2), (-1, 2)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize(("p_shape", "q_shape"), SHAPES)
def test_the_same_as_numpy_on_adversarial_pairs(
    dtype: str, index: int, p_shape: tuple[int, ...], q_shape: tuple[int, ...]
) -> None:
    form, config = FORMATS[dtype], CONFIGS[dtype][index]
    n = count(8_000, 800_000)
    p, q = (values(b, form) for b in pairs(form, n, config, np.random.default_rng(index)))
    p = p.reshape(p_shape)
    q = q[: n // p[0].size * (q_shape[1] if len(q_shape) > 1 else 1)].reshape(q_shape)
    assert_same(
        strict_inference(p, q, config=config, engine="numba"),
        strict_inference(p, q, config=config, engine="numpy"),
    )


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), ()])
def test_empty_and_scalar_batches(shape: tuple[int, ...]) -> None:
    p = np.ones(shape, np.float32)
    q = np.ones(shape[:1], np.float32)
    assert_same(
        strict_inference(p, q, config=CONFIG, engine="numba"),
        strict_inference(p, q, config=CONFIG, engine="numpy"),
    )


def test_outputs_are_filled_and_inputs_left_alone() -> None:
    p, q = np.ones(3), np.array([1.0, 0, 5e-5])
    p.flags.writeable = q.flags.writeable = False
    out = (np.empty(3), np.empty(3, bool), np.empty(3, bool))
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        result = strict_inference(p, q, config=CONFIG, engine="numba", out=out)
    assert result.decoded is out[0]
    assert out[1].tolist() == [False, True, False]
    assert out[2].tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("p", "q", "reason"),
    [
        (np.ones(2, np.float16), np.ones(2, np.float16), "float16"),
        (np.ones(2, complex), np.ones(2, complex), "complex128"),
        (np.ones(2), np.ones(2, np.float32), "both the same"),
        (np.ones(4)[::2], np.ones(2), "C-contiguous"),
        (np.ones(2, ">f8"), np.ones(2, ">f8"), "P is >f8"),
    ],
)
def test_what_it_cannot_take_is_refused_when_asked_for_and_left_to_numpy_otherwise(
    p: np.ndarray, q: np.ndarray, reason: str
) -> None:
    config = InferenceConfig(1e-3)
    with pytest.raises(InputError, match=reason):
        strict_inference(p, q, config=config, engine="numba")
    assert not strict_inference(p, q, config=config).bottom_mask.any()


def test_nothing_is_compiled_or_imported_until_asked() -> None:
    program = """
import sys
import numpy as np
from interlock.strict import InferenceConfig, strict_inference
ones = np.ones(1_000_000)
strict_inference(ones, ones, config=InferenceConfig(1e-6))
assert "numba" not in sys.modules and "torch" not in sys.modules and "onnx" not in sys.modules
from interlock.strict import decode_numba
assert "numba" not in sys.modules
decode_numba.compile_kernels()
calls = []
decode_numba.decode = lambda *arguments: calls.append(len(arguments))
strict_inference(ones, ones, config=InferenceConfig(1e-6))
assert calls == [6], calls
strict_inference(ones, ones, config=InferenceConfig(1e-6), engine="numpy")
assert calls == [6], calls
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_missing_extra_is_one_line() -> None:
    program = """
import sys
sys.modules["numba"] = None
import numpy as np
from interlock.errors import MissingExtraError
from interlock.strict import InferenceConfig, strict_inference
try:
    strict_inference(np.ones(1), np.ones(1), config=InferenceConfig(1e-6), engine="numba")
except MissingExtraError as error:
    assert error.extra == "numba"
else:
    raise SystemExit("decoded without numba")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
