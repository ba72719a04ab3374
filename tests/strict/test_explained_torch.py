"""Provenance and three-way censoring of torch tensors: the same as for NumPy arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.adversarial import CONFIGS, FORMATS, pairs, values

from interlock.errors import InputError
from interlock.strict import (
    CensoredClass,
    InferenceConfig,
    decode_strict_censored_3way,
    export_bundle,
    load_onnx_runtime_bundle,
    run_bundle_reference_smoke_test,
    strict_inference,
)

pytestmark = pytest.mark.torch
torch: Any = pytest.importorskip("torch")

from interlock.strict import SCMInferenceWrapper  # noqa: E402 - needs torch

REPRESENTATIONS: tuple[Any, ...] = ("split_masks", "codes")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("index", range(3))
def test_the_same_as_numpy(dtype: str, index: int) -> None:
    form, config = FORMATS[dtype], CONFIGS[dtype][index]
    rng = np.random.default_rng(index)
    p, q = (values(bits, form) for bits in pairs(form, 4_000, config, rng))
    p = p[: len(p) // 2 * 2].reshape(-1, 2)
    for shaped in (q[: len(p)], q[: len(p)].reshape(-1, 1), q[: p.size].reshape(p.shape)):
        for representation in REPRESENTATIONS:
            asked = InferenceConfig(
                config.tau_infer,
                config.tau_train,
                "experimental",
                representation,
            )
            expected = strict_inference(p, shaped, config=asked)
            tensors = torch.from_numpy(p), torch.from_numpy(shaped.copy())
            found = strict_inference(*tensors, config=asked)
            assert vars(found).keys() == vars(expected).keys()
            for name, array in vars(expected).items():
                assert np.array_equal(vars(found)[name].numpy(), array)
                assert vars(found)[name].numpy().dtype == array.dtype
    logits = rng.choice([0.0, 1.0, np.nan], size=(*p.shape, 2))
    q = q[: p.size].reshape(p.shape)
    for head in (None, logits):
        one = decode_strict_censored_3way(p, q, tau_infer=config.tau_infer, direction_logits=head)
        other = decode_strict_censored_3way(
            torch.from_numpy(p),
            torch.from_numpy(q),
            tau_infer=config.tau_infer,
            direction_logits=None if head is None else torch.from_numpy(head),
        )
        assert other.class_id.dtype == torch.int64
        assert np.array_equal(other.class_id.numpy(), one.class_id)
        assert set(np.unique(one.class_id)) == set(CensoredClass)


def test_a_head_on_another_kind_of_array_is_an_input_error() -> None:
    with pytest.raises(InputError, match="direction_logits"):
        decode_strict_censored_3way(
            torch.ones(2), torch.ones(2), tau_infer=0.1, direction_logits=np.zeros((2, 2))
        )


class Columns(torch.nn.Module):  # type: ignore[misc]
    """x (batch, 3) -> P (batch, 2), Q (batch, 1)."""

    def forward(self, x: Any) -> tuple[Any, Any]:
        return x[:, :2] * 1.0, x[:, 2:] * 1.0


def test_a_bundle_keeps_its_outputs_where_the_wrapper_explains(tmp_path: Path) -> None:
    config = InferenceConfig(0.1, 0.3, "experimental", "codes")
    wrapped = SCMInferenceWrapper(Columns(), config).eval()
    x = torch.tensor([[1.0, 2.0, 1.0], [1.0, 2.0, 0.2], [1.0, 2.0, 0.01], [torch.nan, 2.0, 1.0]])
    explained = wrapped(x)
    assert explained.bottom_provenance.tolist() == [[0, 0], [0, 0], [2, 2], [1, 0]]
    export_bundle(wrapped, tmp_path / "b", example_inputs=(x[:3],))
    runtime = load_onnx_runtime_bundle(tmp_path / "b")
    names = [output.name for output in runtime.session.outputs]
    assert names == ["decoded", "bottom_mask", "gap_mask"]
    assert run_bundle_reference_smoke_test(tmp_path / "b", wrapped, (x[:3],))
    result = runtime.run(x)
    assert not hasattr(result, "bottom_provenance")
    assert np.array_equal(result.bottom_mask, explained.bottom_mask.numpy())
