"""Imported, and never reached, by the tests of the peer's bundle format."""

from __future__ import annotations

from ..inference.mode import not_offered

compute_file_sha256 = not_offered("compute_file_sha256")
