"""The peer's own public tests, taken from its source distribution, against this project.

`python tests/peers/run.py` fetches zeroproofml 0.6.1 (MIT) with pip, checks its digest, and runs
its tests of strict inference with the package in `alias/` under the peer's name. Exits 1 where a
test fails that `exclusions.toml` does not name, where a named one passes, or where fewer than 85%
pass. Needs the extras test and torch, and on the first run the index.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

NAME = "zeroproofml-0.6.1"
SHA256 = "a0d5cf511414c17127df836109b4b60273242e51db0d465ea020c9388622ccf8"
FILES = (
    "inference/test_fail_closed_finite.py",
    "inference/test_mode.py",
    "inference/test_bundle_contract.py",
    "inference/test_strict_config_validation.py",
    "inference/test_monitoring.py",
    "inference/test_fallback.py",
    "inference/test_patterns.py",
    "property/test_inference_contract.py",
)
SUPPORT = ("conftest.py", "inference/conftest.py")
LEAST = 0.85


class Exclusion(NamedTuple):
    """A test that may fail, of kind "form" or "differs"."""

    test: str
    kind: str

    def covers(self, test: str) -> bool:
        """Whether `test`, as `file::name[parameters]`, is meant."""
        if self.test.endswith("*"):
            return test.startswith(self.test[:-1])
        return test == self.test or test.startswith(f"{self.test}[")


def sdist(cache: Path) -> Path:
    """The peer's source distribution in `cache`, fetched with pip where it is not there."""
    archive = cache / f"{NAME}.tar.gz"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--dest", str(cache), NAME.replace("-", "==")]
        subprocess.run(command, check=True)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{archive} has digest {found}, not {SHA256}")
    return archive


def results(archive: Path) -> dict[str, str]:
    """What became of each test, passed, failed or skipped, by `file::name[parameters]`."""
    with tempfile.TemporaryDirectory(prefix="interlock-peers-") as directory:
        base = Path(directory)
        with tarfile.open(archive) as tar:
            for name in FILES + SUPPORT:
                tar.extract(f"{NAME}/tests/{name}", base, filter="data")
        tests = base / NAME / "tests"
        report = base / "report.xml"
        path = os.pathsep.join([str(HERE / "alias"), str(ROOT / "src")])
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
        command += ["-c", os.devnull, "--rootdir", str(base / NAME), "-W", "ignore"]
        command += ["--tb", "short", "--continue-on-collection-errors", "--junitxml", str(report)]
        done = subprocess.run(
            [*command, *(str(tests / name) for name in FILES)],
            cwd=base,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        if not report.exists():
            sys.exit(done.stdout)
        found = {}
        for case in ET.parse(report).iter("testcase"):
            parts = (case.get("classname") or "").split(".")
            file = next((part for part in parts if part.startswith("test_")), "")
            kinds = {child.tag for child in case}
            state = "failed" if kinds & {"failure", "error"} else "passed"
            name = f"{file}::{case.get('name')}" if file else str(case.get("name"))
            found[name] = "skipped" if "skipped" in kinds else state
        return found


def main() -> int:
    """Run, compare with the exclusions, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("INTERLOCK_PEERS", ROOT)) / ".peer-sdists"
    parser.add_argument("--cache", type=Path, default=default, help="where the sdist is kept")
    cache = parser.parse_args().cache
    with (HERE / "exclusions.toml").open("rb") as file:
        exclusions = [
            Exclusion(test, entry["kind"])
            for entry in tomllib.load(file)["exclusion"]
            for test in entry["tests"]
        ]
    found = results(sdist(cache))
    kind_of = {
        test: next((entry.kind for entry in exclusions if entry.covers(test)), "counted")
        for test in found
    }
    problems = [
        f"excluded, but nothing of that name ran: {entry.test}"
        for entry in exclusions
        if not any(entry.covers(test) for test in found)
    ]
    for test, state in found.items():
        if state == "failed" and kind_of[test] == "counted":
            problems.append(f"failed: {test}")
        if state == "passed" and kind_of[test] != "counted":
            problems.append(f"excluded, but passed: {test}")
    count = Counter((kind_of[test], state) for test, state in found.items())
    passed = sum(number for (_, state), number in count.items() if state == "passed")
    run = sum(number for (_, state), number in count.items() if state != "skipped")
    form = count["form", "failed"]
    share = passed / max(1, run - form)
    print(f"{len(found)} tests of {NAME}: {len(found) - run} skipped (they need JAX), {run} run")
    print(f"{passed} passed = {passed / max(1, run):.1%} of those run")
    print(f"{form} pin the peer's own form; of the other {run - form}, {share:.1%} passed")
    print(f"{count['differs', 'failed']} differ on purpose; reasons are in exclusions.toml")
    if share < LEAST:
        problems.append(f"{share:.1%} is below {LEAST:.0%}")
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
