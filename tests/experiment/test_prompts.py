"""Prompts: the benchmark's schema read as a stream, malformed ones named by line and field."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import InputError
from interlock.experiment import prompts as module
from interlock.experiment.asked_prompts import AskedPrompts, copy_prompts
from interlock.experiment.prompts import Problem, Prompt, load_prompts, scan_prompts
from interlock.experiment.subset import shares, stratified

REAL = Path(__file__).parents[3] / "shared" / "data" / "hallucination" / "hallu-sec-benchmark.json"

MALFORMED = """{"metadata": {"version": "1.0"}, "prompts": [
 {"id": "a", "prompt": "x"},
 {"id": "", "prompt": 3},
 {"id": "a", "prompt": "y", "is_synthetic_probe": "yes"},
 {"id": "b", "prompt": "y", "gold_label": {"exists": "no"}, "gold_refs": {}},
 {"id": "a", "prompt": "z"},
 7,
 {"id": "c\\u0007", "prompt": "\\ud800"},
 {"id": "q" "prompt": 1}
]}"""


def problems(path: Path) -> list[str]:
    """What is wrong with the file, in words."""
    return [str(each) for each in scan_prompts(path) if isinstance(each, Problem)]


def test_every_malformed_prompt_is_named_by_line_and_field(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(MALFORMED)
    assert problems(path) == [
        "line 3: prompts[1].id is empty",
        "line 3: prompts[1].prompt is the number 3; it must be text",
        "line 4: prompts[2].is_synthetic_probe is text; it must be true or false",
        "line 5: prompts[3].gold_refs is an object; it must be an array",
        "line 5: prompts[3].gold_label.exists is text; it must be true, false or null",
        "line 7: prompts[5] is the number 7; it must be an object",
        "line 8: prompts[6].id holds a character that cannot be printed",
        "line 8: prompts[6].prompt holds a lone surrogate, which is no text",
        "line 9: prompts is not JSON: Expecting ',' delimiter",
        "line 6: id is that of the prompt on line 2; ids must be unique",
    ]
    with pytest.raises(InputError, match="has 10 problems"):
        load_prompts(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds neither an object nor an array"),
        ("{}", "is missing; it must be an array of prompts"),
        ('{"prompts": 3}', "is missing; it must be an array of prompts"),
        ('{"prompts": []}', "holds no prompt"),
        ("[] []", "followed by more text"),
        ('[{"id": "a", "prompt": "x"}', "',' was expected"),
        ("[" * 100_000, "nested too deeply"),
        ('"prompts"', "holds neither"),
        ('[{"id": "a", "prompt": "x", "prompt": "y"}]', "'prompt' is there twice"),
        (
            '[{"id": "a", "prompt": "x", "gold_label": {"description": "\\ud800"}}]',
            "line 1: prompts[0].gold_label holds a lone surrogate, which is no text",
        ),
        (
            '[{"id": "a", "prompt": "x", "\\ud800": 1}]',
            "line 1: prompts[0] holds a lone surrogate in a field's name, which is no text",
        ),
    ],
)
def test_a_file_of_another_form_is_named_so(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    assert problem in problems(path)[0]


def test_what_cannot_be_read_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_prompts(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'[{"id": "a", "prompt": "\xe9"}]')
    with pytest.raises(InputError, match="not UTF-8"):
        load_prompts(tmp_path / "latin.json")


def test_one_prompt_a_line_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "a", "prompt": "x"}\n\n{"id": "b"}\n{\n')
    assert problems(path) == [
        "line 3: prompt.prompt is missing",
        "line 4: prompt is not JSON: Expecting property name enclosed in double quotes",
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.text(min_size=1), JSON), max_size=20), st.integers(1, 40))
def test_a_stream_in_small_blocks_reads_what_json_reads(
    found: list[tuple[str, Any]], block: int
) -> None:
    import io

    document = {"metadata": 1.25e3, "prompts": [{"t": t, "x": x} for t, x in found], "more": [[]]}
    text = json.dumps(document, indent=random.Random(block).choice([None, 1]))
    original = module._Window.BLOCK
    module._Window.BLOCK = block
    try:
        read = [value for _, _, value in module._json_objects(io.StringIO(text))]
    finally:
        module._Window.BLOCK = original
    assert read == document["prompts"]


@pytest.mark.skipif(not REAL.exists(), reason="the benchmark is not beside the project")
def test_the_real_benchmark_is_read_and_kept_whole(tmp_path: Path) -> None:
    found = load_prompts(REAL)
    assert (len(found), sum(p.is_synthetic for p in found)) == (393, 143)
    document = json.loads(REAL.read_text())["prompts"]
    assert [prompt.to_dict() for prompt in found] == document
    # The first 250 prompts of the file hold no synthetic probe; a subset of 250 does.
    assert not any(prompt.is_synthetic for prompt in found[:250])
    written, total = copy_prompts(REAL, tmp_path / "subset.jsonl", 250, 42)
    asked = AskedPrompts(tmp_path / "subset.jsonl")
    subset = list(asked)
    asked.close()
    assert (written, total, sum(p.is_synthetic for p in subset)) == (250, 393, 91)


def made(count: int) -> list[Prompt]:
    """Prompts in three categories, a third of them synthetic."""
    return [Prompt(f"p{n}", "x", f"c{n % 3}", n % 9 < 3) for n in range(count)]


@given(st.integers(1, 120), st.integers(0, 5))
def test_a_subset_is_the_same_for_the_same_seed_in_any_order(wanted: int, seed: int) -> None:
    prompts = made(90)
    chosen, size = stratified(prompts, wanted, seed)
    assert size == min(wanted, 90)
    names = {p.id for p, taken in zip(prompts, chosen, strict=True) if taken}
    shuffled = random.Random(1).sample(prompts, len(prompts))
    again, _ = stratified(shuffled, wanted, seed)
    assert {p.id for p, taken in zip(shuffled, again, strict=True) if taken} == names


@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abcd"), st.booleans()), st.integers(1, 60), min_size=1
    ),
    st.integers(1, 300),
)
def test_shares_add_up_and_hold_one_of_each_where_there_is_room(
    sizes: dict[tuple[str, bool], int], wanted: int
) -> None:
    found = shares(sizes, wanted)
    assert sum(found.values()) == min(wanted, sum(sizes.values()))
    assert all(0 < share <= sizes[stratum] for stratum, share in found.items())
    if wanted >= len(sizes):
        assert found.keys() == sizes.keys()
    share_of_all = min(1.0, wanted / sum(sizes.values()))
    if wanted >= len(sizes):
        for stratum, share in found.items():
            assert abs(share - share_of_all * sizes[stratum]) <= len(sizes)


def test_a_tiny_subset_has_real_and_synthetic_prompts() -> None:
    chosen, _ = stratified(made(90), 2, 0)
    found = [p for p, taken in zip(made(90), chosen, strict=True) if taken]
    assert {p.is_synthetic for p in found} == {False, True}


def test_asked_prompts_are_found_by_id(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    prompts = [
        {"id": f"p{n}", "prompt": f"Frage {n} — ä", "gold_label": {"exists": None}, "notes": n}
        for n in range(50)
    ]
    path.write_text(json.dumps(prompts))
    assert copy_prompts(path, tmp_path / "copy.jsonl", None, 1) == (50, 50)
    asked = AskedPrompts(tmp_path / "copy.jsonl")
    assert asked["p17"] == load_prompts(path)[17]
    assert list(asked) == load_prompts(path)
    assert asked.longest == len("Frage 10 — ä".encode())
    with pytest.raises(KeyError):
        asked["p50"]
    asked.close()
    (tmp_path / "copy.jsonl").write_text("not json\n")
    with pytest.raises(InputError, match="not what was written"):
        AskedPrompts(tmp_path / "copy.jsonl")
