"""`interlock bundle`: what each subcommand prints and returns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.bundles import plain_model, strict_bundle, strict_metadata, strict_model

from interlock.bundle import Metadata, pack, signature_of
from interlock.cli.app import run


class Said:
    """One call of the command line: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def interlock(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> Said:
        code = run(["bundle", *map(str, arguments)])
        printed = capsys.readouterr()
        return Said(code, printed.out, printed.err)

    return call


def test_pack_check_and_show(interlock: Any, tmp_path: Path) -> None:
    model = strict_model()
    onnx.save_model(model, tmp_path / "m.onnx")
    (tmp_path / "meta.json").write_bytes(strict_metadata(model).encode())
    (tmp_path / "notes.txt").write_text("hello")
    packed = interlock(
        "pack", tmp_path / "m.onnx", tmp_path / "b", "--metadata", tmp_path / "meta.json",
        "--file", tmp_path / "notes.txt", "--json",
    )  # fmt: skip
    assert packed.code == 0
    digest = packed.document["digest"]
    checked = interlock("check", tmp_path / "b", "--expected-digest", digest, "--json")
    assert (checked.code, checked.document["digest"]) == (0, digest)
    assert checked.document["trusted"] is True
    assert interlock("check", tmp_path / "b", "--json").document["trusted"] is False
    shown = interlock("show", tmp_path / "b", "--json").document
    assert shown["strict"]["tau_infer"] == pytest.approx(1e-3)
    assert shown["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}]
    assert set(shown["files"]) == {"metadata.json", "model.onnx", "notes.txt"}
    text = interlock("show", tmp_path / "b")
    assert digest in text.out
    assert "batch x 4" in text.out


def test_pack_without_metadata_takes_the_graphs_signature(interlock: Any, tmp_path: Path) -> None:
    onnx.save_model(plain_model(), tmp_path / "m.onnx")
    assert interlock("pack", tmp_path / "m.onnx", tmp_path / "b", "--name", "mine").code == 0
    shown = interlock("show", tmp_path / "b", "--json").document
    assert (shown["name"], shown["kind"], shown["smoke_vectors"]) == ("mine", "model", 0)


def test_a_refusal_is_exit_code_1_with_its_code_and_reason(interlock: Any, tmp_path: Path) -> None:
    strict_bundle(tmp_path / "b")
    wrong = interlock("check", tmp_path / "b", "--expected-digest", "sha256:" + 64 * "0", "--json")
    assert wrong.code == 1
    assert wrong.document["error"]["code"] == "bundle_integrity"
    (tmp_path / "b" / "more.txt").write_text("x")
    extra = interlock("check", tmp_path / "b")
    assert extra.code == 1
    assert "does not list 'more.txt'" in extra.err
    assert extra.out == ""


def test_usage_errors_are_exit_code_2(interlock: Any, tmp_path: Path) -> None:
    onnx.save_model(plain_model(), tmp_path / "m.onnx")
    (tmp_path / "meta.json").write_text("{}")
    assert interlock("pack", tmp_path / "none.onnx", tmp_path / "b").code == 2
    both = ("--name", "n", "--metadata", tmp_path / "meta.json")
    assert interlock("pack", tmp_path / "m.onnx", tmp_path / "b", *both).code == 2
    assert interlock("sign", tmp_path / "b").code == 2


@pytest.mark.parametrize("digest", ["", "sha256:0", 64 * "0", "sha256:" + 64 * "g"])
def test_what_is_no_digest_is_a_usage_error(interlock: Any, tmp_path: Path, digest: str) -> None:
    """A mistyped digest must not read as a bundle that somebody changed."""
    strict_bundle(tmp_path / "b")
    typo = interlock("check", tmp_path / "b", "--expected-digest", digest, "--no-probe")
    assert typo.code == 2
    assert "sha256: and 64 hexadecimal digits" in typo.err


@pytest.mark.parametrize(
    ("data", "told"), [(b"", "has no graph with outputs"), (b"text", "is not an ONNX model")]
)
def test_packing_what_is_no_model_names_the_file(
    interlock: Any, tmp_path: Path, data: bytes, told: str
) -> None:
    (tmp_path / "mine.onnx").write_bytes(data)
    refused = interlock("pack", tmp_path / "mine.onnx", tmp_path / "b")
    assert refused.code == 1
    assert f"{tmp_path / 'mine.onnx'} {told}" in refused.err
    assert "interlock bundle pack" not in refused.err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("text", ["", "{}", '{"name": 1}'])
def test_metadata_that_cannot_be_read_are_a_usage_error(
    interlock: Any, tmp_path: Path, text: str
) -> None:
    onnx.save_model(plain_model(), tmp_path / "m.onnx")
    (tmp_path / "mine.json").write_text(text)
    refused = interlock(
        *("pack", tmp_path / "m.onnx", tmp_path / "b", "--metadata", tmp_path / "mine.json")
    )
    assert refused.code == 2
    assert f"--metadata {tmp_path / 'mine.json'}: " in refused.err
    assert "interlock bundle pack" not in refused.err


def test_an_empty_name_is_a_usage_error(interlock: Any, tmp_path: Path) -> None:
    onnx.save_model(plain_model(), tmp_path / "m.onnx")
    assert interlock("pack", tmp_path / "m.onnx", tmp_path / "b", "--name", "").code != 0
    assert not (tmp_path / "b").exists()


def test_sign_and_verify(interlock: Any, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="needs the extra `sign`")
    from support.keys import write_key_pair

    private, public = write_key_pair(tmp_path)
    digest = strict_bundle(tmp_path / "b").digest
    assert interlock("verify", tmp_path / "b", "--key", public, "--json").code == 1
    signed = interlock("sign", tmp_path / "b", "--key", private, "--json")
    assert signed.document["digest"] == digest
    verified = interlock("verify", tmp_path / "b", "--key", public, "--json")
    assert verified.code == 0
    assert verified.document["digest"] == digest
    checked = interlock("check", tmp_path / "b", "--require-signature", public, "--json")
    assert checked.document["signed_by"] == verified.document["signed_by"]
    assert checked.document["trusted"] is True


def test_names_in_a_model_do_not_reach_the_terminal_as_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = plain_model()
    name = "\x1b]0;title\x07y"
    model.graph.node[0].output[0] = model.graph.output[0].name = name
    inputs, outputs = signature_of(model)
    metadata = Metadata(name="plain", kind="model", inputs=inputs, outputs=outputs)
    pack(tmp_path / "b", model, metadata, probe=False)
    assert run(["bundle", "show", str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert r"\x1b]0;title\x07y" in said
    assert "\x1b" not in said
