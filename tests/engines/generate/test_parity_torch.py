"""Logits of converted models against transformers', on tiny random models of every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.text_models import tokenizer

from interlock.engines.chat import Sampling
from interlock.engines.generate import GenerateRequest, GenerateResult, Generator, open_text_model
from interlock.engines.generate.convert.graph import build_graph, cache_names, with_all_logits
from interlock.engines.generate.convert.publish import convert, open_checkpoint
from interlock.engines.generate.spec import Weights
from interlock.engines.onnx import create_session

pytestmark = pytest.mark.torch

SIZES = {
    "vocab_size": 265,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.05 * i for i in range(8)],
    "long_factor": [1.5 + 0.4 * i for i in range(8)],
    "original_max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# family -> (configuration class, model class, what differs)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama-scaled": ("Llama", {"rope_parameters": {"rope_theta": 5e5, **LLAMA3}}),
    "llama-linear": (
        "Llama",
        {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0}},
    ),
    "llama-wide-heads": ("Llama", {"head_dim": 32}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "mistral-window": ("Mistral", {"sliding_window": 16, "head_dim": 16}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "phi3": ("Phi3", {"sliding_window": None}),
    "phi3-window": ("Phi3", {"sliding_window": 20}),
    "phi3-short": (
        "Phi3",
        {
            "rope_parameters": {"rope_theta": 1e4, **LONGROPE},
            "original_max_position_embeddings": 64,
        },
    ),
    "phi3-long": (
        "Phi3",
        {
            "rope_parameters": {"rope_theta": 1e4, **LONGROPE},
            "original_max_position_embeddings": 64,
        },
    ),
    "starcoder2": ("Starcoder2", {}),
    "starcoder2-window": ("Starcoder2", {"sliding_window": 16}),
    "starcoder2-untied": ("Starcoder2", {"use_bias": False, "tie_word_embeddings": False}),
}


def saved(family: str, directory: Path) -> Any:
    """The transformers model of `family` with random weights, saved in `directory`."""
    import torch
    import transformers

    kind, changes = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Biases and norms start as constants, which would hide that they are left out.
            spread = 0.3 if "norm" in name or name.endswith("bias") else 0.15
            parameter.add_(torch.randn_like(parameter) * spread)
    model.save_pretrained(directory, safe_serialization=True)
    tokenizer().save(str(directory / "tokenizer.json"))
    return model


def expected_logits(model: Any, tokens: list[int]) -> Any:
    """(tokens, vocabulary) from transformers."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


def converted_logits(directory: Path, weights: Weights, tokens: list[int], context: Any) -> Any:
    """(tokens, vocabulary) from the converted model in `directory`."""
    checkpoint = open_checkpoint(directory, context=context)
    model = with_all_logits(build_graph(checkpoint, weights).proto)
    shape = checkpoint.architecture
    empty = np.zeros((1, shape.kv_heads, 0, shape.head_size), np.float32)
    [found] = create_session(model.SerializeToString()).run(
        ["logits"],
        {
            "input_ids": np.array([tokens]),
            "attention_mask": np.ones((1, len(tokens)), np.int64),
            **dict.fromkeys(cache_names(shape.layers)[0], empty),
        },
    )
    return found[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    model = saved(family, tmp_path)
    # Longrope takes its long factors for texts beyond the original length, and we for contexts.
    context = 64 if family == "phi3-short" else None
    count = 150 if context is None else 60
    tokens = np.random.default_rng(1).integers(3, 265, count).tolist()
    expected = expected_logits(model, tokens)
    spread = expected.std()
    actual = converted_logits(tmp_path, "fp32", tokens, context)
    assert np.abs(actual - expected).max() < 2e-4 * spread
    # The check is sharp: the same text one token further off is far away.
    assert np.abs(actual[1:] - expected[:-1]).max() > 0.1 * spread


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_logits_stay_near_those_of_transformers(family: str, tmp_path: Path) -> None:
    model = saved(family, tmp_path)
    context = 64 if family == "phi3-short" else None
    count = 150 if context is None else 60
    tokens = np.random.default_rng(1).integers(3, 265, count).tolist()
    expected = expected_logits(model, tokens)
    actual = converted_logits(tmp_path, "int8", tokens, context)
    error, shift = actual - expected, actual[1:] - expected[:-1]
    # Measured: 0.02 to 0.07 of the spread; one token further off it is 0.5 to 1.4.
    assert np.sqrt(np.mean(error**2)) < 0.1 * expected.std()
    assert np.sqrt(np.mean(shift**2)) > 0.4 * expected.std()


@pytest.mark.parametrize(
    "family", ["llama", "mistral-window", "qwen2", "phi3-long", "starcoder2-window"]
)
def test_greedy_answers_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    import torch

    model = saved(family, tmp_path / "source")
    bundle = convert(tmp_path / "source", tmp_path / "bundle", weights="fp32")
    prompt = np.random.default_rng(2).integers(3, 265, 70).tolist()
    with torch.no_grad():
        found = model.generate(
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=None
        )
    expected = found[0, len(prompt) :].tolist()
    request = GenerateRequest(prompt_tokens=tuple(prompt), sampling=Sampling(max_tokens=24))
    with Generator(open_text_model(bundle)) as generator:
        [answer] = generator.generate([request])
    assert isinstance(answer, GenerateResult), answer
    ends = [i for i, token in enumerate(expected) if token == 2]
    assert list(answer.tokens) == expected[: ends[0] + 1 if ends else None]


def test_bfloat16_weights_are_read_to_the_bit(tmp_path: Path) -> None:
    import torch

    model = saved("llama", tmp_path).to(torch.bfloat16)
    model.save_pretrained(tmp_path, safe_serialization=True)
    name = "model.layers.1.mlp.down_proj.weight"
    expected = model.state_dict()[name].float().numpy()
    assert np.array_equal(open_checkpoint(tmp_path).floats(name), expected)
