"""Processes that write text: killed, out of memory, hanging, with a broken model."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import msgspec
import onnx
import pytest
from support.counts import count
from support.text_models import save_directory, spoiled_graph

from interlock.bundle import Bundle, load, pack
from interlock.engines.chat import Message, Sampling
from interlock.engines.generate import GenerateRequest, GenerateResult, Generator, open_text_model
from interlock.engines.generate.convert.publish import convert
from interlock.engines.generate.processes import ProcessGenerator
from interlock.errors import (
    BundleIntegrityError,
    ConfigError,
    DeadlineError,
    EngineError,
    EngineUnavailableError,
    InputError,
    MemoryLimitError,
)
from interlock.kernel.clock import Deadline
from interlock.kernel.process import LEAST_MEMORY


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny model on the disk."""
    base = tmp_path_factory.mktemp("text")
    return convert(save_directory(base / "source"), base / "tiny", name="tiny")


def requests(number: int, tokens: int = 12) -> list[GenerateRequest]:
    """Requests with prompts of their own."""
    return [
        GenerateRequest(
            prompt_tokens=(30 + n, 31, 40 + n, 50 + n),
            sampling=Sampling(max_tokens=tokens, logprobs=1),
        )
        for n in range(number)
    ]


def texts(found: object) -> list[tuple[str, object]]:
    """Texts and logprobs; fails where there is an error."""
    assert isinstance(found, list)
    for each in found:
        assert isinstance(each, GenerateResult), each
    return [(each.text, each.logprobs) for each in found]


def in_this_process(bundle: Bundle, asked: list[GenerateRequest]) -> list[tuple[str, object]]:
    """The answers of a generator here."""
    with Generator(open_text_model(bundle)) as generator:
        return texts(generator.generate(asked))


def test_processes_write_what_threads_write(bundle: Bundle) -> None:
    sampling = Sampling(max_tokens=5, logprobs=1)
    messages = (Message("user", "hello"),)
    asked = [*requests(5), GenerateRequest(messages=messages, sampling=sampling, prefix=3)]
    with ProcessGenerator(bundle.path, size=2, slots=3) as generator:
        assert texts(generator.generate(asked)) == in_this_process(bundle, asked)


def test_a_killed_process_loses_nothing(bundle: Bundle) -> None:
    asked = requests(4, tokens=300)
    expected = in_this_process(bundle, asked)
    with ProcessGenerator(bundle.path, size=2, slots=2) as generator:
        generator.start()
        for _ in range(count(2, 10)):
            timers = [
                threading.Timer(0.02 * (1 + n), os.kill, (pid, signal.SIGKILL))
                for n, pid in enumerate(generator.pids)
            ]
            for timer in timers:
                timer.start()
            try:
                assert texts(generator.generate(asked)) == expected
            finally:
                for timer in timers:
                    timer.cancel()


def test_a_request_that_hangs_costs_itself_only(bundle: Bundle, tmp_path: Path) -> None:
    hanging = pack(
        tmp_path / "hanging",
        spoiled_graph(bundle, "hang", 250).SerializeToString(),
        msgspec.structs.replace(bundle.metadata, name="hanging"),
        {name: data for name, data in bundle.files.items() if "token" in name or "chat" in name},
        probe=False,
    )
    bad = GenerateRequest(prompt_tokens=(250,), sampling=Sampling(max_tokens=2))
    good = requests(1, tokens=2)[0]
    expected = in_this_process(bundle, [good])
    with ProcessGenerator(hanging.path, slots=2, call_seconds=10.0) as generator:
        generator.start()
        lost, answer = generator.generate([bad, good])
    assert isinstance(lost, DeadlineError)
    assert texts([answer]) == expected


def test_a_deadline_of_one_request_is_hard(bundle: Bundle) -> None:
    late = GenerateRequest(prompt_tokens=(30,), deadline=Deadline.after(0))
    with ProcessGenerator(bundle.path, slots=1) as generator:
        generator.start()
        [found] = generator.generate([late])
    assert isinstance(found, DeadlineError)


def test_a_memory_limit_that_the_model_exceeds_is_told(bundle: Bundle) -> None:
    with ProcessGenerator(bundle.path, memory_limit=LEAST_MEMORY) as generator:
        [found] = generator.generate(requests(1))
    assert isinstance(found, MemoryLimitError | EngineError)


def test_a_wrong_request_comes_back_as_its_own_error(bundle: Bundle) -> None:
    wrong = GenerateRequest(prompt_tokens=(10_000,))
    with ProcessGenerator(bundle.path, slots=2) as generator:
        found, good = generator.generate([wrong, requests(1)[0]])
    assert isinstance(found, InputError)
    assert "10000" in found.message
    assert isinstance(good, GenerateResult)


def test_a_tampered_model_is_told_by_every_request(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in bundle.path.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    data = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(data[:-1] + b"!")
    with ProcessGenerator(copy, slots=2) as generator:
        found = generator.generate(requests(2))
    assert all(isinstance(each, BundleIntegrityError) for each in found)
    assert load(bundle.path).digest == bundle.digest


def test_settings_and_states_that_cannot_be_are_refused(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="size"):
        ProcessGenerator(bundle.path, size=0)
    with pytest.raises(ConfigError, match="call_seconds"):
        ProcessGenerator(bundle.path, call_seconds=0.0)
    generator = ProcessGenerator(bundle.path)
    generator.close()
    with pytest.raises(EngineUnavailableError, match="closed"):
        generator.generate(requests(1))


def test_the_graphs_of_these_tests_are_sound(bundle: Bundle) -> None:
    onnx.shape_inference.infer_shapes(spoiled_graph(bundle, "hang", 250))
