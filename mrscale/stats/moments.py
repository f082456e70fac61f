"""Count, mean and centred cross-product of columns: the sufficient statistics of everything linear.

Legend: N people, K columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
T = TypeVar("T")
_ROUNDING = 1e-13
"""Spread, relative to the mean, that rounding alone gives a column of one value."""
_NEAR = 1e-9
"""Distance of a row from a column's mean, relative to it, far above what rounding makes."""


@dataclass(frozen=True, eq=False)
class Moments:
    """A commutative monoid: ``from_block``, ``combine`` and ``empty``.

    Attributes
    ----------
    count : int
        Number of people N.
    mean : ndarray, shape (K,), float64
        Column means, weighted if people are (zero where N is zero).
    cross : ndarray, shape (K, K), float64
        Centred cross-product ``sum_i w_i (x_i - mean)(x_i - mean)'``.
    weight : float
        Sum of the weights w; N without weights, the default.

    Notes
    -----
    ``combine`` is the pairwise update of Chan, Golub and LeVeque (1983): with
    ``delta = mean_b - mean_a``, ``cross = cross_a + cross_b + delta delta' w_a w_b / w``.
    """

    count: int
    mean: Floats
    cross: Floats
    weight: float = math.nan

    def __post_init__(self) -> None:
        if math.isnan(self.weight):
            object.__setattr__(self, "weight", float(self.count))

    @classmethod
    def empty(cls, num_columns: int) -> Moments:
        """The identity of ``combine``."""
        return cls(0, np.zeros(num_columns), np.zeros((num_columns, num_columns)))

    @classmethod
    def from_block(cls, block: ArrayLike, weights: Floats | None = None) -> Moments:
        """Moments of the rows of an array of shape (N, K), accumulated in float64.

        ``weights`` of shape (N,), positive, count each person that many times.
        """
        rows = np.asarray(block, dtype=np.float64)
        if not len(rows):
            return cls.empty(rows.shape[1])
        mean, centred = centre(rows, weights)
        if weights is None:
            return cls(len(rows), mean, centred.T @ centred)
        centred *= np.sqrt(weights)[:, None]
        return cls(len(rows), mean, centred.T @ centred, float(weights.sum()))

    def combine(self, other: Moments) -> Moments:
        """Moments of the rows of both."""
        if self.count == 0:
            return other
        if other.count == 0:
            return self
        weight = self.weight + other.weight
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.weight / weight)
        between = np.outer(delta, delta) * (self.weight * other.weight / weight)
        cross = self.cross + other.cross + between
        return Moments(self.count + other.count, mean, cross, weight)

    def select(self, columns: NDArray[np.intp] | Sequence[int]) -> Moments:
        """Moments of some of the columns."""
        index = np.asarray(columns, dtype=np.intp)
        cross = self.cross[np.ix_(index, index)]
        return Moments(self.count, self.mean[index], cross, self.weight)

    def transform(self, matrix: Floats, origin: Floats | float = 0.0) -> Moments:
        """Moments of ``(x - origin) @ matrix`` for ``matrix`` of shape (K, J)."""
        mean = (self.mean - origin) @ matrix
        return Moments(self.count, mean, matrix.T @ self.cross @ matrix, self.weight)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Which columns hold one value, up to the rounding of their mean, shape (K,)."""
        rounding = self.weight * (_ROUNDING * self.mean) ** 2
        return np.asarray(np.diag(self.cross) <= rounding)

    @property
    def about_zero(self) -> Floats:
        """Cross-product that is not centred, shape (K, K)."""
        return self.cross + self.weight * np.outer(self.mean, self.mean)

    @property
    def covariance(self) -> Floats:
        """Sample covariance, shape (K, K), with divisor N - 1."""
        return self.cross / max(self.count - 1, 1)


def centre(rows: Floats, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """Column means of one row or more, and what they leave of the rows.

    A column of one value has that mean and leaves zeros, though the sum of many equal numbers, over
    their number, is another one: such columns are taken from the first row onwards.
    """
    mean = _mean(rows, weights)
    left = rows - mean
    near = np.abs(left[0]) < _NEAR * np.abs(mean)
    if near.any():
        rest = rows[:, near] - rows[0, near]
        offset = _mean(rest, weights)
        mean[near], left[:, near] = rows[0, near] + offset, rest - offset
    return mean, left


def _mean(rows: Floats, weights: Floats | None) -> Floats:
    return np.asarray(rows.mean(axis=0) if weights is None else weights @ rows / weights.sum())


def tree_combine(parts: Sequence[T], combine: Callable[[T, T], T]) -> T:
    """Combine neighbours, then neighbours of those, and so on: one fixed tree for a given length.

    Floating-point addition is not associative; a tree that depends on nothing but the number of
    parts gives the same bits for any number of workers.
    """
    level = list(parts)
    while len(level) > 1:
        pairs = [combine(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def combine_keyed(a: dict[T, Moments], b: dict[T, Moments]) -> dict[T, Moments]:
    """Combine two groupings of moments key by key (a key absent on one side is empty there)."""
    keys = [*a, *(key for key in b if key not in a)]
    return {
        key: a[key].combine(b[key]) if key in a and key in b else a.get(key, b.get(key))  # type: ignore[misc]
        for key in keys
    }


def pool(parts: Sequence[Moments]) -> Moments:
    """Moments of the rows of all parts, by the fixed tree."""
    return tree_combine(parts, Moments.combine)
