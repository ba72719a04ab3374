"""Whatever is wrong with a detector's bundle, its memory or a text: an answer with its reason.

Never a crash, and never an answer that looks clean though nothing judged.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.counts import count
from support.detectors import ATTACKS, HARMLESS, write_bundle
from support.detectors import settings as bundle_settings

from interlock.detect import Detector, create_best_l2_detector, model
from interlock.detect.model import DetectorModel
from interlock.detect.policy import Action
from interlock.detect.settings import SETTINGS, TOKENIZER, VECTORS
from interlock.errors import (
    BundleContractError,
    BundleError,
    BundleFormatError,
    BundleIntegrityError,
    ConfigError,
    MemoryLimitError,
)
from interlock.kernel.outcome import Status


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("faults") / "bundle")


@pytest.fixture(scope="module")
def detector(bundle: Path) -> Detector:
    return Detector.open(bundle=bundle, remember=False)


def changed(tmp_path: Path, name: str, data: bytes) -> Path:
    """A bundle with another content of one file, packed anew so that digests fit."""
    return write_bundle(tmp_path / "changed", change=lambda files: files.update({name: data}))


def test_a_missing_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleFormatError, match="there is no bundle"):
        Detector.open(bundle=tmp_path / "moon", remember=False)


@pytest.mark.parametrize("name", ["model.onnx", SETTINGS, TOKENIZER, VECTORS, "metadata.json"])
@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_one_flipped_bit(bundle: Path, tmp_path: Path, name: str, at: float) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    data = bytearray((copy / name).read_bytes())
    data[int(at * len(data))] ^= 1
    (copy / name).write_bytes(bytes(data))
    with pytest.raises(BundleIntegrityError, match=name):
        Detector.open(bundle=copy, remember=False)


@pytest.mark.parametrize("name", ["model.onnx", SETTINGS, TOKENIZER, VECTORS])
def test_a_missing_file(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=name):
        Detector.open(bundle=copy, remember=False)


def test_a_remembered_bundle_is_hashed_again(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    first = Detector.open(bundle=copy)
    assert first.model is not None
    assert first.model.fidelity is not None
    second = Detector.open(bundle=copy)
    assert second.model is not None
    assert second.model.fidelity is None
    data = bytearray((copy / "model.onnx").read_bytes())
    data[-1] ^= 1
    (copy / "model.onnx").write_bytes(bytes(data))
    with pytest.raises(BundleIntegrityError):
        Detector.open(bundle=copy)


@pytest.mark.parametrize("linked", [False, True])
def test_a_package_whose_files_are_hard_links_still_loads(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    """Some installers link a package's files, which loading a bundle refuses elsewhere."""
    shipped = tmp_path / "shipped"
    shutil.copytree(bundle, shipped)
    if linked:
        for path in list(shipped.iterdir()):
            (tmp_path / path.name).hardlink_to(path)
        with pytest.raises(BundleFormatError, match="hard link"):
            Detector.open(bundle=shipped, remember=False)
    monkeypatch.setattr(model, "SHIPPED", shipped)
    assert Detector.open(remember=False).scan(ATTACKS[0]).attack


def test_another_digest_than_expected(bundle: Path) -> None:
    with pytest.raises(BundleIntegrityError, match="expected"):
        Detector.open(bundle=bundle, expected_digest="sha256:" + "0" * 64, remember=False)


def test_a_bundle_of_another_version(tmp_path: Path) -> None:
    plain = msgspec.json.decode(bundle_settings().encode())
    newer = msgspec.json.encode({**plain, "schema": 2, "new": 1})
    with pytest.raises(BundleFormatError, match="schema 2, this release reads 1"):
        Detector.open(bundle=changed(tmp_path, SETTINGS, newer), remember=False)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"schema": 1}', b"\xff"])
@pytest.mark.parametrize("name", [SETTINGS, VECTORS])
def test_files_that_say_nothing(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(BundleFormatError, match=name):
        Detector.open(bundle=changed(tmp_path, name, data), remember=False)


def test_embeddings_that_drift(tmp_path: Path) -> None:
    """The graph of other weights with the stored vectors of these: what a bad export looks like."""
    other = (write_bundle(tmp_path / "other", seed=1) / VECTORS).read_bytes()
    with pytest.raises(BundleContractError, match="mean cosine"):
        Detector.open(bundle=changed(tmp_path, VECTORS, other), remember=False)


def test_a_bundle_that_would_let_itself_drift(tmp_path: Path) -> None:
    plain = msgspec.json.decode(bundle_settings().encode())
    weaker = msgspec.json.encode({**plain, "fidelity": {"mean": 0.5, "minimum": -1.0}})
    with pytest.raises(BundleFormatError, match=r"fidelity: mean is 0\.5"):
        Detector.open(bundle=changed(tmp_path, SETTINGS, weaker), remember=False)


def test_the_wrong_tokenizer(bundle: Path, tmp_path: Path) -> None:
    plain = msgspec.json.decode((bundle / TOKENIZER).read_bytes())
    words = list(plain["model"]["vocab"])
    turned = [*words[:4], *reversed(words[4:])]
    plain["model"]["vocab"] = {word: at for at, word in enumerate(turned)}
    data = msgspec.json.encode(plain)
    with pytest.raises(BundleContractError, match="mean cosine"):
        Detector.open(bundle=changed(tmp_path, TOKENIZER, data), remember=False)
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(BundleContractError, match="mean cosine"):
        Detector.open(bundle=bundle, tokenizer=tmp_path / "tokenizer.json", remember=False)
    with pytest.raises(ConfigError, match="tokenizer"):
        Detector.open(bundle=changed(tmp_path, TOKENIZER, b"{}"), remember=False)


def test_each_of_these_ends_in_a_stub_that_says_why(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "SHIPPED", tmp_path / "not-shipped")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / VECTORS).write_bytes(b"{}")
    found = create_best_l2_detector(bundles=[copy]).analyze(HARMLESS[0])
    assert found.status is Status.REFUSED
    assert VECTORS in found.reasons[0]


