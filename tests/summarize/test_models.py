"""Another model for another language: asked for it, named by it, and part of its address."""

from pathlib import Path

import pytest
from support.source_trees import small_tree
from support.summary_models import NamingModel

from interlock.errors import ConfigError
from interlock.summarize import Models, Options, estimate, summarize
from interlock.summarize.asked import ANSWER_TOKENS
from interlock.summarize.budget import PROMPT_TOKENS

OPTIONS = Options(view="full", chunk_lines=300)
RUST = "chunk net/acceptor.rs:1-15"


def test_a_language_goes_to_its_own_model_and_the_rest_to_the_default(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    default, own = NamingModel(), NamingModel(digest="sha256:" + "2" * 64, context=2048)
    models = Models(default, {"rust": own})
    done = summarize(tree, tmp_path / "out", OPTIONS, model=models)
    assert [prompt for prompt in own.asked if "Acceptor" in prompt] == own.asked != []
    assert any("count_words" in prompt for prompt in default.asked)
    plan = done.finished.plan
    assert plan.model_digest(plan.nodes[RUST]) == own.digest
    assert plan.model_digest(plan.nodes["repository"]) == default.digest
    assert plan.budget.tokens == 2048 - ANSWER_TOKENS - PROMPT_TOKENS
    evidence = {
        piece.detail.get("digest") for piece in done.finished.outcomes[RUST].steps[-1].evidence
    }
    assert own.digest in evidence


def test_exchanging_one_of_them_makes_anew_what_it_was_asked(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    first = Models(NamingModel(), {"rust": NamingModel(digest="sha256:" + "2" * 64)})
    summarize(tree, tmp_path / "out", OPTIONS, model=first)
    second = Models(NamingModel(), {"rust": NamingModel(digest="sha256:" + "3" * 64)})
    done = summarize(tree, tmp_path / "out", OPTIONS, model=second)
    anew = set(done.finished.plan.nodes) - done.finished.reused
    assert anew == {RUST, "file net/acceptor.rs", "folder net", "repository"}


def test_without_a_default_other_languages_are_extractive(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    done = summarize(tree, tmp_path / "out", OPTIONS, model=Models(None, {"rust": NamingModel()}))
    origins = {
        node.asked.language: done.finished.summary(node.key).origin  # type: ignore[union-attr]
        for node in done.finished.plan.level("chunk")
    }
    assert origins == {"Rust": "model", "Python": "extractive", "Markdown": "extractive"}


def test_what_no_model_is_asked_for_costs_no_tokens(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    own = Models(None, {"rust": NamingModel()})
    some = estimate(tree, tmp_path / "out", OPTIONS, model=own)
    every = estimate(tree, tmp_path / "out", OPTIONS, model=NamingModel())
    alone = estimate(tree / "net" / "acceptor.rs", tmp_path / "out", OPTIONS, model=NamingModel())
    assert some.tokens == alone.tokens < every.tokens
    assert 0 < some.seconds < every.seconds


def test_a_model_that_was_opened_twice_is_closed_twice() -> None:
    """Two names may lead to the same bundle, and each was opened."""
    closed: list[NamingModel] = []

    class Counted(NamingModel):
        def close(self) -> None:
            closed.append(self)

    one, two = Counted(), Counted()
    Models(one, {"rust": two, "python": two}).close()
    assert closed == [one, two]


@pytest.mark.parametrize("language", ["dockerfile", "starlark", "text"])
def test_every_language_that_a_file_can_be_in_can_have_a_model(language: str) -> None:
    own = NamingModel()
    assert Models(None, {language: own}).of(language.title()) is own


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ConfigError, match="no language 'rusty'"):
        Models(None, {"rusty": NamingModel()})
