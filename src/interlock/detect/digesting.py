"""Keyed digests: what stands for a text in logs, caches and results, so that no text gets there."""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import Final

from interlock.kernel.errors import ConfigError

KEY_VARIABLE: Final = "INTERLOCK_DIGEST_KEY"
_SIZE = 16
_BLOCK = 1 << 16


class Digester:
    """Makes digests with one key. Without the key nobody can try texts against a digest.

    key  1 to 64 bytes; by default the environment's `INTERLOCK_DIGEST_KEY`, and where that is not
         set a random one, with which digests compare within this process only
    """

    def __init__(self, key: bytes | None = None) -> None:
        """Raise ConfigError for a key that is empty or too long."""
        name = "the digest key"
        if key is None:
            given = os.environ.get(KEY_VARIABLE)
            name = KEY_VARIABLE
            key = secrets.token_bytes(32) if given is None else os.fsencode(given)
        if not 1 <= len(key) <= 64:
            raise ConfigError(f"{name} has {len(key)} bytes; it must have 1 to 64")
        self._state = hashlib.blake2b(digest_size=_SIZE, key=key)

    def __call__(self, text: str) -> str:
        """32 hexadecimal digits for `text`, lone surrogates included."""
        state = self._state.copy()
        # Block by block: a second copy of a long text may be more than there is memory for.
        for start in range(0, len(text), _BLOCK):
            state.update(text[start : start + _BLOCK].encode("utf-8", "surrogatepass"))
        return state.hexdigest()