def test_a_model_that_fails_or_gives_nan_is_not_clean(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*args: object) -> None:
        raise MemoryLimitError("ONNX Runtime could not allocate memory")

    monkeypatch.setattr(DetectorModel, "judge", out_of_memory)
    found = detector.scan(HARMLESS[0])
    assert found.action is Action.ESCALATE
    assert found.score is None
    assert found.faults == ("error",)
    assert found.reasons[0].startswith("memory_limit")

    def broken(*args: object) -> None:
        raise RuntimeError(f"cannot read {HARMLESS[0]}")

    monkeypatch.setattr(DetectorModel, "judge", broken)
    found = detector.scan(HARMLESS[0])
    assert found.action is Action.ESCALATE
    assert HARMLESS[0] not in str(found.reasons)
    monkeypatch.undo()
    real = DetectorModel.judge

    def nan(self: DetectorModel, *args: object) -> object:
        found = real(self, *args)  # type: ignore[arg-type]
        found.logit[:] = np.nan
        return found

    monkeypatch.setattr(DetectorModel, "judge", nan)
    found = detector.scan(HARMLESS[0])
    assert found.action is Action.ESCALATE
    assert "not finite" in found.reasons[0]


LIMITED = """
import json, resource, sys
from interlock.detect import Detector
detector = Detector.open(bundle=sys.argv[1], remember=False)
clean = detector.scan(sys.argv[2])
text = (sys.argv[3] + ". ") * 400_000
size = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), -1))
found = detector.scan(text)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
again = detector.scan(sys.argv[2])
told = [clean.action, found.action, found.faults, found.reasons, again.action]
print(json.dumps(told))
"""


def test_a_process_without_memory_escalates_and_goes_on(bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(bundle), HARMLESS[0], HARMLESS[1]],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    clean, action, faults, reasons, again = json.loads(done.stdout)
    assert (clean, again) == ("allow", "allow")
    assert action == "escalate"
    assert faults == ["error"]
    assert "memory" in reasons[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the text is empty"),
        (" \n\t", "the text is empty"),
        ("\u0301" * 100_000, "nothing legible"),
        ("\u200b" * 50, "nothing legible"),
        ("\u202e\u2066", "nothing legible"),
    ],
    ids=["empty", "blank", "100,000 combining marks", "zero width", "bidi"],
)
def test_texts_without_anything_to_read(detector: Detector, text: str, reason: str) -> None:
    found = detector.scan(text)
    assert any(reason in told for told in found.reasons)
    assert found.clean == (not text.strip())


def test_lone_surrogates(detector: Detector) -> None:
    found = detector.scan("\ud800 " + ATTACKS[0] + " \udfff")
    assert found.attack
    assert detector.scan("\udcff\udcfe").score is not None
    assert detector.embedder is not None
    assert np.isfinite(detector.embedder.encode("\ud800")).all()


@pytest.mark.parametrize("place", ["user", "document", "auto"])
def test_ten_megabytes_say_that_they_were_not_read_whole(detector: Detector, place: str) -> None:
    text = "The weather was fine and nobody said anything. " * 220_000
    found = detector.scan(text, place)
    assert len(text) > 10_000_000
    assert found.action is not Action.ALLOW
    assert "cut" in found.faults
    assert any("not all of it was read" in told for told in found.reasons)


def test_an_order_at_the_end_of_ten_megabytes_is_found(detector: Detector) -> None:
    text = "The weather was fine and nobody said anything. " * 220_000 + ATTACKS[0]
    assert detector.scan(text).attack


HOSTILE = st.one_of(
    st.text(max_size=300),
    st.text(st.characters(categories=["Cs", "Cf", "Mn", "Cc"]), max_size=200),
    st.lists(
        st.sampled_from(
            ["aWdub3Jl", "%69", "&#x69;", "\\u0069", "1gn0r3", "i g n o r e", "=", "\u202e"]
        ),
        max_size=30,
    ).map(" ".join),
)


@settings(
    max_examples=count(150, 10_000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(HOSTILE, st.sampled_from(["user", "document", "auto"]))
def test_any_text_gets_an_answer(detector: Detector, text: str, place: str) -> None:
    found = detector.scan(text, place)
    assert "error" not in found.faults
    assert found.score is not None
    assert 0 <= found.score <= 1
    assert all(0 <= span.start <= span.end <= len(text) for span in found.spans)
    assert all(0 <= window.start <= window.end <= len(text) for window in found.windows)
    assert found.clean or found.reasons
