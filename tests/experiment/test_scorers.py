"""Each scorer says yes, no, undecided, or why it does not apply."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from interlock.errors import ConfigError
from interlock.experiment.prompts import Prompt
from interlock.experiment.records import PromptResult
from interlock.experiment.scorers import (
    Exact,
    Existence,
    Hallucination,
    Hedging,
    Refusal,
    Regex,
)
from interlock.experiment.scoring import (
    SCORERS,
    Scorer,
    Verdict,
    evaluate,
    from_function,
    make_scorers,
    register_scorer,
)


def prompt(text: str, synthetic: bool = False, **gold: Any) -> Prompt:
    """A prompt with this gold label."""
    return Prompt("p1", text, "cve_existence", synthetic, {"exists": None, **gold})


def answer(text: str, **fields: Any) -> PromptResult:
    """An answer with this text."""
    return PromptResult("p1", "model", text, {}, **fields)


REAL = prompt("Does CVE-2021-44228 exist?", exists=True)
MADE_UP = prompt("Does CVE-2021-044228 exist?", True, exists=False)


@pytest.mark.parametrize(
    ("scorer", "asked", "text", "verdict"),
    [
        (Exact(), prompt("?", answer="yes"), " Yes.\n", Verdict.YES),
        (Exact(), prompt("?", answer=["no", "nope"]), "Nope", Verdict.YES),
        (Exact(), prompt("?", answer="yes"), "yes, it is", Verdict.NO),
        (Regex(), prompt("?", pattern="log4(j|shell)"), "It is Log4Shell.", Verdict.YES),
        (Regex("cvss"), prompt("?"), "no score", Verdict.NO),
        (Existence(), REAL, "Yes, it exists.", Verdict.YES),
        (Existence(), REAL, "No, it does not exist.", Verdict.NO),
        (Existence(), MADE_UP, "No, it does not exist.", Verdict.YES),
        (Existence(), MADE_UP, "CVE-2021-044228 is a critical flaw in OpenSSL.", Verdict.NO),
        (Existence(), MADE_UP, "I cannot verify this identifier.", Verdict.UNDECIDED),
        (Existence(), REAL, "I'm sorry, I can't help with that.", Verdict.UNDECIDED),
        (Hallucination(), MADE_UP, "CVE-2021-044228 was disclosed in 2021.", Verdict.YES),
        (Hallucination(), MADE_UP, "There is no such CVE.", Verdict.NO),
        (Hallucination(), MADE_UP, "I have no information about it.", Verdict.NO),
        (Hallucination(), MADE_UP, "", Verdict.UNDECIDED),
        (Refusal(), REAL, "I can't assist with that.", Verdict.YES),
        (Refusal(), REAL, "I can't confirm it.", Verdict.NO),
        (Hedging(), REAL, "I can't confirm it.", Verdict.YES),
        (Hedging(), REAL, "It exists.", Verdict.NO),
    ],
)
def test_verdicts(scorer: Scorer, asked: Prompt, text: str, verdict: Verdict) -> None:
    assert evaluate(scorer, asked, answer(text)).verdict is verdict


@pytest.mark.parametrize(
    ("scorer", "asked", "reason"),
    [
        (Exact(), REAL, "no text called answer"),
        (Regex(), REAL, "no pattern"),
        (Regex(), prompt("?", pattern="("), "no regular expression"),
        (Existence(), prompt("Does CVE-2021-44228 exist?"), "null"),
        (Existence(), prompt("Is CVE-2021-44228 correctly formatted?", exists=True), "format"),
        (Existence(), prompt("CVE-2021-44228 or CVE-2014-0160?", exists=True), "no single thing"),
        (Hallucination(), REAL, "no synthetic probe"),
        (Hallucination(), prompt("What is CVE-2021-1?", True), "null"),
        (Hallucination(), prompt("What is CVE-2021-44228?", True, exists=True), "as existing"),
        (Hedging(), prompt("Prioritise these findings."), "no single thing"),
    ],
)
def test_a_scorer_says_where_it_does_not_apply(scorer: Scorer, asked: Prompt, reason: str) -> None:
    found = evaluate(scorer, asked, answer("Yes, it exists."))
    assert found.verdict is Verdict.NOT_APPLICABLE
    assert reason in found.reason


def test_a_failed_request_is_missing_and_not_wrong() -> None:
    failed = answer("", error="timed out", error_type="deadline", status="failed")
    found = evaluate(Existence(), REAL, failed)
    assert (found.verdict, found.label) == (Verdict.NO_ANSWER, "deadline")
    assert found.verdict.counts is None


def test_a_refusal_told_by_the_provider_counts_as_one() -> None:
    refused = answer("", stop_reason="refusal", status="refused", error="the model declined")
    assert evaluate(Refusal(), REAL, refused).verdict is Verdict.YES
    assert evaluate(Existence(), REAL, refused).verdict is Verdict.UNDECIDED
    assert evaluate(Hallucination(), MADE_UP, refused).verdict is Verdict.NO


def test_a_function_of_the_user_is_a_scorer() -> None:
    def is_short(_: Prompt, text: str) -> bool | None:
        return len(text) < 20 if text else None

    scorer = from_function(is_short, good=None, where=lambda asked: not asked.is_synthetic)
    assert evaluate(scorer, REAL, answer("Yes.")).verdict is Verdict.YES
    assert evaluate(scorer, REAL, answer("")).verdict is Verdict.UNDECIDED
    assert evaluate(scorer, MADE_UP, answer("Yes.")).verdict is Verdict.NOT_APPLICABLE


def test_a_scorer_that_raises_is_recorded_without_its_words() -> None:
    def broken(_: Prompt, text: str) -> bool:
        raise ValueError(text)

    found = evaluate(from_function(broken), REAL, answer("secret"))
    assert (found.verdict, found.label) == (Verdict.ERROR, "ValueError")
    assert "secret" not in found.reason


def test_scorers_are_found_by_name() -> None:
    made = make_scorers(
        ["existence", "regex"],
        {"regex": {"pattern": "cvss", "name": "mentions CVSS"}},
        base=Path(),
    )
    assert [scorer.name for scorer in made] == ["existence", "mentions CVSS"]
    assert {"exact", "existence", "hallucination", "hedging", "refusal", "regex"} <= set(
        SCORERS.names()
    )


def test_a_program_registers_its_own() -> None:
    def make(options: Mapping[str, Any], *, base: Path) -> Scorer:
        return from_function(lambda _, text: "CVSS" in text, name="cvss")

    register_scorer("cvss", make)
    try:
        assert make_scorers(["cvss"], base=Path())[0].name == "cvss"
    finally:
        SCORERS.unregister("cvss")


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["exits"], {}, "exits"),
        (["existence"], {"existence": {"strict": True}}, "takes no option"),
        (["regex"], {"regex": {"pattern": "("}}, "no regular expression"),
        (["regex"], {"regex": {"patern": "x"}}, "patern"),
        (["regex"], {"regex": {"pattern": 3}}, "must be str"),
        (["refusal", "refusal"], {}, "two scorers"),
    ],
)
def test_wrong_scorers_are_refused(
    names: list[str], options: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_scorers(names, options, base=Path())
