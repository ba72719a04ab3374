"""What an inference gives, as a mapping and in numbers."""

from __future__ import annotations

import numpy as np
import pytest

from interlock.errors import EngineError
from interlock.verified.result import SliceResult, of_whole, softmax


def test_a_result_is_a_mapping_of_its_public_fields() -> None:
    entry = SliceResult("slice_0", "onnx", False, True, "no key", None, 0.5)
    assert entry["reason"] == entry.reason == "no key"
    assert dict(entry) == {
        "slice": "slice_0",
        "method": "onnx",
        "verified": False,
        "fallback_used": True,
        "reason": "no key",
        "circuit_size": None,
        "time": 0.5,
    }
    assert len(entry) == 7
    with pytest.raises(KeyError):
        entry["keys"]


def test_a_whole_model_is_worth_nothing() -> None:
    found = of_whole({"y": np.array([[1, 3, 2]], np.float32)}, 0.1, None)
    assert (found.overall_security, found.unverified, found.predicted_class) == (0, 1, 1)
    assert not found.execution_results[0].fallback_used
    assert of_whole(found.outputs, 0.1, "why").execution_results[0].reason == "why"


@pytest.mark.parametrize(
    "output", [np.ones((1, 0), np.float32), np.array(["cat"], object), np.array(["cat"])]
)
def test_an_output_without_numbers_names_no_class(output: np.ndarray) -> None:
    with pytest.raises(EngineError, match="first output 'y' holds no numbers"):
        of_whole({"y": output}, 0.1, None)


def test_softmax_neither_overflows_nor_mixes_rows() -> None:
    found = softmax(np.array([[1000, 1000], [-1000, 0]], np.float32))
    assert found.tolist() == [[0.5, 0.5], [0, 1]]
    assert softmax(np.array(3, np.float32)).tolist() == 1
    assert found.dtype == np.float64
