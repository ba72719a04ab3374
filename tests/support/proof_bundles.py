"""Proof bundles of the tiny network, and an adversary who edits them and recomputes digests."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Manifest = dict[str, Any]


def edited(
    bundle: Path,
    into: Path,
    change: Callable[[Path, Manifest], None],
    *,
    reseal: bool = True,
) -> Path:
    """A copy of `bundle` that `change(directory, manifest)` has edited.

    With `reseal` the digests of all files, and of the manifest, are made to fit again, as an
    adversary would; without, what `change` did to files stands alone.
    """
    copy = into / "edited"
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "proof_manifest.json").read_bytes())
    change(copy, manifest)
    if reseal:
        seal(copy, manifest)
    return copy


def seal(directory: Path, manifest: Manifest) -> None:
    """Write the manifest with the digests of the files that it names."""
    from interlock.verified.proof_manifest import ProofManifest

    manifest["files"] = []
    parsed = json.dumps(manifest)
    for name in sorted(names_in(manifest)):
        data = (directory / name).read_bytes()
        entry = {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest["files"].append(entry)
    for path in directory.iterdir():
        if path.name not in names_in(manifest) and not path.name.startswith("proof_manifest"):
            path.unlink()
    import msgspec

    parsed = json.dumps(manifest)
    data = msgspec.json.decode(parsed, type=ProofManifest).encode()
    (directory / "proof_manifest.json").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (directory / "proof_manifest.sha256").write_text(f"{digest}\n")


def names_in(manifest: Manifest) -> set[str]:
    """All files that the manifest uses."""
    names = {tensor["file"] for tensor in manifest["tensors"]}
    for circuit in manifest["circuits"]:
        names |= {circuit["settings"], circuit["verifying_key"], circuit["srs"]}
    for part in manifest["slices"]:
        names |= (
            {part["model"]}
            if part["type"] == "replayed"
            else {proof["file"] for proof in part["proofs"]}
        )
    return names


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    """Change a JSON file in place."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def element(integer: int) -> str:
    """An integer as a field element of ezkl's."""
    from interlock.verified.field import MODULUS

    return (integer % MODULUS).to_bytes(32, "little").hex()
