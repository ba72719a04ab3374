"""Which shapes of P and Q strict decode takes, and the shape of the masks they give.

The rules are the same for NumPy, numba, torch and the graph:

    P (B, …)     Q (B,)       row masks (B,): a row is bottom if anything in it is
    P (B, …, D)  Q (B, …, 1)  element masks (B, …, D): every element is judged on its own
    P (B, …, D)  Q (B, …, D)  element masks (B, …, D)
    P ()         Q ()         one element

In general Q either matches the leading axes of P exactly, or has P's rank and equals P's shape but
for a last axis of 1. Nothing else is broadcast: P (B,) with Q (B, 1) would be a (B, B) array.
The decoded array always has the shape of P.
"""

from __future__ import annotations

from collections.abc import Sequence

from interlock.kernel.errors import InputError


def mask_shape(p: Sequence[int], q: Sequence[int]) -> tuple[int, ...]:
    """The shape of the masks for P of shape `p` and Q of shape `q`.

    It is shorter than `p` for row masks, else equal to it. Raises InputError for shapes that do
    not belong together.
    """
    p, q = tuple(p), tuple(q)
    if len(q) == len(p):
        if q == p or (len(q) > 1 and q[-1] == 1 and q[:-1] == p[:-1]):
            return p
    elif 0 < len(q) < len(p) and p[: len(q)] == q:
        return q
    raise InputError(
        f"P has shape {p} and Q has shape {q}, which do not belong together",
        hint="Q has P's shape, or 1 as its last axis (element masks), or P's leading axes only "
        "(row masks)",
    )
