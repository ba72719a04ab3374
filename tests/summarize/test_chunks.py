"""Chunks: every line is in exactly one of them, and there are as many as was promised."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.source_trees import small_tree, write_tree

from interlock.errors import ConfigError
from interlock.summarize.chunks import MODES, Chunk, Mode, cut
from interlock.summarize.languages import PLAIN
from interlock.summarize.tree import SourceFile, read_tree
from interlock.summarize.views import FileViews, views_of


def plain(path: str, lines: int) -> FileViews:
    text = tuple(f"line {n}" for n in range(lines))
    return FileViews(SourceFile(path, PLAIN, text, "", 0, "utf-8"), None)


def covered(chunks: list[Chunk]) -> list[tuple[str, int]]:
    return [
        (source.path, line)
        for chunk in chunks
        for source in chunk.sources
        for line in range(source.first, source.last + 1)
    ]


def test_152_388_lines_in_a_row_are_508_chunks_of_300() -> None:
    files = [plain(f"f{n:04}", 363) for n in range(419)] + [plain("last", 152_388 - 419 * 363)]
    chunks = cut(files, "concatenated")
    assert len(chunks) == 508
    assert {chunk.lines for chunk in chunks[:-1]} == {300}
    assert chunks[-1].lines == 152_388 - 507 * 300
    assert len(covered(chunks)) == 152_388


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(1, 25),
    st.sampled_from(MODES),
)
@settings(deadline=None)
def test_every_line_is_in_one_chunk_and_in_order(sizes: list[int], most: int, mode: Mode) -> None:
    files = [plain(f"f{n}", size) for n, size in enumerate(sizes)]
    chunks = cut(files, mode, most)
    expected = [(f"f{n}", line) for n, size in enumerate(sizes) for line in range(1, size + 1)]
    assert covered(chunks) == expected
    assert all(chunk.lines <= most for chunk in chunks)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("most", [1, 7, 40, 300])
def test_real_code_is_covered_too(tmp_path: Path, mode: Mode, most: int) -> None:
    files = [views_of(file) for file in read_tree(small_tree(tmp_path)).files]
    chunks = cut(files, mode, most)
    expected = [(f.file.path, n) for f in files for n in range(1, len(f.file.lines) + 1)]
    assert covered(chunks) == expected
    assert all(chunk.lines <= most for chunk in chunks)


def test_by_syntax_no_function_is_cut_that_fits(tmp_path: Path) -> None:
    body = "".join(f"def f{n}():\n    x = 1\n    y = 2\n    return x\n\n\n" for n in range(10))
    write_tree(tmp_path, {"a.py": body})
    [file] = [views_of(file) for file in read_tree(tmp_path).files]
    chunks = cut([file], "syntax", 14)
    assert file.outline is not None
    for symbol in file.outline.symbols:
        inside = [
            chunk
            for chunk in chunks
            if chunk.sources[0].first <= symbol.first and symbol.last <= chunk.sources[0].last
        ]
        assert len(inside) == 1, symbol


def test_by_syntax_a_long_class_is_cut_between_its_methods(tmp_path: Path) -> None:
    methods = "".join(f"    def m{n}(self):\n        return {n}\n\n" for n in range(10))
    write_tree(tmp_path, {"a.py": f"class Long:\n{methods}"})
    [file] = [views_of(file) for file in read_tree(tmp_path).files]
    starts = [chunk.sources[0].first for chunk in cut([file], "syntax", 9)]
    lines = file.file.lines
    assert all("def m" in lines[start - 1] for start in starts[1:])


def test_a_source_has_the_digest_of_its_own_lines() -> None:
    [chunk] = cut([plain("f", 2)], "lines")
    expected = hashlib.sha256(b"line 0\nline 1\n").hexdigest()
    assert chunk.sources[0].digest == expected
    assert chunk.key == "f:1-2"


def test_a_mode_or_size_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="chunks is 'words'"):
        cut([plain("f", 2)], "words")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="chunk lines is 0"):
        cut([plain("f", 2)], "lines", 0)
