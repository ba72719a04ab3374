"""Work on what a request sent: on the event loop where it is little, in a thread otherwise."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, TypeVar

INLINE = 1 << 16
"""Bytes up to which handing work to a thread would cost more than doing it."""

T = TypeVar("T")


async def offload(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """`work(*arguments)`, in a thread where it is about `size` bytes that would hold up others."""
    if size <= INLINE:
        return work(*arguments)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, functools.partial(work, *arguments))
