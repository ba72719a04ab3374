"""The proof system that is used where a caller names none."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from interlock.kernel.errors import MissingExtraError
from interlock.verified.prover import NoProver, Prover

if TYPE_CHECKING:
    from interlock.verified.circuit_prover import CircuitProver


def default_prover(
    *, srs: Path | None = None, srs_sha256: str | None = None, cache: Path | None = None
) -> CircuitProver | NoProver:
    """ezkl where the extra `zk` is installed, else a `NoProver` that names the extra.

    srs, srs_sha256, cache  see `CircuitProver`
    """
    if importlib.util.find_spec("ezkl") is None:
        return NoProver("no circuit: proving needs the extra 'zk' (pip install 'interlock[zk]')")
    return require_prover("proving", srs=srs, srs_sha256=srs_sha256, cache=cache)


@contextmanager
def open_default_prover(
    *, srs: Path | None = None, srs_sha256: str | None = None, cache: Path | None = None
) -> Iterator[Prover]:
    """`default_prover` for the time of a `with`, whose end ends its worker processes."""
    prover = default_prover(srs=srs, srs_sha256=srs_sha256, cache=cache)
    try:
        yield prover
    finally:
        if not isinstance(prover, NoProver):
            prover.close()


def require_prover(
    feature: str,
    *,
    srs: Path | None = None,
    srs_sha256: str | None = None,
    cache: Path | None = None,
    resume: Path | None = None,
) -> CircuitProver:
    """ezkl's prover; raises MissingExtraError, saying that `feature` needs it, where it is absent.

    srs, srs_sha256, cache, resume  see `CircuitProver`
    """
    if importlib.util.find_spec("ezkl") is None:
        raise MissingExtraError("zk", feature)
    from interlock.verified.circuit_prover import CircuitProver

    return CircuitProver(cache, srs=srs, srs_sha256=srs_sha256, resume=resume)
