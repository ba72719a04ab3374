"""Fine-tuning of the encoder on windows, on a CPU, so that it can stop and go on.

The lower layers keep their weights; what they make of every window is computed once. Windows whose
label is open are learned through the highest of their text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from interlock.detect.features import FAMILIES
from interlock.detect.training.corpus import OPEN, Cut
from interlock.detect.training.minilm import WIDTH, MiniLM

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the encoder is trained.

    frozen     lower layers that keep their weights, the embeddings with them
    tokens     most tokens of a window while training
    batch      most tokens of a batch, padding included
    visits     texts drawn in all, by the weights of their sources
    rate       learning rate of the top layer; each layer below has `decay` of the one above
    smoothing  of labels
    averaged   share of the steps at the end whose weights are averaged
    """

    frozen: int = 2
    tokens: int = 96
    batch: int = 2560
    visits: int = 30_000
    rate: float = 6e-5
    decay: float = 0.8
    head_rate: float = 2e-3
    smoothing: float = 0.03
    averaged: float = 0.3
    seed: int = 0


class Scorer(nn.Module):  # type: ignore[misc]
    """The encoder with its heads."""

    def __init__(self, encoder: MiniLM) -> None:
        super().__init__()
        self.encoder = encoder
        self.attack = nn.Linear(WIDTH, 2)
        self.family = nn.Linear(WIDTH, len(FAMILIES))
        with torch.no_grad():
            self.attack.weight.mul_(4.0)

    def heads(
        self, embedding: torch.Tensor, document: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attack logit (W,) and family logits (W, F)."""
        both = self.attack(embedding)
        logit = both[:, 0] + document * (both[:, 1] - both[:, 0])
        return logit, self.family(embedding)


class Tokens:
    """Token ids of the windows of cut texts, made where they are asked for and kept."""

    def __init__(self, cuts: Sequence[Cut], tokenizer: Any, most: int) -> None:
        """`most` tokens of a window are kept; a cut keeps the last one."""
        self._cuts = cuts
        self._tokenizer = tokenizer
        self._most = most
        self._known: dict[int, list[np.ndarray[Any, Any]]] = {}

    def of(self, index: int) -> list[np.ndarray[Any, Any]]:
        """The ids of each window of the text with this index."""
        found = self._known.get(index)
        if found is None:
            texts = [window.text for window in self._cuts[index].windows]
            found = []
            for encoding in self._tokenizer.encode_batch(texts):
                ids = encoding.ids
                ids = ids if len(ids) <= self._most else [*ids[: self._most - 1], ids[-1]]
                found.append(np.array(ids, dtype=np.int32))
            self._known[index] = found
        return found


def train(
    scorer: Scorer,
    cuts: Sequence[Cut],
    tokens: Tokens,
    weights: Mapping[str, float],
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    report: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Scorer:
    """The trained scorer.

    weights      source -> share of the visits; a source that is not named is left out
    checkpoint   a file that is written every 100 steps, and gone on from where it exists
    report       is called with the step, the steps in all and a mean loss
    """
    torch.manual_seed(plan.seed)
    batches = _batches(cuts, tokens, weights, plan)
    groups = _parameters(scorer, plan)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    bases = [group["lr"] for group in optimizer.param_groups]
    mean: dict[str, torch.Tensor] = {}
    averaged = 0
    begin = 0
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        scorer.load_state_dict(state["scorer"])
        optimizer.load_state_dict(state["optimizer"])
        mean, averaged, begin = state["mean"], state["averaged"], state["step"]
    warm = max(1, len(batches) // 16)
    running = 0.0
    scorer.train()
    for step in range(begin, len(batches)):
        share = min(1.0, (step + 1) / warm) * max(0.05, 1.0 - step / len(batches))
        for group, base in zip(optimizer.param_groups, bases, strict=True):
            group["lr"] = base * share
        loss = _loss(scorer, cuts, tokens, batches[step], plan)
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        now = float(loss.detach())
        running = 0.98 * running + 0.02 * now if step > begin else now
        if step >= len(batches) * (1 - plan.averaged) and step % 5 == 0:
            averaged += 1
            with torch.no_grad():
                for name, value in scorer.named_parameters():
                    if value.requires_grad:
                        old = mean.get(name)
                        mean[name] = (
                            value.detach().clone()
                            if old is None
                            else old + (value.detach() - old) / averaged
                        )
        if step % 20 == 0:
            report(step, len(batches), running)
        if checkpoint is not None and (step + 1) % 100 == 0:
            state = {
                "scorer": scorer.state_dict(),
                "optimizer": optimizer.state_dict(),
                "mean": mean,
                "averaged": averaged,
                "step": step + 1,
            }
            partial = checkpoint.with_suffix(".partial")
            torch.save(state, partial)
            partial.replace(checkpoint)
    if mean:
        with torch.no_grad():
            for name, value in scorer.named_parameters():
                if name in mean:
                    value.copy_(mean[name])
    scorer.eval()
    return scorer


def embed(scorer: Scorer, rows: Sequence[np.ndarray[Any, Any]], batch: int = 2048) -> Floats:
    """(W, 384) float32, of length 1, from the ids of windows."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    out = np.zeros((len(rows), WIDTH), dtype=np.float32)
    scorer.eval()
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and (stop - start + 1) * len(rows[order[stop]]) <= batch:
            stop += 1
        stop = max(stop, start + 1)
        chosen = order[start:stop]
        ids, mask = _padded([rows[index] for index in chosen])
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            out[chosen] = scorer.encoder(ids, mask).float().numpy()
        start = stop
    return out


def _padded(rows: Sequence[np.ndarray[Any, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(row) for row in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


Visit = tuple[int, tuple[int, ...]]
"""A text's index and which of its windows are looked at."""


def _batches(
    cuts: Sequence[Cut], tokens: Tokens, weights: Mapping[str, float], plan: Plan
) -> list[list[Visit]]:
    """Texts drawn by their sources' weights, those of like length together, in mixed order."""
    rng = random.Random(f"batches {plan.seed}")
    pools: dict[str, list[int]] = {}
    for index, item in enumerate(cuts):
        key = f"{item.text.source}:{item.text.label}"
        if weights.get(key, 0.0) > 0:
            pools.setdefault(key, []).append(index)
    total = sum(weights[key] for key in pools)
    drawn: list[int] = []
    for key, pool in pools.items():
        wanted = round(plan.visits * weights[key] / total)
        while wanted > 0:
            rng.shuffle(pool)
            drawn += pool[:wanted]
            wanted -= len(pool)
    visits = [(index, _chosen(cuts[index], rng)) for index in drawn]
    rng.shuffle(visits)
    found: list[list[Visit]] = []
    for start in range(0, len(visits), 2000):
        part = sorted(
            visits[start : start + 2000],
            key=lambda visit: max(len(tokens.of(visit[0])[w]) for w in visit[1]),
        )
        batch: list[Visit] = []
        rows = width = 0
        for visit in part:
            longest = max(len(tokens.of(visit[0])[w]) for w in visit[1])
            if batch and ((rows + len(visit[1])) * max(width, longest) > plan.batch or rows >= 96):
                found.append(batch)
                batch, rows, width = [], 0, 0
            batch.append(visit)
            rows += len(visit[1])
            width = max(width, longest)
        found.append(batch)
    rng.shuffle(found)
    return found


def _chosen(item: Cut, rng: random.Random) -> tuple[int, ...]:
    """Which windows of a text a visit looks at."""
    count = len(item.windows)
    if item.text.label == 0:
        return tuple(rng.sample(range(count), min(2, count)))
    known = [index for index in range(count) if item.labels[index] == 1]
    if known:
        others = [index for index in range(count) if item.labels[index] == 0]
        return (*known[:2], *rng.sample(others, min(1, len(others))))
    suspicion = item.rules.sum(1)
    order = sorted(range(count), key=lambda index: (-suspicion[index], rng.random()))
    return tuple(order[:4])


def _loss(
    scorer: Scorer, cuts: Sequence[Cut], tokens: Tokens, batch: list[Visit], plan: Plan
) -> torch.Tensor:
    rows: list[np.ndarray[Any, Any]] = []
    labels: list[int] = []
    documents: list[float] = []
    weights: list[float] = []
    owner: list[int] = []
    families: list[np.ndarray[Any, Any]] = []
    for number, (index, chosen) in enumerate(batch):
        item = cuts[index]
        for window in chosen:
            rows.append(tokens.of(index)[window])
            labels.append(int(item.labels[window]))
            documents.append(item.document)
            weights.append(_weight(item, window) / len(chosen) ** 0.5)
            owner.append(number)
            known = item.labels[window] != OPEN
            families.append(item.family if known else np.full_like(item.family, OPEN))
    ids, mask = _padded(rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding = scorer.encoder(ids, mask)
    logit, family = scorer.heads(embedding.float(), torch.tensor(documents))
    target = torch.tensor(labels, dtype=torch.float32)
    weight = torch.tensor(weights)
    group = torch.tensor(owner)
    known = target >= 0
    smooth = target.clamp(min=0) * (1 - 2 * plan.smoothing) + plan.smoothing
    each = nn.functional.binary_cross_entropy_with_logits(logit, smooth, reduction="none")
    total = (each * weight)[known].sum()
    count = weight[known].sum()
    opened = [number for number, (index, _) in enumerate(batch) if _open(cuts[index])]
    if opened:
        tops = torch.stack([torch.logsumexp(logit[group == number], 0) for number in opened])
        wanted = torch.full_like(tops, 1 - plan.smoothing)
        loss = nn.functional.binary_cross_entropy_with_logits(tops, wanted, reduction="sum")
        total, count = total + loss, count + len(opened)
    wanted = torch.from_numpy(np.stack(families)).float()
    seen = wanted >= 0
    extra = nn.functional.binary_cross_entropy_with_logits(
        family, wanted.clamp(min=0), reduction="none"
    )
    return total / count + 0.3 * (extra * seen).sum() / seen.sum().clamp(min=1)


def _open(item: Cut) -> bool:
    return item.text.label == 1 and not (item.labels == 1).any()


# Their attacks are attacks only because they stand in a document.
IN_DOCUMENTS = ("generated stray tasks", "bipia_text", "bipia_indirect")


def _weight(item: Cut, window: int) -> float:
    if item.labels[window] == 1 and item.text.source in IN_DOCUMENTS:
        return item.document
    return 1.0


def _parameters(scorer: Scorer, plan: Plan) -> list[dict[str, Any]]:
    encoder = scorer.encoder
    for parameter in encoder.parameters():
        parameter.requires_grad = False
    groups: list[dict[str, Any]] = []
    layers = list(encoder.layers)
    for depth, layer in enumerate(layers):
        if depth < plan.frozen:
            continue
        for parameter in layer.parameters():
            parameter.requires_grad = True
        rate = plan.rate * plan.decay ** (len(layers) - 1 - depth)
        groups.append({"params": list(layer.parameters()), "lr": rate})
    heads = [*scorer.attack.parameters(), *scorer.family.parameters()]
    groups.append({"params": heads, "lr": plan.head_rate})
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return groups
