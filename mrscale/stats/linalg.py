"""Roots and ranks of cross-products, with one stated tolerance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from mrscale.stats.moments import Floats

RANK_TOLERANCE = 1e-9
"""Directions with less than this share of the largest standardised variance are dropped."""
_ROUNDING = 1e-12
"""Directions with less than this share are rounding, and none at all."""


def standardised(matrix: Floats) -> tuple[Floats, Floats]:
    """A cross-product scaled to unit diagonal, and the scale, shape (K,); 0 where it is empty."""
    diagonal = np.diag(matrix)
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1)), 0)
    return matrix * np.outer(scale, scale), scale


def whitening(matrix: Floats, tolerance: float = RANK_TOLERANCE) -> tuple[Floats, int]:
    """A root of the pseudo-inverse of a symmetric positive semi-definite matrix, and its rank.

    Returns R of shape (K, rank) with ``R R' = pinv(matrix)``; the matrix is first scaled to unit
    diagonal, so that the tolerance does not depend on units.
    """
    if not len(matrix):
        return np.zeros((0, 0)), 0
    scaled, scale = standardised(matrix)
    values, vectors = linalg.eigh(scaled)
    keep = values > tolerance * max(float(values[-1]), 0.0)
    keep &= values > 0
    root = scale[:, None] * vectors[:, keep] / np.sqrt(values[keep])
    return root, int(keep.sum())


def scaled_inverse(matrix: Floats) -> Floats:
    """Inverse of a symmetric positive definite matrix, whatever the units of its columns are."""
    scaled, scale = standardised(matrix)
    return np.asarray(linalg.inv(scaled) * np.outer(scale, scale))


def independent(matrix: Floats, tolerance: float = RANK_TOLERANCE) -> NDArray[np.intp]:
    """Columns, first come first kept, that are not linear combinations of earlier ones.

    Takes their cross-product, shape (K, K). A column is dropped if the kept ones before it leave
    less than ``tolerance`` of its variance (Cholesky without pivoting).
    """
    scaled, scale = standardised(matrix)
    rest, kept = scaled.copy(), []
    for j in range(len(rest)):
        if scale[j] == 0 or rest[j, j] <= tolerance:
            continue
        kept.append(j)
        rest -= np.outer(rest[:, j], rest[j]) / rest[j, j]
    return np.array(kept, dtype=np.intp)


def condition_number(matrix: Floats) -> float:
    """Of the standardised columns with this cross-product, collinear directions aside.

    The square root of the ratio of the largest to the smallest kept eigenvalue: relative errors
    of estimates from moments are about machine precision times its square.
    """
    if not len(matrix):
        return 1.0
    values = linalg.eigvalsh(standardised(matrix)[0])
    kept = values[values > _ROUNDING * values[-1]]
    return float(np.sqrt(kept[-1] / kept[0])) if len(kept) else 1.0
