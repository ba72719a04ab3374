"""Every threat in SECURITY.md names tests that exist."""

import re

from support.markdown import ROOT


def test_each_row_names_its_tests() -> None:
    rows = re.findall(r"^\| (?!threat|---)(.+) \|$", (ROOT / "SECURITY.md").read_text(), flags=re.M)
    assert len(rows) > 15
    for row in rows:
        shown = row.rpartition(" | ")[2].split(", ")
        for one in shown:
            named = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", one)
            assert named, f"no test is named in: {row}"
            path = ROOT / named[1]
            assert path.is_file(), row
            assert re.search(rf"^def {named[2]}\(", path.read_text(), flags=re.M), row
