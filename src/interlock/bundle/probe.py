from __future__ import annotations

from interlock.bundle.limits import BundleLimits
from interlock.bundle.metadata import Metadata


def probe_model(model: bytes, metadata: Metadata, limits: BundleLimits) -> None:
    """Placeholder."""
