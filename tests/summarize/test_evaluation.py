"""The facts of the evaluation are looked up as written, and its set is what it should be."""

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from interlock.errors import InputError
from interlock.summarize.evaluation import NOTHING, Case, Marks, mark, read_cases, shuffled

SET = Path(__file__).parents[2] / "bench" / "summarize_quality.json"
CASE = Case(
    "pypi", "p", "1", "MIT", "Rust", "net/listener.rs", 1, 9, "", ("TcpListener", "accept"),
    (("tcp", "socket"), ("listen", "incoming")),
)  # fmt: skip


@pytest.mark.parametrize(
    ("summary", "marks"),
    [
        ("`TcpListener` listens on a TCP socket.", Marks(True, True, True)),
        ("A listener that accepts sockets.", Marks(False, True, True)),
        ("It can accept incoming files.", Marks(True, False, True)),
        ("A Python TcpListener that listens for tcp.", Marks(True, True, False)),
        ("TcpListeners glisten.", Marks(False, False, True)),
        ("", NOTHING),
        (None, NOTHING),
    ],
)
def test_facts_are_looked_up(summary: str | None, marks: Marks) -> None:
    assert mark(CASE, summary) == marks


def test_shuffled_reads_every_summary_as_that_of_every_other_chunk() -> None:
    other = msgspec.structs.replace(
        CASE, path="time/sleep.rs", names=("sleep",), purpose=(("sleep",), ("time",))
    )
    own = {CASE.key: "TcpListener listens on tcp.", other.key: "sleep sleeps for a time."}
    assert mark(CASE, own[CASE.key]).all
    assert mark(other, own[other.key]).all
    expected = {"names": 0.0, "purpose": 0.0, "language": 1.0, "all": 0.0}
    assert shuffled([CASE, other], own) == expected


def test_the_set_has_at_least_60_chunks_in_six_languages_under_permissive_licences() -> None:
    cases = read_cases(SET)
    assert len(cases) >= 60
    assert len({case.key for case in cases}) == len(cases)
    assert set(Counter(case.language for case in cases)) == {
        "Python", "Rust", "Go", "JavaScript", "C", "C++",
    }  # fmt: skip
    permissive = {"MIT", "BSD-3-Clause", "BSD-1-Clause", "Apache-2.0", "BSL-1.0"}
    assert {case.licence for case in cases} <= permissive
    assert all(case.names and len(case.purpose) == 2 for case in cases)


def test_the_source_of_every_case_from_an_installed_package_is_as_recorded() -> None:
    import hashlib
    from importlib import metadata

    found = 0
    for case in read_cases(SET):
        if case.origin != "pypi" or metadata.version(case.package) != case.version:
            continue
        place = metadata.distribution(case.package).locate_file(case.path)
        lines = Path(str(place)).read_text(encoding="utf-8").split("\n")[case.first - 1 : case.last]
        text = "".join(f"{line}\n" for line in lines)
        assert hashlib.sha256(text.encode()).hexdigest() == case.sha256, case.key
        found += 1
    assert found >= 30


def test_what_is_no_set_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(InputError, match=r"a\.json is no set of cases"):
        read_cases(tmp_path / "a.json")
