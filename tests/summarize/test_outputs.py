"""The files of a finished run: JSON, Markdown, an HTML page and the repository map."""

import hashlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.source_trees import small_tree, write_tree
from support.summary_models import NamingModel

from interlock.errors import ConfigError
from interlock.summarize import Options, Summarized, estimate, summarize


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Summarized:
    root = tmp_path_factory.mktemp("run")
    tree = small_tree(root / "tree")
    (tree / "words" / "<b>.py").write_text('"""*Odd* <i>names</i>."""\nx = 1\n')
    (tree / "logo.png").write_bytes(b"\x89PNG\0\0")
    return summarize(tree, root / "out", Options(chunk_lines=40, view="full"), model=NamingModel())


@pytest.fixture(scope="module")
def document(done: Summarized) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(done.files.summary_json.read_text())
    return loaded


def test_every_summary_names_its_sources_model_tokens_time_and_status(
    done: Summarized, document: dict[str, Any]
) -> None:
    assert document["files"] == 5
    assert document["settings"]["model_digests"] == ["sha256:" + "1" * 64]
    tree = done.finished.plan.tree.root
    for node in document["nodes"]:
        assert node["status"] in ("accepted", "flagged")
        assert node["sources"]
        assert node["summary"]
        assert (node["model_digest"] is not None) == (node["origin"] == "model")
        for source in node["sources"]:
            lines = (tree / source["path"]).read_text().split("\n")
            text = "".join(f"{line}\n" for line in lines[source["first"] - 1 : source["last"]])
            assert source["digest"] == hashlib.sha256(text.encode()).hexdigest()
        if node["step"] in ("model", "model-second-seed"):
            assert node["tokens"]["input"] > 0
            assert node["seconds"] > 0


def test_parts_lead_from_the_whole_to_every_chunk(document: dict[str, Any]) -> None:
    nodes = {node["key"]: node for node in document["nodes"]}
    reached, ahead = set(), ["repository"]
    while ahead:
        key = ahead.pop()
        reached.add(key)
        ahead += nodes[key]["parts"]
    assert reached == set(nodes)


def test_what_was_left_out_is_listed(document: dict[str, Any]) -> None:
    assert document["skipped"] == [{"path": "logo.png", "reason": "binary"}]


def test_the_map_has_every_file_and_definition(done: Summarized) -> None:
    found = json.loads(done.files.map_json.read_text())
    files = {entry["path"]: entry for entry in found["files"]}
    assert files["net/acceptor.rs"]["language"] == "Rust"
    symbols = {s["name"]: s for s in files["net/acceptor.rs"]["symbols"]}
    assert symbols["bind"]["first"] == 12
    assert symbols["bind"]["signature"] == "pub fn bind(address: &str) -> Acceptor"
    assert {folder["path"] for folder in found["folders"]} == {"", "net", "words"}
    assert all(entry["summary"] for entry in files.values())


def test_markdown_holds_the_tree_and_nothing_of_a_source_is_markup(done: Summarized) -> None:
    text = done.files.markdown.read_text()
    assert "- **words/**" in text
    assert "  - **handlers.py**" in text
    assert "    - `words/handlers.py:1-40`" in text
    assert "**\\<b\\>.py**" in text
    assert "- `logo.png`: binary" in text


def test_a_files_name_adds_no_line_to_the_markdown(tmp_path: Path) -> None:
    names = ("a\n# Heading.py", "b`\n\n- x.bin")
    tree = write_tree(tmp_path / "tree", {names[0]: "def one():\n    pass\n", names[1]: b"\0\1"})
    done = summarize(tree, tmp_path / "out", Options(), model=None)
    lines = done.files.markdown.read_text().splitlines()
    assert not [line for line in lines if line.startswith(("# Heading", "- x"))]


def test_a_tree_deeper_than_the_interpreter_calls_has_its_files(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", {f"{'d/' * 400}a.py": "def one():\n    pass\n"})
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 250)
    try:
        done = summarize(tree, tmp_path / "out", Options(), model=None)
    finally:
        sys.setrecursionlimit(before)
    assert f"{'  ' * 400}- **a.py**" in done.files.markdown.read_text()
    assert done.files.html.read_text().count("<details") == 400


