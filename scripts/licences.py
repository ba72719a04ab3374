"""Write docs/reference/licences.md: the licence of every pinned package, as it declares it.

    python scripts/licences.py

Run it in an environment that holds every package of constraints.txt (`make test-torch test-robot
lint` makes one). Stops at a package whose licence is not in ALLOWED.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Spelling in package metadata -> SPDX identifier. A licence that is not here needs a decision.
ALLOWED = {
    "0BSD": "0BSD",
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License v2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache-2.0": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "BSD-2-Clause": "BSD-2-Clause",
    "BSD-3-Clause": "BSD-3-Clause",
    "ISC": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT": "MIT",
    "MIT License": "MIT",
    "MIT-0": "MIT-0",
    "MPL-2.0": "MPL-2.0",
    "MPL-2.0 AND MIT": "MPL-2.0 AND MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSF-2.0": "PSF-2.0",
    "Python-2.0": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Zlib": "Zlib",
    "BSL-1.0": "BSL-1.0",
    "CC0-1.0": "CC0-1.0",
    "CNRI-Python": "CNRI-Python",
    "CC0-1.0 OR Apache-2.0": "CC0-1.0 OR Apache-2.0",
    "LLVM-exception": "LLVM-exception",
    "Qhull": "Qhull",
}

# Packages that declare no licence in their metadata: read from the licence file that they carry.
READ = {"cmeel-qhull": "Qhull", "sigstore-models": "MIT"}

HEAD = """# Licences of dependencies

Interlock itself is under the MIT licence. These are the packages of `constraints.txt`, core, extras
and tools for tests alike, with the licence that each declares. `scripts/licences.py` writes this
page and stops at a licence that it does not know; a test holds the page to `constraints.txt`.

| package | version | licence |
| --- | --- | --- |
"""


def pins() -> dict[str, str]:
    """Package -> version, as constraints.txt pins them."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", text, flags=re.M))


def licence(package: str) -> str:
    """The licence as an SPDX expression; raises SystemExit for one that nobody has decided on."""
    fields = metadata.metadata(package).json
    expression = fields.get("license_expression")
    if isinstance(expression, str):
        unknown = (
            set(re.split(r" AND | OR | WITH |[()]", expression)) - {""} - set(ALLOWED.values())
        )
        if not unknown:
            return expression
    classified = [
        line.rpartition(" :: ")[2]
        for line in fields.get("classifier", [])
        if line.startswith("License :: OSI Approved :: ")
    ]
    for declared in (*classified, fields.get("license", ""), READ.get(package, "")):
        if declared in ALLOWED:
            return ALLOWED[declared]
    raise SystemExit(f"{package}: licence {expression or classified!r} is not in ALLOWED")


def main() -> None:
    """Write the page."""
    rows = [f"| {name} | {version} | {licence(name)} |" for name, version in pins().items()]
    page = ROOT / "docs" / "reference" / "licences.md"
    page.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{page.name}: {len(rows)} packages")


if __name__ == "__main__":
    main()
