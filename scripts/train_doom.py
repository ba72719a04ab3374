"""Train `models/doom`, a network that plays `doom_game` like its oracle, and write its directory.

    python scripts/train_doom.py [--output DIR]

Needs the extra `train`. The same machine and torch release give the same weights; elsewhere the
last bits of the sums differ, and the model's digest with them.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cnn
import model_files
import numpy as np
import numpy.typing as npt
from doom_game import Action, Frames, Game

from interlock.engines.onnx import OnnxSession

NETWORK = cnn.Network(
    "doom",
    (4, 28, 28),
    (
        cnn.Conv(16, 3, padding=1),
        cnn.Conv(32, 3, stride=2, padding=1),
        cnn.Conv(32, 3, stride=2, padding=1),
        cnn.Dense(256),
        cnn.Dense(len(Action)),
    ),
)
FIT = cnn.Fit(seed=11, epochs=8, batch=128, learning_rate=1.5e-3, weight_decay=1e-2)
EPISODES, STEPS = 300, 100
# Episodes are told apart by their seeds: no seed below is used twice.
TRAIN_SEED, TEST_SEED, PLAY_SEED = 0, 100_000, 200_000
TEST_EPISODES, PLAYED, EXAMPLES = 40, 100, 200
STRAY = 0.25
"""Share of the steps that a recorded player takes at random, so that odd situations are seen."""

CARD = """# doom

Plays a small game of our own: a turret below a drone that drops bombs (`scripts/doom_game.py`).
{parameters:,} parameters, input `input` (1, 4, 28, 28) float32 in 0 … 1: four frames, oldest first;
output `logits` (1, 7) float32, one for each action. It has the shapes of the network whose name it
bears, and nothing else of it: no data, weights or code of that game.

| | |
| --- | --- |
| actions | {actions} |
| layers | conv 4→16, 16→32 stride 2, 32→32 stride 2, all 3×3 with ReLU; dense 1568→256→7 |
| data | {train:,} situations from {episodes} episodes, labelled by an oracle that knows the state |
| training | `make train-doom`: behaviour cloning |
| agreement with the oracle | {agreement}, in situations of other episodes |
| {played} other episodes of {steps} steps, mean score | {scores} |
| licence | weights and files: that of this repository |
| sha256 | `{digest}` |

The score counts +1 for a hit of the drone and -1 for a bomb that hits the turret. `examples.npz`
holds {examples} situations of the other episodes (`input`, `label`); `input.json` is the first.

Limits: situations of one episode resemble each other, so the interval of the agreement is too
narrow by an unknown factor. The oracle is a rule of thumb, not the best player. The model exists to
be proved, not to play.
"""


def record(seeds: range) -> tuple[Frames, npt.NDArray[np.int64]]:
    """Situations (n, 4, 28, 28) of one episode a seed, and what the oracle does (n,)."""
    inputs, labels = [], []
    for seed in seeds:
        game, rng = Game(seed), np.random.default_rng([seed, 1])
        for _ in range(STEPS):
            inputs.append(game.frames())
            labels.append(game.oracle())
            stray = rng.random() < STRAY
            game.step(int(rng.integers(len(Action))) if stray else labels[-1])
    return np.stack(inputs), np.array(labels, dtype=np.int64)


def scores(play: Callable[[Game], int], seeds: range) -> str:
    """The mean score of a player over one episode a seed, with its 95% interval."""
    found = []
    for seed in seeds:
        game = Game(seed)
        found.append(sum(game.step(play(game)) for _ in range(STEPS)))
    half = 1.96 * float(np.std(found, ddof=1)) / len(found) ** 0.5
    return f"{np.mean(found):.2f} ± {half:.2f}"


def main() -> None:
    """Record, train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=model_files.MODELS / "doom")
    arguments = parser.parse_args()

    inputs, labels = record(range(TRAIN_SEED, TRAIN_SEED + EPISODES))
    print("actions", np.bincount(labels, minlength=len(Action)))
    trained = cnn.train(NETWORK, inputs, labels, FIT, None)
    model = cnn.to_onnx(NETWORK, trained)
    assert cnn.parameters(model) == 417_943
    seen, right = record(range(TEST_SEED, TEST_SEED + TEST_EPISODES))
    found = cnn.logits(model, seen)
    hits = int((found.argmax(1) == right).sum())

    session, rng = OnnxSession(model), np.random.default_rng(PLAY_SEED)

    def network(game: Game) -> int:
        return int(session.run({"input": game.frames()[None]})["logits"].argmax())

    players: dict[str, Callable[[Game], Any]] = {
        "network": network,
        "oracle": lambda game: game.oracle(),
        "at random": lambda game: int(rng.integers(len(Action))),
    }
    episodes = range(PLAY_SEED, PLAY_SEED + PLAYED)
    played = ", ".join(f"{name} {scores(play, episodes)}" for name, play in players.items())
    card = CARD.format(
        parameters=cnn.parameters(model),
        actions=", ".join(f"{int(action)} {action.name.lower()}" for action in Action),
        train=len(inputs),
        episodes=EPISODES,
        agreement=model_files.share(hits, len(seen)),
        played=PLAYED,
        steps=STEPS,
        scores=played,
        examples=EXAMPLES,
        digest=hashlib.sha256(model).hexdigest(),
    )
    chosen = np.random.default_rng(TEST_SEED).permutation(len(seen))[:EXAMPLES]
    model_files.write(arguments.output, model, seen[chosen], right[chosen], card)
    print(f"{arguments.output}: agreement {model_files.share(hits, len(seen))}; {played}")
    print(f"largest logit {np.abs(found).max():.2f}")


if __name__ == "__main__":
    main()
