"""Fine-tuning of the encoder, at a small size."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from interlock.detect.rules import load_pack
from interlock.detect.training.corpus import Text, cut_all

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from interlock.detect.training.encoder import Plan, Scorer, Tokens, embed, train  # noqa: E402
from interlock.detect.training.graph import Parts, build  # noqa: E402
from interlock.detect.training.minilm import MiniLM  # noqa: E402
from interlock.engines.onnx import OnnxSession  # noqa: E402

TEXTS = [Text(f"open the vault {n}", 1, "x") for n in range(40)] + [
    Text(f"cook the soup {n}", 0, "x") for n in range(40)
]
SHARES = {"x:1": 1.0, "x:0": 1.0}
PLAN = Plan(visits=400, batch=512, rate=1e-3, frozen=4)


class Words:
    """A tokenizer with a token a word."""

    def encode_batch(self, texts: list[str]) -> list[Any]:
        return [
            SimpleNamespace(ids=[1, *(3 + sum(map(ord, word)) % 200 for word in text.split()), 2])
            for text in texts
        ]


CUTS = list(cut_all(TEXTS, load_pack()))


def scorer() -> Scorer:
    torch.manual_seed(0)
    return Scorer(MiniLM(vocabulary=256, positions=32))


def logits(trained: Scorer) -> Any:
    tokens = Tokens(CUTS, Words(), 32)
    rows = [row for at in range(len(CUTS)) for row in tokens.of(at)]
    with torch.inference_mode():
        return trained.heads(torch.from_numpy(embed(trained, rows)), torch.zeros(len(rows)))[0]


def test_it_learns_to_tell_attacks() -> None:
    trained = train(scorer(), CUTS, Tokens(CUTS, Words(), 32), SHARES, PLAN)
    found = logits(trained)
    assert found[:40].min() > found[40:].max()


def test_it_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    class Stop(Exception):
        """Ends a run on the way."""

    at = tmp_path / "checkpoint"
    plan = Plan(visits=6000, batch=256, rate=1e-3, frozen=5)

    def stop(step: int, steps: int, loss: float) -> None:
        if step >= 120:
            raise Stop

    with pytest.raises(Stop):
        train(scorer(), CUTS, Tokens(CUTS, Words(), 32), SHARES, plan, checkpoint=at, report=stop)
    seen: list[int] = []
    train(
        scorer(),
        CUTS,
        Tokens(CUTS, Words(), 32),
        SHARES,
        plan,
        checkpoint=at,
        report=lambda step, steps, loss: seen.append(step),
    )
    assert min(seen) >= 100


def test_the_graph_computes_what_torch_does() -> None:
    model = scorer().eval()
    draw = np.random.default_rng(0)
    parts = Parts(
        {name: value.detach().numpy() for name, value in model.encoder.state_dict().items()},
        model.attack.weight.detach().numpy(),
        model.attack.bias.detach().numpy(),
        model.family.weight.detach().numpy(),
        model.family.bias.detach().numpy(),
        np.zeros(64, np.float32),
        np.ones(64, np.float32),
        0.0,
        np.zeros(3, np.float32),
        0.0,
        np.array([1.0, 0.0, 0.0], np.float32),
        0.0,
    )
    ids = draw.integers(3, 256, (4, 9))
    mask = np.ones_like(ids)
    mask[1, 5:] = 0
    place = np.array([[0.0], [1.0], [0.5], [0.0]], np.float32)
    found = OnnxSession(build(parts, int8=False).SerializeToString()).run(
        {
            "input_ids": ids,
            "attention_mask": mask,
            "ngrams": np.zeros((4, 1), np.int64),
            "rules": np.zeros((4, 3), np.float32),
            "document": place,
        }
    )
    with torch.inference_mode():
        embedding = model.encoder(torch.from_numpy(ids), torch.from_numpy(mask))
        logit, family = model.heads(embedding, torch.from_numpy(place[:, 0]))
    assert np.abs(found["embedding"] - embedding.numpy()).max() < 1e-4
    assert np.abs(found["logit"] - logit.numpy()).max() < 1e-3
    assert np.abs(found["families"] - torch.sigmoid(family).numpy()).max() < 1e-3
