"""The game behind `models/doom`: the same by seed, and the oracle plays it well."""

from __future__ import annotations

import numpy as np
import pytest
from doom_game import FRAMES, SIDE, Action, Bomb, Game, Shot


def play(seed: int, steps: int = 60) -> tuple[list[bytes], list[int], float]:
    game, frames, actions, score = Game(seed), [], [], 0.0
    for _ in range(steps):
        frames.append(game.frames().tobytes())
        actions.append(int(game.oracle()))
        score += game.step(actions[-1])
    return frames, actions, score


def test_a_seed_is_an_episode() -> None:
    assert play(3) == play(3)
    assert play(3) != play(4)


def test_frames_are_what_the_network_takes() -> None:
    game = Game(0)
    for _ in range(50):
        frames = game.frames()
        assert frames.shape == (FRAMES, SIDE, SIDE)
        assert frames.dtype == np.float32
        assert frames.min() >= 0
        assert frames.max() <= 1
        older = frames[1:].copy()
        game.step(game.oracle())
        assert np.array_equal(game.frames()[:-1], older)


def test_the_oracle_uses_every_action_and_beats_chance() -> None:
    actions: set[int] = set()
    oracle = chance = 0.0
    rng = np.random.default_rng(0)
    for seed in range(20):
        _, taken, score = play(seed)
        actions |= set(taken)
        oracle += score
        game = Game(seed)
        chance += sum(game.step(int(rng.integers(len(Action)))) for _ in range(60))
    assert actions == set(map(int, Action))
    assert oracle > chance + 20


def still(seed: int = 0) -> Game:
    """A game whose drone is out of sight, with nothing in the air."""
    game = Game(seed)
    game.turret, game.hidden, game.bombs, game.shots = 14, 9, [], []
    return game


@pytest.mark.parametrize(
    ("bomb", "action"),
    [
        (Bomb(14, 23, 2), Action.SHIELD),
        (Bomb(15, 19, 2), Action.LEFT),
        (Bomb(13, 19, 2), Action.RIGHT),
        (Bomb(20, 23, 2), Action.WAIT),
        (Bomb(14, 5, 1), Action.WAIT),
    ],
)
def test_the_oracle_minds_bombs(bomb: Bomb, action: Action) -> None:
    game = still()
    game.bombs = [bomb]
    assert game.oracle() is action


def test_a_shield_holds_off_a_bomb() -> None:
    for action, reward in ((Action.SHIELD, 0.0), (Action.WAIT, -1.0)):
        game = still()
        game.bombs = [Bomb(14, 23, 2)]
        assert game.step(action) == reward


def test_a_shot_that_arrives_at_the_drone_hits() -> None:
    game = Game(1)
    game.bombs, game.shots, game.hidden = [], [], 0
    game.drone, game.speed, game.height = 10, 1, 4
    game.shots = [Shot(11, 1), Shot(20, 1)]
    assert game.step(Action.WAIT) == 1
    assert game.hidden > 0


def test_the_aim_leads_the_drone_and_minds_the_walls() -> None:
    game = Game(1)
    game.drone, game.speed, game.height = 24, 2, 6
    assert game.flight() == 5
    # 26, then back: 24, 22, 20, 18.
    assert game.aim() == 18
