"""Confidence sets that may be a union of intervals, unbounded or empty."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from mrscale.stats.moments import Floats

Intervals = tuple[tuple[float, float], ...]
EVERYTHING: Intervals = ((-math.inf, math.inf),)


@dataclass(frozen=True)
class ConfidenceSet:
    """All values of one coefficient that a test does not reject.

    Attributes
    ----------
    intervals : tuple of (float, float)
        Disjoint closed intervals in increasing order. ``()`` is the empty set: no value agrees
        with the data. Infinite ends mean unbounded: the data do not exclude any large effect.
    level : float
        Coverage.
    method : str
        Name of the test.
    reason : str
        Why the set is not what was asked for, or empty.
    """

    intervals: Intervals
    level: float
    method: str
    reason: str = ""

    @classmethod
    def not_applicable(cls, method: str, level: float, reason: str) -> ConfidenceSet:
        """The whole line, which covers whatever the data: the test cannot be made."""
        return cls(EVERYTHING, level, method, reason)

    def __contains__(self, value: float) -> bool:
        return any(low <= value <= high for low, high in self.intervals)

    @property
    def is_empty(self) -> bool:
        """Whether every value is rejected: the model does not fit the data."""
        return not self.intervals

    @property
    def is_bounded(self) -> bool:
        """Whether both ends are finite; the empty set is bounded."""
        return all(math.isfinite(end) for interval in self.intervals for end in interval)

    def __str__(self) -> str:
        return " u ".join(_written(low, high) for low, high in self.intervals) or "empty"


def _written(low: float, high: float) -> str:
    left = "(-inf" if math.isinf(low) else f"[{low:.4g}"
    return left + ", " + ("inf)" if math.isinf(high) else f"{high:.4g}]")


def where_quadratic_nonpositive(a2: float, a1: float, a0: float) -> Intervals:
    """All b with ``a2 b^2 + a1 b + a0 <= 0``, as intervals in increasing order."""
    discriminant = a1**2 - 4 * a2 * a0
    if discriminant < 0 or a1 == a2 == 0:
        return () if max(a2, a0) > 0 else EVERYTHING
    # the root that does not cancel, and the other from the product of both
    half = -(a1 + math.copysign(math.sqrt(discriminant), a1)) / 2
    if a2 == 0:
        end = -a0 / a1
        return ((-math.inf, end),) if a1 > 0 else ((end, math.inf),)
    roots = [half / a2, a0 / half] if half else [0.0, 0.0]
    low, high = sorted(roots)
    return ((low, high),) if a2 > 0 else ((-math.inf, low), (high, math.inf))


@dataclass(frozen=True)
class ProjectiveLine:
    """The real line closed at infinity, as angles of period pi: ``b = centre + scale tan(angle)``.

    A search over angles reaches unbounded sets, and a scale of about a standard error makes
    sets of any size equally easy to find.
    """

    centre: float
    scale: float

    def weights(self, angle: float) -> Floats:
        """Weights of [x | y] in ``y - x b``, times the cosine, shape (2,)."""
        cosine, sine = math.cos(angle), math.sin(angle)
        return np.array([-self.centre * cosine - self.scale * sine, cosine])

    def where_nonpositive(self, function: Callable[[float], float], angles: Floats) -> Intervals:
        """All b where a continuous function of the angle is not positive.

        Parameters
        ----------
        function : callable
            Of period pi.
        angles : ndarray, shape (K,)
            Increasing, spanning less than pi, so close that between neighbours the function
            crosses zero at most once. Crossings are then refined to machine precision.
        """
        values = np.array([function(a) for a in angles])
        inside = values <= 0
        edges, following = [], np.append(angles[1:], angles[0] + math.pi)
        for i in np.flatnonzero(inside != np.roll(inside, -1)):
            root = optimize.brentq(function, angles[i], following[i], xtol=1e-14, rtol=1e-14)
            # from -pi/2 up: the tangent then increases from minus to plus infinity
            wrapped = (root + math.pi / 2) % math.pi - math.pi / 2
            edges.append((self.centre + self.scale * math.tan(wrapped), bool(inside[i])))
        if not edges:
            return EVERYTHING if inside[0] else ()
        edges.sort()
        ends = [end for end, _ in edges]
        leaves_first = edges[0][1]
        if leaves_first:
            ends = [-math.inf, *ends, math.inf]
        return tuple(zip(ends[::2], ends[1::2], strict=True))
