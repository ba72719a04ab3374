"""The masks of a strict answer, as a guard of a route."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from interlock.errors import InputError
from interlock.kernel.batch import Array
from interlock.kernel.route import BatchAnswer, BatchVerdict

BOTTOM = "bottom: |Q| is below tau_infer, or P / Q is not finite"
GAP = "gap: |Q| is between tau_infer and tau_train"


@dataclass(frozen=True)
class MaskGuard:
    """Refuses rows with a bottom mask set and flags rows with a gap mask set.

    Needs the fields `bottom_mask` and `gap_mask` in the answer, bool, first axis the rows; where
    they have further axes, one element set is enough for its row.
    """

    bottom: str = "bottom_mask"
    gap: str = "gap_mask"

    def check_batch(self, inputs: Mapping[str, Array], answer: BatchAnswer) -> BatchVerdict:
        """Raises InputError where a mask is missing, which refuses every row."""
        return BatchVerdict(
            refuse={BOTTOM: _row_mask(answer, self.bottom)},
            flag={GAP: _row_mask(answer, self.gap)},
        )


def _row_mask(answer: BatchAnswer, name: str) -> npt.NDArray[np.bool_]:
    mask = answer.fields.get(name)
    if mask is None or mask.dtype != np.bool_:
        raise InputError(f"the answer has no mask '{name}' of dtype bool")
    return np.asarray(mask.any(axis=tuple(range(1, mask.ndim))), dtype=np.bool_)
