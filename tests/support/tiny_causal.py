"""A tiny causal language model with random weights, as a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = (
    *("is", "does", "exist", "answer", "question", "the", "a", "of", "not", "yes", "no", "maybe"),
    *("CVE", "2021", "44228", "why", "who"),
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny_model(
    directory: Path,
    *,
    template: str | None = TEMPLATE,
    eos: str | None = "<|im_end|>",
    context: int = 128,
    bos_added: bool = False,
    safe: bool = True,
) -> Path:
    """Write the model; the same arguments give the same weights.

    eos        what the configuration calls the end; the template ends turns with <|im_end|>
    bos_added  the tokenizer adds <|im_start|> to whatever it is given
    safe       weights as safetensors, else pickled
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"Ġ{word}" for word in WORDS]
    vocabulary = {token: number for number, token in enumerate([*specials, *letters, *words])}
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            vocabulary.setdefault(word[:end], len(vocabulary))
            if (word[: end - 1], word[end - 1]) not in merges:
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    if bos_added:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
    fast: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, pad_token="<|endoftext|>"
    )
    fast.chat_template = template
    fast.save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.4,
        eos_token_id=None if eos is None else vocabulary[eos],
        bos_token_id=vocabulary["<|im_start|>"],
        pad_token_id=0,
    )
    model: Any = LlamaForCausalLM(config)
    if safe:
        model.save_pretrained(directory)
    else:
        config.save_pretrained(directory)
        torch.save(model.state_dict(), directory / "pytorch_model.bin")
    return directory
