"""Routes from files: what a file can say, and how it is told what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.routes import Judge, Says

from interlock.errors import BundleIntegrityError, ConfigError, MissingExtraError
from interlock.kernel.clock import ManualClock
from interlock.kernel.limits import NO_RETRY, RetryPolicy
from interlock.kernel.outcome import Evidence, EvidenceKind, Status, StepResult
from interlock.kernel.registry import ENGINES, GUARDS, register_engine, register_guard
from interlock.kernel.route import Verdict
from interlock.kernel.route_file import describe, load_route


@dataclass
class Sized(Says):
    """An engine with everything that a step may take from it."""

    evidence: tuple[Evidence, ...] = (Evidence(EvidenceKind.ATTESTED, "test"),)

    def available(self) -> str | None:
        return None

    def size(self, item: Any) -> float:
        return len(item)

    def predicted_seconds(self, item: Any) -> float:
        return float(len(item))

    def describe(self) -> dict[str, Any]:
        return {"value": self.value}


def reads(options: Mapping[str, Any], *, base: Path) -> Says:
    """Answers the text of a file."""
    return Says((base / options["file"]).read_text())


def limit(options: Mapping[str, Any], *, base: Path) -> Judge:
    """Refuses answers that are longer than the option `longest`."""
    longest = options.get("longest", 3)
    if not isinstance(longest, int):
        raise ConfigError(f"longest is {longest!r}; it must be an integer")
    return Judge(
        lambda item, answer: (
            Verdict() if len(answer) <= longest else Verdict(StepResult.REFUSED, "too long")
        )
    )


def tampered(options: Mapping[str, Any], *, base: Path) -> Any:
    """A factory that finds its bundle changed."""
    raise BundleIntegrityError("model.onnx: the digest differs")


def needs_extra(options: Mapping[str, Any], *, base: Path) -> Any:
    """A factory whose library is not installed."""
    import a_library_that_is_not_installed  # type: ignore[import-not-found] # noqa: F401


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The names that these tests' files use."""
    register_engine("test-reads", reads)
    register_engine("test-sized", lambda options, *, base: Sized("ok"))
    register_engine("test-tampered", tampered)
    register_engine("test-extra", needs_extra, extra="torch")
    register_guard("test-limit", limit)
    yield
    for name in ("test-reads", "test-sized", "test-tampered", "test-extra"):
        ENGINES.unregister(name)
    GUARDS.unregister("test-limit")


TOML = """
schema = 1
name = "words"
otherwise = "escalate"

[[step]]
name = "long"
engine = "test-reads"
options = { file = "long.txt" }
guards = ["test-limit"]

[[step]]
name = "short"
engine = "test-sized"
guards = ["test-limit", { name = "test-limit", options = { longest = 2 } }]
size_limit = 4
time_limit = 9.5
retry = { retries = 2, first = 0.5 }
"""


def write(directory: Path, text: str = TOML, name: str = "route.toml") -> Path:
    """A route file beside the text that it reads."""
    (directory / "long.txt").write_text("a long answer")
    path = directory / name
    path.write_text(text)
    return path


def minimal(**step: Any) -> dict[str, Any]:
    """A document with one step, changed by `step`."""
    return {
        "schema": 1,
        "name": "r",
        "otherwise": "refuse",
        "step": [{"name": "only", "engine": "test-sized", **step}],
    }


def test_a_file_says_engines_guards_limits_and_what_becomes_of_the_rest(tmp_path: Path) -> None:
    clock = ManualClock()
    route = load_route(write(tmp_path), clock=clock)
    outcome = route.run("item")
    assert (outcome.status, outcome.value) == (Status.ACCEPTED, "ok")
    assert outcome.reasons == ("long: too long",)
    assert outcome.evidence.by == "test"

    unanswered = route.run("a long item")
    assert (unanswered.status, unanswered.action) == (Status.REFUSED, "escalate")
    assert unanswered.reasons == ("long: too long", "short: size 11 is above 4")

    long, short = route.steps
    assert (long.retry, long.time_limit, long.size_limit) == (NO_RETRY, None, None)
    assert (short.retry, short.time_limit) == (RetryPolicy(retries=2, first=0.5), 9.5)
    assert route.clock is clock


def test_json_says_the_same_as_toml(tmp_path: Path) -> None:
    import tomllib

    toml = write(tmp_path)
    as_json = write(tmp_path, json.dumps(tomllib.loads(TOML)), "route.json")
    assert describe(load_route(as_json)) == describe(load_route(toml))
    assert describe(load_route(tomllib.loads(TOML), base=tmp_path)) == describe(load_route(toml))


