"""GGUF files and Hugging Face directories to bundles: equal where they must be, refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import numpy_helper
from support.gguf_models import gguf_name, save_gguf
from support.text_models import CONFIGS, save_directory, spec_dict, tiny_model, tokenizer
from tokenizers import processors

from interlock.bundle import load
from interlock.engines.chat import Message, Sampling
from interlock.engines.generate import GenerateRequest, GenerateResult, Generator, open_text_model
from interlock.engines.generate.convert import fidelity
from interlock.engines.generate.convert.checkpoint import Floats, Quantized
from interlock.engines.generate.convert.gguf_file import GgufCheckpoint
from interlock.engines.generate.convert.graph import build_graph
from interlock.engines.generate.convert.linear import (
    NBits,
    pack_nibbles,
    round_to_int8,
    transcode,
    weights_of,
)
from interlock.engines.generate.convert.publish import convert, open_checkpoint
from interlock.engines.generate.spec import Fidelity, Weights
from interlock.engines.generate.tokenizer import Tokenizer
from interlock.errors import BundleContractError, BundleFormatError, ConfigError

HALF = st.floats(-4, 4, width=16)


@given(
    arrays.arrays(np.float32, (3, 70), elements=st.floats(-100, 100, width=32)),
)
def test_int8_blocks_are_off_by_half_a_step_at_most(matrix: Floats) -> None:
    packed = round_to_int8(matrix)
    step = np.repeat(packed.scale, 32, axis=1)[:, :70]
    assert np.all(np.abs(weights_of(packed) - matrix) <= step * np.float32(0.5001) + 1e-30)


@settings(deadline=None)
@given(
    st.sampled_from(["Q4_0", "Q4_1", "Q8_0"]),
    st.integers(0, 1 << 30),
    st.lists(HALF, min_size=4, max_size=4),
    st.lists(HALF, min_size=4, max_size=4),
)
def test_blocks_of_a_file_are_taken_over_to_the_bit(
    kind: str, seed: int, scale: list[float], offset: list[float]
) -> None:
    levels = np.random.default_rng(seed).integers(0, 256 if kind == "Q8_0" else 16, (2, 2, 32))
    offsets = np.array(offset if kind == "Q4_1" else [0.0] * 4, np.float32).reshape(2, 2)
    blocks = Quantized(
        kind, levels.astype(np.uint8), np.array(scale, np.float32).reshape(2, 2), offsets
    )
    assert np.array_equal(weights_of(transcode(blocks)), blocks.floats())


def test_an_offset_that_cannot_be_moved_keeps_its_zero() -> None:
    # The offset and eight scales together need more bits than float32 has.
    levels = np.arange(32, dtype=np.uint8).reshape(1, 1, 32) % 16
    scale, offset = (np.full((1, 1), v, np.float16).astype(np.float32) for v in (1.634e-4, -46.34))
    packed = transcode(Quantized("Q4_1", levels, scale, offset))
    assert packed.zero == 0
    assert np.array_equal(weights_of(packed), Quantized("Q4_1", levels, scale, offset).floats())


def test_the_first_of_two_levels_lies_in_the_low_half() -> None:
    levels = np.arange(32, dtype=np.uint8).reshape(1, 1, 32) % 16
    assert pack_nibbles(levels)[0, 0, :2].tolist() == [0x10, 0x32]


@pytest.mark.parametrize("family", CONFIGS)
def test_a_gguf_file_holds_the_same_model_as_the_directory(family: str, tmp_path: Path) -> None:
    directory = open_checkpoint(save_directory(tmp_path / "tiny", family=family))
    file = open_checkpoint(save_gguf(tmp_path / "tiny.gguf", family=family))
    # The file keeps epsilon in float32, as the graph does.
    epsilon = directory.architecture.norm_epsilon
    assert file.architecture.norm_epsilon == pytest.approx(epsilon, rel=1e-6)
    assert replace(file.architecture, norm_epsilon=epsilon, rope=directory.architecture.rope) == (
        directory.architecture
    )
    one, other = build_graph(file, "fp32"), build_graph(directory, "fp32")
    assert one.proto.SerializeToString() == other.proto.SerializeToString()
    assert file.vocabulary.end_tokens == directory.vocabulary.end_tokens
    assert file.vocabulary.chat_template == directory.vocabulary.chat_template
    text = "The tree in the <|im_end|> water: ä€😀\n\n  x1234"
    mine, theirs = (Tokenizer(each.vocabulary.tokenizer) for each in (file, directory))
    assert mine.encode(text) == theirs.encode(text)
    assert mine.encode_markup(text) == theirs.encode_markup(text)


def test_the_tokenizer_of_a_starcoder_cuts_numbers_into_digits(tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf", family="starcoder2", pre="starcoder")
    made = tokenizers.Tokenizer.from_str(open_checkpoint(path).vocabulary.tokenizer.decode())
    pieces = made.pre_tokenizer.pre_tokenize_str("sum(a) is 42")
    assert [text for text, _ in pieces] == ["sum", "(", "a", ")", "Ġis", "Ġ", "4", "2"]


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_exact_weights_answer_as_the_files_blocks_in_float32(kind: str, tmp_path: Path) -> None:
    """The graph's matrices, put together again, are gguf's own dequantized ones to the bit."""
    file = GgufCheckpoint(save_gguf(tmp_path / "tiny.gguf", kind))
    graph = build_graph(file, "exact").proto.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for layer in range(2):
        for at, part in (("out", "self_attn.o_proj"), ("down", "mlp.down_proj")):
            found = matrix_of(graph, stored, f"layer{layer}.{at}")
            expected = file.floats(f"model.layers.{layer}.{part}.weight")
            assert np.array_equal(found, expected)
        names = [f"model.layers.{layer}.self_attn.{p}_proj.weight" for p in "qkv"]
        expected = np.concatenate([file.floats(name) for name in names])
        assert np.array_equal(matrix_of(graph, stored, f"layer{layer}.qkv"), expected)


def matrix_of(graph: onnx.GraphProto, stored: dict[str, Floats], name: str) -> Floats:
    """The matrix (n, k) that the nodes under `name` multiply with."""
    [node] = [n for n in graph.node if n.op_type == "MatMulNBits" and f"{name}.weight" in n.input]
    found = {attribute.name: attribute.i for attribute in node.attribute}
    offset = stored.get(f"{name}.offset")
    zero = stored.get(f"{name}.zero")
    packed = NBits(
        found["bits"],
        found["K"],
        stored[f"{name}.weight"].astype(np.uint8),
        stored[f"{name}.scale"],
        None if offset is None else offset.T,
        None if zero is None else int(zero.reshape(-1)[0]) & 0xF,
    )
    return weights_of(packed)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_converted_file_answers_like_the_model_it_was_made_from(
    family: str, tmp_path: Path
) -> None:
    source = save_gguf(tmp_path / "tiny.gguf", family=family)
    bundle = convert(source, tmp_path / "bundle", weights="fp32")
    request = GenerateRequest(prompt_tokens=(30, 31, 32), sampling=Sampling(max_tokens=16))
    answers = []
    for model in (open_text_model(bundle), tiny_model("fp32", family=family)):
        with Generator(model) as generator:
            [found] = generator.generate([request])
        assert isinstance(found, GenerateResult), found
        answers.append(found.tokens)
    assert answers[0] == answers[1]


def test_a_bundle_says_where_it_comes_from_and_what_it_lost(tmp_path: Path) -> None:
    source = save_directory(tmp_path / "source")
    bundle = convert(source, tmp_path / "bundle", name="tiny")
    assert load(tmp_path / "bundle").digest == bundle.digest
    assert set(bundle.metadata.provenance["source_sha256"]) >= {"model.safetensors", "config.json"}
    spec = spec_dict(bundle)
    assert spec["weights"] == "int8"
    assert 0 < spec["fidelity"]["kl"] < 0.01
    assert spec["fidelity"]["top1_low"] < spec["fidelity"]["top1"] < spec["fidelity"]["top1_high"]


def test_the_same_source_gives_the_same_bundle(tmp_path: Path) -> None:
    source = save_directory(tmp_path / "source")
    one, other = (convert(source, tmp_path / name, name="tiny") for name in ("a", "b"))
    assert one.digest == other.digest


@pytest.mark.parametrize(("kl", "top1"), [(0.0101, 0.95), (0.001, 0.919), (float("nan"), 0.99)])
def test_the_gate_refuses_weights_that_lost_too_much(kl: float, top1: float) -> None:
    with pytest.raises(BundleContractError, match="too far"):
        fidelity.check(Fidelity(kl=kl, top1=top1, top1_low=0, top1_high=1, positions=9, text=""))


def test_weights_below_the_gate_are_published_only_where_asked(tmp_path: Path) -> None:
    # Blocks that are nearly all outlier: eight bits lose what float32 keeps.
    source = save_directory(tmp_path / "source")
    from safetensors.numpy import load_file, save_file

    tensors = load_file(source / "model.safetensors")
    for name, array in tensors.items():
        if "proj" in name:
            array[:, ::32] *= 400
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(BundleContractError, match="too far"):
        convert(source, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    bundle = convert(source, tmp_path / "bundle", accept_fidelity=True)
    assert spec_dict(bundle)["fidelity"]["kl"] > 0.01


def test_the_end_of_a_turn_ends_an_answer_though_the_file_names_another(tmp_path: Path) -> None:
    file = GgufCheckpoint(save_gguf(tmp_path / "tiny.gguf", eos=0))
    assert set(file.vocabulary.end_tokens) == {0, 2}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "codet5"}, "CodeT5"),
        ({"model_type": "gpt_neox"}, "gpt_neox"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": None}, "has no num_hidden_layers"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is '1'"),
        ({"intermediate_size": 128}, "shape"),
        ({"num_hidden_layers": 3}, "model.layers.2"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"vocab_size": 100}, "tokenizer"),
        ({"num_hidden_layers": 1}, "hold model.layers.1, and the model has 1 layers"),
        ({"eos_token_id": [2, 99999]}, "the token 99999; its ids are 0 to 264"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(
    changes: dict[str, object], named: str, tmp_path: Path
) -> None:
    refused(save_directory(tmp_path / "source"), changes, named)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', not gelu_pytorch_tanh"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu', not gelu_pytorch_tanh"),
        ({"norm_type": "rms_norm"}, "norm_type is 'rms_norm', not layer_norm"),
        ({"mlp_type": "gated"}, "mlp_type is 'gated', not default"),
        ({"use_bias": "yes"}, "use_bias is 'yes', not true or false"),
        ({"norm_epsilon": 0}, "norm_epsilon is '0'"),
        ({"sliding_window": 0}, "sliding_window is '0'"),
        ({"partial_rotary_factor": 0.5}, "a part of each head"),
        ({"tie_word_embeddings": False}, "lm_head.weight"),
        ({"intermediate_size": 128}, "mlp.c_fc.weight has shape (100, 64), not (128, 64)"),
    ],
)
def test_a_starcoder_of_another_build_is_refused_by_name(
    changes: dict[str, object], named: str, tmp_path: Path
) -> None:
    refused(save_directory(tmp_path / "source", family="starcoder2"), changes, named)


@pytest.mark.parametrize(
    "name",
    ["model.norm.bias", "model.layers.1.self_attn.o_proj.bias", "model.layers.0.mlp.c_fc.bias"],
)
@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_a_bias_that_is_missing_is_named(name: str, weights: Weights, tmp_path: Path) -> None:
    file = GgufCheckpoint(save_gguf(tmp_path / "a.gguf", family="starcoder2", without=(name,)))
    with pytest.raises(BundleFormatError, match=gguf_name(name)):
        build_graph(file, weights)


def test_a_starcoder_without_biases_keeps_those_of_its_norms(tmp_path: Path) -> None:
    source = save_directory(tmp_path / "source", family="starcoder2", use_bias=False)
    graph = build_graph(open_checkpoint(source), "fp32").proto.graph
    biases = {tensor.name for tensor in graph.initializer if tensor.name.endswith(".bias")}
    assert len(biases) == 5
    assert all("norm" in name for name in biases)


def test_a_gguf_file_with_more_layers_than_it_says_is_refused(tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf", more=("blk.2.attn_norm.weight",))
    with pytest.raises(BundleFormatError, match=r"hold blk.2, and the model has 2 layers"):
        GgufCheckpoint(path)


def test_a_start_token_that_is_no_id_is_refused(tmp_path: Path) -> None:
    source = save_directory(tmp_path / "source")
    options = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**options, "add_bos_token": True}))
    refused(source, {"bos_token_id": 99999}, "the token 99999")
    (source / "config.json").write_text(
        json.dumps(json.loads((source / "config.json").read_text()) | {"bos_token_id": -1})
    )
    assert open_checkpoint(source).vocabulary.start_token is None


@pytest.mark.parametrize(("family", "part"), [("llama", "attn_output"), ("phi3", "attn_qkv")])
def test_biases_that_the_graph_does_not_have_are_refused_in_a_gguf_file(
    family: str, part: str, tmp_path: Path
) -> None:
    """Such a model would answer as if it had none."""
    path = save_gguf(tmp_path / "tiny.gguf", family=family, more=(f"blk.0.{part}.bias",))
    with pytest.raises(BundleFormatError, match=f"blk.0.{part}.bias"):
        GgufCheckpoint(path)


def refused(source: Path, changes: dict[str, object], named: str) -> None:
    """Whether `source` with other values in its config.json is refused, with `named` in words."""
    bundle = source.parent / "bundle"
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(BundleFormatError) as caught:
        convert(source, bundle)
    assert named in f"{caught.value.message} {caught.value.hint}"
    # That is a way out for a bundle, which this is not.
    assert "bundle pack" not in caught.value.hint
    assert not bundle.exists()


@pytest.mark.parametrize("missing", ["tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(missing: str, tmp_path: Path) -> None:
    source = save_directory(tmp_path / "source")
    (source / missing).unlink()
    with pytest.raises(BundleFormatError, match=missing.removeprefix("model")):
        convert(source, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("without", "named"), [("tokenizer", "tokenizer"), ("lm_head.weight", None)]
)
def test_what_a_gguf_file_lacks_is_named(without: str, named: str | None, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf", without=(without,))
    if named is None:
        assert GgufCheckpoint(path).architecture.tied
        return
    with pytest.raises(BundleFormatError, match=named):
        GgufCheckpoint(path)


def test_what_is_no_gguf_file_is_not_told_to_be_cut_short(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a text, and no model")
    with pytest.raises(ConfigError, match=r"notes\.txt is no GGUF file"):
        GgufCheckpoint(tmp_path / "notes.txt")


def test_the_directory_of_the_shell_is_called_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"{tmp_path.name} has no config.json"):
        convert(Path(), tmp_path / "bundle")


def test_another_architecture_in_a_gguf_file_is_named(tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf", arch="mamba")
    with pytest.raises(BundleFormatError, match="mamba"):
        GgufCheckpoint(path)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9])
def test_a_file_that_is_cut_short_is_refused(keep: float, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(BundleFormatError, match="no sound GGUF"):
        convert(path, tmp_path / "bundle")
    source = save_directory(tmp_path / "source")
    data = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(BundleFormatError, match="no sound safetensors"):
        convert(source, tmp_path / "bundle")


def test_a_path_with_nothing_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing"):
        convert(tmp_path / "absent", tmp_path / "bundle")


def test_a_shorter_context_is_kept(tmp_path: Path) -> None:
    bundle = convert(save_directory(tmp_path / "source"), tmp_path / "b", context=64)
    assert open_text_model(bundle).context == 64
    with pytest.raises(ConfigError, match="context"):
        convert(tmp_path / "source", tmp_path / "c", context=3)


def test_the_tokenizer_of_the_tests_is_what_the_files_hold() -> None:
    assert Tokenizer(tokenizer().to_str().encode()).size == tokenizer().get_vocab_size()


@pytest.mark.parametrize(("said", "start"), [(None, 0), (True, 0), (False, None)])
def test_text_begins_as_the_publishers_own_tokenizer_lets_it(
    tmp_path: Path, said: bool | None, start: int | None
) -> None:
    """Llama 3 says so in tokenizer.json alone, where others have a switch beside it."""
    source = save_directory(tmp_path / "source")
    made = tokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    made.save(str(source / "tokenizer.json"))
    options = json.loads((source / "tokenizer_config.json").read_text())
    if said is not None:
        options["add_bos_token"] = said
    (source / "tokenizer_config.json").write_text(json.dumps(options))
    assert open_checkpoint(source).vocabulary.start_token == start


def test_without_a_switch_or_a_rule_text_begins_with_its_own_words(tmp_path: Path) -> None:
    assert open_checkpoint(save_directory(tmp_path / "source")).vocabulary.start_token is None


def test_a_template_gets_the_names_of_all_special_tokens(tmp_path: Path) -> None:
    source = save_directory(tmp_path / "source")
    options = json.loads((source / "tokenizer_config.json").read_text())
    options["pad_token"] = {"content": "<|endoftext|>"}
    options["chat_template"] = "{{ pad_token }}{{ messages[0]['content'] }}"
    (source / "tokenizer_config.json").write_text(json.dumps(options))
    convert(source, tmp_path / "bundle", accept_fidelity=True)
    model = open_text_model(load(tmp_path / "bundle"))
    assert model.chat_prompt([Message("user", "the")])[0] == 0


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "config.json"])
def test_a_text_file_that_is_no_text_is_a_bundle_error(tmp_path: Path, name: str) -> None:
    source = save_directory(tmp_path / "source")
    (source / name).write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(BundleFormatError, match=name):
        convert(source, tmp_path / "bundle")
