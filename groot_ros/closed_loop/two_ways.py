"""A task with two ways to do it: to the next target on either side of what is in between, and on to the next one.

Everything here is in task coordinates [6], about -1..1 each; ``disagreeing`` turns them into joints or into a pose.
The demonstrations are what a person would record: every motion takes one of the two sides, chosen by a coin; a
demonstration that was pushed off its path swings back onto it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groot_ros.control.merging import minimum_jerk

Array = NDArray[np.float64]

DIMS = 6
# Which side the present motion takes and which one the next: the components of the mixture.
SIDES = np.array([(now, then) for now in (-1.0, 1.0) for then in (-1.0, 1.0)])


@dataclass(frozen=True)
class TwoWays:
    """Motions between targets, each of ``move_s``, each by one of two sides.

    Attributes:
        targets: float64 [N, 6], one per motion; the last is followed by the first.
        normals: float64 [N, 6], unit length, across the motion from target n to target n + 1.
        move_s: length of a motion (s).
        bow: how far either side is from the straight line, half-way (task units).
        tube: standard deviation (task units) of the demonstrations around their path, across it; what makes it
            uncertain from the position alone which side a motion has taken.
        jitter: the same along all other directions.
        settle_s: how fast a demonstration is back on its path (s).
        wander: standard deviation (task units) of a demonstration at the end of a chunk, given where it started.
        wander_s: over which time (s) it wanders smoothly.
        white: standard deviation (task units) of each row by itself.
    """

    targets: Array
    normals: Array
    move_s: float = 1.6
    bow: float = 0.3
    tube: float = 0.25
    jitter: float = 0.03
    settle_s: float = 0.15
    wander: float = 0.05
    wander_s: float = 0.4
    white: float = 0.001

    @classmethod
    def drawn(cls, seed: int, count: int = 16) -> TwoWays:
        """``count`` motions from ``seed``."""
        rng = np.random.default_rng(seed)
        targets = rng.uniform(-0.7, 0.7, (count, DIMS))
        along = np.roll(targets, -1, axis=0) - targets
        along /= np.linalg.norm(along, axis=-1, keepdims=True)
        across = rng.standard_normal((count, DIMS))
        across -= np.sum(across * along, axis=-1, keepdims=True) * along
        return cls(targets, across / np.linalg.norm(across, axis=-1, keepdims=True))

    @property
    def round_s(self) -> float:
        """Time (s) of all motions, until the first target comes again."""
        return self.move_s * len(self.targets)

    def path(self, time_s: Array, first: NDArray[np.int64], sides: Array) -> Array:
        """Where a demonstration is that follows its path exactly.

        Args:
            time_s: [...].
            first: int [...], number of the motion in which ``sides[..., 0]`` holds; later ones have ``sides[..., 1]``.
            sides: [..., 2], -1 or 1.

        Returns:
            [..., 6].
        """
        motion = np.floor(np.asarray(time_s) / self.move_s).astype(np.int64)
        side = np.where(motion <= first, sides[..., 0], sides[..., 1])
        straight, across, share = self._straight(time_s, motion)
        return straight + (side * self.bow * np.sin(np.pi * share))[..., None] * across

    def chunks(self, position: Array, time_s: Array, ahead_s: Array) -> Array:
        """Mean of the demonstrations that are at ``position``, for each of the four ways to go on.

        The way back onto the path starts with the path's own velocity: (1 + u) exp(-u) is flat at u = 0.

        Args:
            position: [..., 6].
            time_s: [...].
            ahead_s: [H], times from ``time_s``.

        Returns:
            [..., 4, H, 6], in the order of ``SIDES``.
        """
        now = np.asarray(time_s)[..., None, None]
        first = np.floor(now / self.move_s).astype(np.int64)
        sides = SIDES[:, None, :]
        off = position[..., None, None, :] - self.path(now, first, sides)
        back = ahead_s / self.settle_s
        return self.path(now + ahead_s, first, sides) + ((1 + back) * np.exp(-back))[:, None] * off

    def log_weights(self, position: Array, time_s: Array) -> Array:
        """log P(way | position) up to a constant, [..., 4]: the side that the position is nearer to is the likelier."""
        motion = np.floor(np.asarray(time_s) / self.move_s).astype(np.int64)
        straight, across, share = self._straight(time_s, motion)
        off = np.sum((position - straight) * across, axis=-1)[..., None]
        bow = SIDES[:, 0] * self.bow * np.sin(np.pi * share)[..., None]
        result: Array = -0.5 * ((off - bow) / self.tube) ** 2
        return result

    def wandering(self, ahead_s: Array) -> Array:
        """Covariance [H, H] of one coordinate of a demonstration around its mean.

        A squared-exponential process, given that it was 0 at the start, plus what is white.
        """
        times = np.concatenate([[0.0], ahead_s])
        kernel = np.exp(-0.5 * ((times[:, None] - times) / self.wander_s) ** 2)
        smooth = kernel[1:, 1:] - kernel[1:, :1] * kernel[:1, 1:]
        return self.wander**2 * smooth / smooth[-1, -1] + self.white**2 * np.eye(len(ahead_s))

    def closed(self, time_s: Array) -> Array:
        """The gripper, 1 closed or 0 open: it changes in the middle of every motion. [...]."""
        return np.floor(np.asarray(time_s) / self.move_s + 0.5) % 2

    def starts(self, rng: np.random.Generator, count: int) -> tuple[Array, Array]:
        """Moments of demonstrations: times (s) [count] and positions [count, 6]."""
        time_s = rng.uniform(0.0, self.round_s, count)
        motion = np.floor(time_s / self.move_s).astype(np.int64)
        side = rng.choice([-1.0, 1.0], count)
        straight, across, share = self._straight(time_s, motion)
        off = self.jitter * rng.standard_normal((count, DIMS))
        off -= np.sum(off * across, axis=-1, keepdims=True) * across
        lateral = side * self.bow * np.sin(np.pi * share) + self.tube * rng.standard_normal(count)
        return time_s, straight + off + lateral[:, None] * across

    def _straight(self, time_s: Array, motion: NDArray[np.int64]) -> tuple[Array, Array, Array]:
        """Point on the straight line [..., 6], direction across it [..., 6], share of the way [...] (minimum jerk)."""
        phase = np.asarray(time_s) / self.move_s - motion
        share = minimum_jerk(phase)[0]
        count = len(self.targets)
        here, there = self.targets[motion % count], self.targets[(motion + 1) % count]
        return here + share[..., None] * (there - here), self.normals[motion % count], share