def test_relative_paths_start_at_the_route_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub")
    monkeypatch.chdir(tmp_path)
    route = load_route("sub/route.toml")
    assert route.steps[0].engine.value == "a long answer"
    with pytest.raises(ConfigError, match="FileNotFoundError"):
        load_route("sub/route.toml", base=tmp_path)


def test_a_description_is_plain_and_holds_what_a_part_says_of_itself(tmp_path: Path) -> None:
    described = describe(load_route(write(tmp_path)))
    assert json.loads(json.dumps(described)) == described
    assert (described["name"], described["otherwise"]) == ("words", "escalate")
    short = described["steps"][1]
    assert short["engine"]["value"] == "ok"
    assert short["engine"]["type"].endswith("Sized")
    assert (short["size_limit"], short["time_limit"]) == (4.0, 9.5)
    assert short["retry"] == {
        "retries": 2,
        "first": 0.5,
        "factor": 2.0,
        "longest": 60.0,
        "jitter": "full",
    }
    assert short["evidence"] == [{"kind": "attested", "by": "test", "detail": {}}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"time_limt": 1}, "time_limt"),
        ({"time_limit": "fast"}, "time_limit"),
        ({"time_limit": -1}, "time_limit"),
        ({"size_limit": -1}, "size_limit"),
        ({"retry": {"retries": -1}}, "retries"),
        ({"retry": {"retries": 1.5}}, "retries"),
        ({"retry": {"times": 1}}, "times"),
        ({"engine": "test-sizd"}, "test-sizd"),
        ({"engine": 3}, "engine"),
        ({"engine": "os:system"}, "os:system"),
        ({"engine": "test-reads", "size_limit": 3, "options": {"file": __file__}}, "size_limit"),
        ({"guards": ["test-limt"]}, "test-limt"),
        ({"guards": [{"name": "test-limit", "option": {}}]}, "option"),
        ({"guards": [{"name": "test-limit", "options": {"longest": "x"}}]}, "longest"),
        ({"guards": "test-limit"}, "guards"),
        ({"options": [1]}, "options"),
    ],
)
def test_a_mistake_names_file_step_and_field(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "route.json"
    path.write_text(json.dumps(minimal(**change)))
    with pytest.raises(ConfigError) as caught:
        load_route(path)
    message = caught.value.message
    assert message.startswith(f"{path}: ")
    assert said in message
    assert message.count("step 'only'") == 1


def test_a_limit_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, TOML.replace("9.5", "nan"))
    with pytest.raises(ConfigError, match=r"route\.toml: step 'short': time_limit is nan"):
        load_route(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema is 2"),
        ({"schema": "1"}, "schema"),
        ({"schema": True}, "schema"),
        ({"otherwise": "ignore"}, "otherwise"),
        ({"otherwise": None}, "otherwise"),
        ({"step": []}, "no steps"),
        ({"step": {}}, "step"),
        ({"steps": []}, "steps"),
        ({"name": 3}, "name"),
    ],
)
def test_a_mistake_at_the_top_names_the_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_route(minimal() | change)


@pytest.mark.parametrize("field", ["schema", "name", "otherwise", "step"])
def test_nothing_at_the_top_has_a_default(field: str) -> None:
    document = minimal()
    del document[field]
    with pytest.raises(ConfigError, match=field):
        load_route(document)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("route.toml", "schema = "),
        ("route.toml", "x = " + "[" * 5000),
        ("route.json", "{"),
        ("route.json", "[]"),
        ("route.json", "[" * 100_000),
        ("route.yaml", "schema: 1"),
    ],
)
def test_a_file_that_is_no_route_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=name):
        load_route(path)


def test_a_file_that_is_absent_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read"):
        load_route(tmp_path / "absent.toml")
    (tmp_path / "route.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"route\.toml"):
        load_route(tmp_path / "route.toml")


def test_a_missing_extra_keeps_its_type_and_names_the_step() -> None:
    with pytest.raises(MissingExtraError, match=r"step 'only'.*extra 'torch'") as caught:
        load_route(minimal(engine="test-extra"))
    assert caught.value.hint == "pip install 'interlock[torch]'"


def test_a_tampered_bundle_stays_a_tampered_bundle() -> None:
    with pytest.raises(BundleIntegrityError) as caught:
        load_route(minimal(engine="test-tampered"))
    assert caught.value.__notes__ == ["route: step 'only'"]
