"""The demonstration's proofs, with the smallest slice alone, and what breaks their promises."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interlock.demo import proved
from interlock.demo.found import _kept_by
from interlock.demo.page import _proofs
from interlock.demo.proved import Proved

pytestmark = pytest.mark.zk


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Proved:
    with pytest.MonkeyPatch.context() as patch:
        # The last layer takes half a second, the next one five.
        patch.setattr(proved, "SECONDS", 1.0)
        return proved.prove_and_verify(tmp_path_factory.mktemp("demo"), 1, lambda line: None)


def broken(one: Proved) -> list[str]:
    return [sentence for sentence, held in _kept_by(one).items() if not held]


def test_the_last_layer_is_proved_and_the_tampered_proof_refused(found: Proved) -> None:
    assert [plan.decision for plan in found.plans] == ["fallback"] * 4 + ["prove"]
    assert found.result.overall_security == 20
    assert (found.verdict.proved, found.verdict.replayed) == (1, 4)
    assert found.slice == "slice_4"
    assert [reason.code for reason in found.tampered.reasons] == ["proof_rejected"]
    assert broken(found) == []


def test_whatever_breaks_a_promise_is_named(found: Proved) -> None:
    assert broken(replace(found, tampered=found.verdict)) == [
        "a flipped bit in the proof of slice_4 was not noticed"
    ]
    refused = broken(replace(found, verdict=found.tampered))
    assert refused[0].startswith("the proofs do not verify: proof_rejected")
    nothing = replace(found.result, proved=0)
    assert "no slice was proved" in broken(replace(found, result=nothing))


def test_the_page_shows_both_verdicts(found: Proved) -> None:
    text = "".join(str(block) for block in _proofs(found).blocks)
    assert "A stranger accepts the proofs" in text
    assert "A flipped bit in a proof is refused" in text
    assert "development SRS" in text


def test_without_the_step_the_page_names_the_command() -> None:
    assert "make demo-all" in _proofs(None).lead
