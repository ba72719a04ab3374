"""The page of errors names every class with its code, `retryable` and exit code."""

import re

from support.markdown import ROOT

from interlock import errors


def test_the_page_and_the_tree_agree() -> None:
    text = (ROOT / "docs" / "reference" / "errors.md").read_text()
    listed = set(re.findall(r"^\| `(\w+)` \| `(\w+)` \| (yes|no) \| (\d+) \|", text, flags=re.M))
    assert listed == {
        (
            kind.__name__,
            kind.code,
            "yes" if kind.default_retryable else "no",
            str(_exit_code(kind)),
        )
        for kind in (getattr(errors, name) for name in errors.__all__)
    }


def _exit_code(kind: type[errors.InterlockError]) -> int:
    if issubclass(kind, errors.UsageError):
        return 2
    return 130 if issubclass(kind, errors.InterruptedRunError) else 1
