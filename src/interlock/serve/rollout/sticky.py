"""Which clients a canary takes: the same ones as long as it runs, and more of them as it grows."""

from __future__ import annotations

import hashlib
import secrets


def new_salt() -> str:
    """The key of one rollout's hash, so that nobody can choose a name that is always a canary."""
    return secrets.token_hex(16)


def place_of(salt: str, client: str) -> float:
    """Where a client stands in 0 … 100: evenly spread, the same for the same salt.

    A client is the canary's where its place is below the rollout's percent. Keyed BLAKE2b.
    """
    digest = hashlib.blake2b(client.encode(), digest_size=8, key=bytes.fromhex(salt)).digest()
    return int.from_bytes(digest) / (1 << 64) * 100.0