def test_a_folder_counts_all_that_it_holds(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {f"f{n:03}.py": f"X{n} = {n}\n" for n in range(100)}
    done = summarize(write_tree(tmp_path / "tree", files), tmp_path / "out", Options(), model=None)
    top = done.finished.summary("repository")
    assert top is not None
    assert top.text.endswith("and 92 more.")


def test_the_page_opens_with_whose_words_its_summary_is(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    done = summarize(tree, tmp_path / "out", Options(), model=None)
    top = done.finished.summary("repository")
    assert top is not None
    assert f"{top.text} (extractive)" in done.files.html.read_text()


def test_the_page_stands_alone_and_escapes_what_it_is_given(done: Summarized) -> None:
    page = done.files.html.read_text()
    assert "<details" in page
    assert "<script" not in page
    assert "&lt;b&gt;.py" in page
    assert "<b>.py" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_contracts_are_measured(done: Summarized, document: dict[str, Any]) -> None:
    found = done.contracts
    assert found.chunks == document["chunks"] == len(done.finished.plan.level("chunk"))
    assert found.success == 1.0
    assert found.success_low < 1.0
    chunks = [node for node in document["nodes"] if node["level"] == "chunk"]
    # The test's model says that every attempt took it a hundredth of a second.
    assert all(n["seconds"] == pytest.approx(0.01 * n["tokens"]["attempts"]) for n in chunks)
    assert found.chunk_seconds_longest == max(node["seconds"] for node in chunks)
    assert found.memory_bytes > 2**20
    assert found.efficiency is None
    by_name = {name: kept for name, _, _, kept in found.kept()}
    assert by_name["success rate"] is True
    assert by_name["parallel efficiency"] is None


@pytest.mark.parametrize("name", ["index.html", "summary.md", "summary.json", "map.json"])
def test_a_users_file_is_refused_before_any_work_and_stays(tmp_path: Path, name: str) -> None:
    tree = small_tree(tmp_path / "tree")
    output = write_tree(tree / "docs", {name: "the user's own\n"})
    model = NamingModel()
    for begin in (summarize, estimate):
        with pytest.raises(ConfigError, match=rf"docs/{name}.* no earlier run") as refused:
            begin(tree, output, Options(), model=model)
        assert "an empty directory" in refused.value.hint
    assert model.asked == []
    assert [file.name for file in output.iterdir()] == [name]
    assert (output / name).read_text() == "the user's own\n"


def test_a_link_is_a_users_own(tmp_path: Path, done: Summarized) -> None:
    tree, output = small_tree(tmp_path / "tree"), tmp_path / "out"
    output.mkdir()
    (output / "index.html").symlink_to(done.files.html)
    with pytest.raises(ConfigError, match=r"index\.html"):
        summarize(tree, output, Options(), model=None)
    (output / "index.html").unlink()
    (output / "map.json").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"map\.json"):
        summarize(tree, output, Options(), model=None)


def test_a_file_that_a_user_makes_during_a_run_stays(tmp_path: Path) -> None:
    tree, output = small_tree(tmp_path / "tree"), tmp_path / "out"

    def write_theirs(key: str, outcome: Any) -> None:
        (output / "index.html").write_text("the user's own\n")

    with pytest.raises(ConfigError, match=r"index\.html"):
        summarize(tree, output, Options(), model=None, on_result=write_theirs)
    assert (output / "index.html").read_text() == "the user's own\n"
    assert not (output / "summary.json").exists()


def test_a_run_replaces_what_an_earlier_one_wrote_and_nothing_beside_it(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    output = write_tree(tree / "docs", {"guide.md": "# Guide\n\nHow words are counted.\n"})
    first = summarize(tree, output, Options(), model=None)
    (tree / "words" / "more.py").write_text("def more():\n    pass\n")
    second = summarize(tree, output, Options(), model=None)
    for done in (first, second):
        assert "docs/guide.md" in [file.file.path for file in done.finished.plan.files]
    assert len(second.finished.plan.files) == len(first.finished.plan.files) + 1
    for file in (second.files.html, second.files.markdown, second.files.map_json):
        assert "more.py" in file.read_text()
