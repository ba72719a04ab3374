"""The page of licences lists exactly the pinned packages."""

import re

from support.markdown import ROOT


def test_every_pinned_package_is_listed_with_its_version() -> None:
    pinned = set(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.M))
    page = (ROOT / "docs" / "reference" / "licences.md").read_text()
    listed = set(re.findall(r"^\| ([^ |]+) \| (\d\S*) \| \S.* \|$", page, flags=re.M))
    assert listed == pinned


def test_no_download_address_is_pinned() -> None:
    assert "://" not in (ROOT / "constraints.txt").read_text()
