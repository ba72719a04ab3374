"""An attacker can write a fitting manifest: mutated contents are refused in order, or sound."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.bundles import plain_metadata, plain_model, strict_metadata, strict_model
from support.counts import count
from support.hostile import corpus

from interlock.bundle import BundleLimits
from interlock.bundle.contents import check_contents
from interlock.bundle.manifest import METADATA, MODEL, manifest_of, parse_manifest
from interlock.errors import BundleError

LIMITS = BundleLimits(max_structure_bytes=1 << 20)
SEED = 20260101


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flip, insert, remove, repeat or overwrite a few bytes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at:at] = rng.randbytes(rng.randint(1, 8))
            case 2:
                del changed[at : at + rng.randint(1, 8)]
            case 3:
                changed[at:at] = changed[at : at + rng.randint(1, 64)]
            case _:
                changed[at : at + 4] = rng.choice([b"\xff\xff\xff\x7f", bytes(4), b"\x80\x80\x80"])
    return bytes(changed)


@pytest.mark.parametrize("kind", ["plain", "strict", "hostile"])
def test_mutated_models_end_in_a_bundle_error_or_pass(kind: str) -> None:
    rng = random.Random(SEED)
    model = strict_model() if kind == "strict" else plain_model()
    metadata = strict_metadata(model) if kind == "strict" else plain_metadata(model)
    sources = [model.SerializeToString()]
    if kind == "hostile":
        sources = [c.model for c in corpus(Path("/nowhere")) if 0 < len(c.model) < 20_000]
    refused = 0
    turns = count(400, 20_000)
    for _ in range(turns):
        files = {METADATA: metadata.encode(), MODEL: mutate(rng.choice(sources), rng)}
        try:
            check_contents(manifest_of(files), files, LIMITS)
        except BundleError:
            refused += 1
    assert refused > turns / 4


def test_mutated_metadata_ends_in_a_bundle_error_or_passes() -> None:
    rng = random.Random(SEED)
    model = strict_model()
    sound, data = strict_metadata(model).encode(), model.SerializeToString()
    refused = 0
    turns = count(400, 20_000)
    for _ in range(turns):
        files = {METADATA: mutate(sound, rng), MODEL: data}
        try:
            check_contents(manifest_of(files), files, LIMITS)
        except BundleError:
            refused += 1
    assert refused > turns / 2


def test_a_mutated_manifest_is_another_one_or_none() -> None:
    rng = random.Random(SEED)
    files = {METADATA: b"m" * 1000, MODEL: b"o" * 1000, "notes.txt": b""}
    sound = manifest_of(files)
    for _ in range(count(400, 20_000)):
        data = mutate(sound.encode(), rng)
        try:
            parsed = parse_manifest(data, LIMITS)
        except BundleError:
            continue
        assert (parsed == sound) == (data == sound.encode())
