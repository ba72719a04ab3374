"""The game behind `models/doom`: a turret below a drone that drops bombs. Deterministic by seed.

The field is 28×28, seen from the side. A drone (3×3) flies to and fro and sinks one row now and
then; it is out of sight for a while after a hit. Bombs fall straight down, one or two rows a step.
The turret (3×2) moves along the bottom. A shot goes straight up, and takes a step for every four
rows, so it must be aimed at where the drone will be: that needs the drone's speed, which only
several frames show. A shield holds off a bomb for one step.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

SIDE = 28
FRAMES = 4
TURRET_ROW = SIDE - 2
HIT, LOST = 1.0, -1.0
DRONE, BOMB, TURRET, SHOT = 1.0, 0.6, 0.8, 0.3

Frames = npt.NDArray[np.float32]


class Action(IntEnum):
    """What the turret does in one step."""

    WAIT = 0
    LEFT = 1
    RIGHT = 2
    FIRE = 3
    LEFT_AND_FIRE = 4
    RIGHT_AND_FIRE = 5
    SHIELD = 6


_MOVES = {
    Action.LEFT: -2,
    Action.RIGHT: 2,
    Action.LEFT_AND_FIRE: -1,
    Action.RIGHT_AND_FIRE: 1,
}
_FIRES = {Action.FIRE, Action.LEFT_AND_FIRE, Action.RIGHT_AND_FIRE}


@dataclass
class Bomb:
    """A bomb at (x, y), falling `speed` rows a step."""

    x: int
    y: int
    speed: int


@dataclass
class Shot:
    """A shot at column x that arrives at the drone's row after `steps` more steps."""

    x: int
    steps: int


@dataclass
class Game:
    """One episode. `frames()` is what a player sees, everything else what the oracle knows."""

    seed: int
    turret: int = SIDE // 2
    drone: int = SIDE // 2
    height: int = 2
    speed: int = 1
    hidden: int = 0
    wait: int = 0
    bombs: list[Bomb] = field(default_factory=list)
    shots: list[Shot] = field(default_factory=list)
    seen: deque[Frames] = field(default_factory=lambda: deque(maxlen=FRAMES))

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self.turret = int(self._rng.integers(2, SIDE - 2))
        self._appear()
        for _ in range(FRAMES):
            self._advance()
            self.seen.append(self._draw())

    def frames(self) -> Frames:
        """The last four frames, oldest first: (4, 28, 28) float32 in 0 … 1."""
        return np.stack(self.seen)

    def step(self, action: int) -> float:
        """Carry out an action; returns +1 for each hit of the drone and -1 for each of a bomb."""
        chosen = Action(action)
        reward = 0.0
        self.turret = int(np.clip(self.turret + _MOVES.get(chosen, 0), 1, SIDE - 2))
        if chosen in _FIRES and self.wait == 0:
            self.shots.append(Shot(self.turret, self.flight()))
            self.wait = 3
        self.wait = max(0, self.wait - 1)
        self._advance()
        for bomb in list(self.bombs):
            if bomb.y >= TURRET_ROW - 1:
                self.bombs.remove(bomb)
                if abs(bomb.x - self.turret) <= 1 and chosen is not Action.SHIELD:
                    reward += LOST
        for shot in list(self.shots):
            shot.steps -= 1
            if shot.steps <= 0:
                self.shots.remove(shot)
                if not self.hidden and abs(shot.x - self.drone) <= 1:
                    reward += HIT
                    self.hidden = int(self._rng.integers(4, 10))
                    self.shots.clear()
                    break
        self.seen.append(self._draw())
        return reward

    def flight(self) -> int:
        """Steps that a shot fired now takes to the drone's row."""
        return max(1, (TURRET_ROW - self.height) // 4)

    def aim(self) -> int:
        """The column where the drone will be when a shot fired now arrives."""
        x, speed = self.drone, self.speed
        for _ in range(self.flight()):
            x, speed = _fly(x, speed)
        return x

    def oracle(self) -> Action:
        """What a player who knows the whole state does."""
        for bomb in sorted(self.bombs, key=lambda bomb: (TURRET_ROW - bomb.y) / bomb.speed):
            if abs(bomb.x - self.turret) > 1:
                continue
            arrives = -(-(TURRET_ROW - 1 - bomb.y) // bomb.speed)
            if arrives <= 1:
                return Action.SHIELD
            if arrives <= 3:
                away_left = bomb.x > self.turret or (bomb.x == self.turret and self.turret > 13)
                left = away_left if 3 <= self.turret <= SIDE - 4 else self.turret > 13
                return Action.LEFT if left else Action.RIGHT
        if self.hidden:
            return Action.WAIT
        off = self.aim() - self.turret
        if abs(off) <= 1:
            return Action.FIRE
        if abs(off) <= 3:
            return Action.RIGHT_AND_FIRE if off > 0 else Action.LEFT_AND_FIRE
        return Action.RIGHT if off > 0 else Action.LEFT

    def _advance(self) -> None:
        if self.hidden:
            self.hidden -= 1
            if self.hidden == 0:
                self._appear()
        else:
            self.drone, self.speed = _fly(self.drone, self.speed)
            if self._rng.random() < 0.05:
                self.height = min(self.height + 1, 12)
            if self._rng.random() < 0.12 and len(self.bombs) < 3:
                self.bombs.append(Bomb(self.drone, self.height + 2, int(self._rng.integers(1, 3))))
        for bomb in self.bombs:
            bomb.y += bomb.speed

    def _appear(self) -> None:
        self.drone = int(self._rng.integers(2, SIDE - 2))
        self.height = int(self._rng.integers(2, 9))
        self.speed = int(self._rng.choice([-2, -1, 1, 2]))

    def _draw(self) -> Frames:
        field_ = np.zeros((SIDE, SIDE), dtype=np.float32)
        for shot in self.shots:
            row = min(TURRET_ROW - 1, self.height + 4 * shot.steps)
            field_[row, shot.x] = SHOT
        if not self.hidden:
            field_[self.height - 1 : self.height + 2, self.drone - 1 : self.drone + 2] = DRONE
        for bomb in self.bombs:
            field_[max(0, bomb.y - 1) : min(SIDE, bomb.y + 1), bomb.x] = BOMB
        field_[TURRET_ROW:, self.turret - 1 : self.turret + 2] = TURRET
        return field_


def _fly(x: int, speed: int) -> tuple[int, int]:
    """The drone's next column and speed; it turns round at the walls."""
    after = x + speed
    if not 1 <= after <= SIDE - 2:
        speed = -speed
        after = x + speed
    return after, speed
