"""Text models as the server holds them: found by name or bundle, tested, asked by tensors."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from support.rollouts import until
from support.serving import serving
from support.text_models import spoiled_directory, tiny_directory, tokenizer

from interlock.engines.generate.stream_process import StreamProcess
from interlock.errors import BundleIntegrityError, ConfigError, DeadlineError, InputError
from interlock.kernel.clock import Deadline
from interlock.kernel.outcome import EvidenceKind, Status, StepResult
from interlock.serve.opening import kind_of, open_model
from interlock.serve.settings import ModelSettings, Settings
from interlock.serve.text_served import TextServed, failed, text_served
from interlock.serve.version import open_version


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("store")
    tiny_directory(place / "tiny")
    return place


@pytest.fixture
def served(store: Path, monkeypatch: pytest.MonkeyPatch) -> TextServed:
    monkeypatch.setenv("INTERLOCK_MODELS", str(store))
    found = open_model("m", ModelSettings(path="text:tiny", answer_tokens=5), store)
    assert isinstance(found, TextServed)
    return found


def test_a_text_model_is_known_by_its_name_or_by_its_bundle(store: Path, tmp_path: Path) -> None:
    assert kind_of(ModelSettings(path="text:tiny"), tmp_path) == "text"
    assert kind_of(ModelSettings(path=str(store / "tiny")), tmp_path) == "text"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text("{}")
    assert kind_of(ModelSettings(path="other"), tmp_path) == "bundle"


@pytest.mark.parametrize(("memory", "limit"), [(1024, 1536 << 20), (0, None)])
def test_the_cache_has_its_memory_beside_the_models(
    memory: int, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    class Noted(StreamProcess):
        def __init__(self, source: str | Path, **named: Any) -> None:
            asked.update(named)
            super().__init__(source, **named)

    monkeypatch.setattr("interlock.serve.text_served.StreamProcess", Noted)
    settings = ModelSettings(path="text:m", memory_mb=memory, cache_mb=512)
    text_served("m", settings, settings.path)
    assert asked["memory_limit"] == limit


def test_it_answers_a_prompt_with_a_text_and_its_evidence(served: TextServed) -> None:
    served.start(Deadline.after(60))
    try:
        assert served.version.startswith("sha256:")
        inputs = {"prompt": np.array(["the thing"], dtype=object)}
        assert served.check(inputs) == 1
        answer = served.infer(inputs, deadline=Deadline.after(60))
        assert answer.summary.status is Status.FLAGGED
        assert answer.summary.evidence.kind is EvidenceKind.ATTESTED
        assert answer.summary.evidence.detail["digest"] == served.version
        assert answer.outputs["text"][0] == answer.summary.value
        late = served.infer(inputs, deadline=Deadline.after(0))
        assert late.lost
        assert late.summary.steps[0].result is StepResult.OVER_TIME
        with pytest.raises(InputError, match="'text' is unknown"):
            served.check({"text": inputs["prompt"]})
        served.canary(deadline=Deadline.after(60))
        workers = served.workers()
        assert len(workers.pids) == 1
        assert workers.cpu > 0
        assert workers.largest == workers.rss > 0
    finally:
        served.close()
    assert served.workers().pids == ()


def test_another_digest_or_an_unknown_name_keeps_it_from_serving(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOCK_MODELS", str(store))
    for settings, error in (
        (
            ModelSettings(path="text:tiny", expected_digest="sha256:" + "0" * 64),
            BundleIntegrityError,
        ),
        (ModelSettings(path="text:nobody"), ConfigError),
    ):
        served = open_model("m", settings, store)
        with pytest.raises(error):
            served.start(Deadline.after(60))
        served.close()


def test_what_did_not_come_says_why() -> None:
    outcome = failed("m", DeadlineError("no answer by the deadline"), 1.0)
    assert (outcome.status, outcome.action) == (Status.FAILED, "refuse")
    assert outcome.reasons == ("text: deadline: no answer by the deadline",)
    # A prompt may be quoted by what is wrong with it.
    told = failed("m", InputError("the prompt 'secret' is too long"), 0.0)
    assert told.reasons == ("text: input",)


@pytest.mark.parametrize(
    ("of_server", "own", "status"),
    [(0.001, None, "healthy"), (0.001, 0.001, "degraded"), (60_000.0, None, "healthy")],
)
def test_a_text_model_has_a_limit_of_its_own_for_degraded(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    of_server: float,
    own: float | None,
    status: str,
) -> None:
    """The server's suits a classifier; no text comes in 50 ms on a small machine."""
    monkeypatch.setenv("INTERLOCK_MODELS", str(store))
    monkeypatch.setattr("interlock.serve.version.TEXT_DEGRADED_MS", 30_000.0)
    settings = Settings(degraded_ms=of_server)
    version = open_version(
        "m", ModelSettings(path="text:tiny", degraded_ms=own), settings, store, lambda ran: None
    )
    try:
        assert version.canary.check().status == status
    finally:
        version.retire(0)


def test_a_text_that_is_written_is_counted_once(tmp_path: Path) -> None:
    """By the protocol it goes through the model's lane and its process, which both count it."""
    # Wherever "~" is in a prompt the model hangs, until the text's deadline.
    (token,) = tokenizer().encode("~").ids
    spoiled_directory(tmp_path / "tiny", "hang", token)
    served = {"tiny": {"path": "tiny", "text_seconds": 3}}
    prompt = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["~"]}
    with serving(tmp_path, served) as server, ThreadPoolExecutor(1) as pool:

        def counted() -> tuple[float, float]:
            text = httpx2.get(f"{server.url}/metrics").text
            lines = r'^interlock_(?:queue|running)_requests\{model="tiny"\} (.*)'
            found = re.findall(lines, text, re.M)
            return float(found[0]), float(found[1])

        asked = pool.submit(
            server.client.post, "/v2/models/tiny/infer", json={"inputs": [prompt]}, timeout=60
        )
        until(lambda: sum(counted()) > 0)
        seen = {counted() for _ in range(20)}
        assert asked.result().status_code == 504
    assert seen == {(0.0, 1.0)}
