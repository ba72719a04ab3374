"""Strict decode of torch tensors: the rules, and the same bits as for NumPy arrays."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from support import decode_oracle
from support.adversarial import CONFIGS, FORMATS, pairs, values
from support.counts import count
from support.parity import assert_same

from interlock.errors import ConfigError, InputError
from interlock.strict import InferenceConfig, strict_inference

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch

CONFIG = InferenceConfig(1e-6, 1e-4)


def decode_as_numpy(p: Any, q: Any, config: InferenceConfig) -> list[np.ndarray[Any, Any]]:
    """The torch decode of NumPy arrays, given back as NumPy arrays."""
    tensors = torch.from_numpy(p.copy()), torch.from_numpy(q.copy())
    return [tensor.numpy() for tensor in strict_inference(*tensors, config=config)]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("index", range(3))
def test_the_same_as_numpy_on_adversarial_pairs(dtype: str, index: int) -> None:
    form, config = FORMATS[dtype], CONFIGS[dtype][index]
    rng = np.random.default_rng(index)
    p, q = (values(b, form) for b in pairs(form, count(8_000, 800_000), config, rng))
    assert_same(decode_as_numpy(p, q, config), strict_inference(p, q, config=config))
    p = p.reshape(-1, 4)
    for q_shape in ((-1,), (-1, 1)):
        shaped = q[: len(p)].reshape(q_shape)
        assert_same(decode_as_numpy(p, shaped, config), strict_inference(p, shaped, config=config))


@pytest.mark.parametrize("index", range(3))
def test_bfloat16_agrees_with_exact_arithmetic(index: int) -> None:
    form, config = FORMATS["bfloat16"], CONFIGS["bfloat16"][index]
    p, q = pairs(form, count(2_000, 100_000), config, np.random.default_rng(index))
    tensors = [torch.from_numpy(b.view(np.int16)).view(torch.bfloat16) for b in (p, q)]
    decoded, bottom, gap = strict_inference(*tensors, config=config)
    assert decoded.dtype == torch.bfloat16
    numbers = zip(values(p, form).tolist(), values(q, form).tolist(), strict=True)
    expected = [
        decode_oracle.decode(a, b, "bfloat16", config.tau_infer, config.tau_train)
        for a, b in numbers
    ]
    assert bottom.tolist() == [e.bottom for e in expected]
    assert gap.tolist() == [e.gap for e in expected]
    exact = torch.tensor([e.value for e in expected], dtype=torch.float64).to(torch.bfloat16)
    accepted = ~bottom
    assert torch.equal(decoded[accepted].view(torch.int16), exact[accepted].view(torch.int16))
    assert decoded[bottom].isnan().all()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_numbers_are_judged_by_magnitude(dtype: Any) -> None:
    q = torch.tensor([0.6j, -0.5, 0.3 + 0.3j, 0, complex(1, math.inf), 1], dtype=dtype)
    p = torch.tensor([1j, 1 + 1j, 1, 1, 1, complex(math.nan, 1)], dtype=dtype)
    decoded, bottom, gap = strict_inference(p, q, config=InferenceConfig(0.5, 0.55))
    assert bottom.tolist() == [False, False, True, True, True, True]
    assert gap.tolist() == [False, True, False, False, False, False]
    assert torch.equal(decoded[:2], (p / q)[:2])
    assert decoded[bottom].real.isnan().all()
    assert decoded[bottom].imag.isnan().all()
    small = torch.tensor([3e-200 + 4e-200j], dtype=torch.complex128)
    assert not strict_inference(small, small, config=InferenceConfig(1e-250)).bottom_mask.any()


@pytest.mark.parametrize(
    ("p", "q", "mask"),
    [
        ((4,), (4,), (4,)),
        ((4, 3), (4,), (4,)),
        ((4, 3), (4, 1), (4, 3)),
        ((4, 3, 2), (4,), (4,)),
        ((0,), (0,), (0,)),
        ((0, 3), (0, 1), (0, 3)),
        ((0, 3), (0,), (0,)),
        ((4, 0), (4,), (4,)),
        ((), (), ()),
    ],
)
def test_shapes(p: tuple[int, ...], q: tuple[int, ...], mask: tuple[int, ...]) -> None:
    decoded, bottom, gap = strict_inference(torch.ones(p), torch.ones(q), config=CONFIG)
    assert (decoded.shape, bottom.shape, gap.shape) == (p, mask, mask)
    assert (bottom.dtype, gap.dtype) == (torch.bool, torch.bool)


def test_a_vector_with_a_column_is_refused() -> None:
    with pytest.raises(InputError, match="do not belong together"):
        strict_inference(torch.ones(4), torch.ones(4, 1), config=CONFIG)


def test_inputs_and_gradients_are_left_alone() -> None:
    p = torch.ones(3, requires_grad=True)
    q = torch.nn.Parameter(torch.tensor([1.0, 0.0, 5e-5]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded, bottom, gap = strict_inference(p, q, config=CONFIG)
    assert not decoded.requires_grad
    assert p.tolist() == [1, 1, 1]
    assert q.tolist()[:2] == [1, 0]
    assert (bottom.tolist(), gap.tolist()) == ([False, True, False], [False, False, True])
    with torch.inference_mode():
        assert strict_inference(p, q, config=CONFIG).bottom_mask.tolist() == [False, True, False]


def test_strided_tensors_and_two_dtypes() -> None:
    p = torch.ones(6, dtype=torch.float64)[::2]
    q = torch.tensor([[0.1, 9], [0.05, 9], [0.2, 9]], dtype=torch.float32)[:, 0]
    decoded, bottom, _ = strict_inference(p, q, config=InferenceConfig(0.1))
    assert decoded.dtype == torch.float64
    assert bottom.tolist() == [False, True, False]


def test_other_inputs_are_refused_by_name() -> None:
    good = torch.ones(1)
    for bad in (torch.ones(1, dtype=torch.int64), np.ones(1), [1.0], torch.ones(1).to_sparse()):
        with pytest.raises(InputError, match=r"^P "):
            strict_inference(bad, good, config=CONFIG)
        with pytest.raises(InputError, match=r"^Q "):
            strict_inference(good, bad, config=CONFIG)
    with pytest.raises(InputError, match="share a device"):
        strict_inference(good, good.to("meta"), config=CONFIG)
    with pytest.raises(InputError, match="out and engine"):
        strict_inference(good, good, config=CONFIG, engine="numpy")
    with pytest.raises(ConfigError, match="rounds to 0 in float16"):
        strict_inference(good.half(), good.half(), config=InferenceConfig(1e-8))
