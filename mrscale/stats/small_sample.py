"""How errors and p-values allow for a sample that is small.

Legend: N people, K parameters, G clusters.
"""

from __future__ import annotations

import math
from typing import Literal

SmallSample = bool | Literal["n-k"]
"""Whether to allow for it; ``"n-k"`` with N - K degrees of freedom for clusters too."""


def reference_dof(
    count: int, parameters: int, clusters: int | None, small_sample: SmallSample
) -> float:
    """Degrees of freedom of t, infinite without ``small_sample``."""
    if not small_sample:
        return math.inf
    if clusters is None or small_sample == "n-k":
        return count - parameters
    return clusters - 1


def small_sample_scale(count: int, parameters: int, clusters: int | None) -> float:
    """``N / (N - K)``, and for G clusters ``(N - 1) / (N - K) G / (G - 1)``."""
    if clusters is None:
        return count / (count - parameters)
    return (count - 1) / (count - parameters) * clusters / (clusters - 1)
