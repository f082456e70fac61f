"""Distinct patterns of missingness of pairs of an exposure and an outcome.

A pair uses the people who have both traits. Pairs that use the same people share everything but
the traits themselves; they carry the same label, an integer from 0 in an array of shape (P, Q).

Legend: N people, P exposures, Q outcomes, S patterns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]


def pattern_labels(has_exposure: Mask, has_outcome: Mask) -> Labels:
    """Labels of pairs by which people of a block they use.

    Parameters
    ----------
    has_exposure : ndarray of bool, shape (N, P)
    has_outcome : ndarray of bool, shape (N, Q)

    Returns
    -------
    ndarray of int, shape (P, Q)
    """
    if has_exposure.all() and has_outcome.all():
        return np.zeros((has_exposure.shape[1], has_outcome.shape[1]), dtype=np.int64)
    x, x_group = _distinct(np.packbits(has_exposure, axis=0).T)
    y, y_group = _distinct(np.packbits(has_outcome, axis=0).T)
    both = (x[:, None] & y).reshape(len(x) * len(y), -1)
    _, label = _distinct(both)
    return label.reshape(len(x), len(y))[np.ix_(x_group, y_group)]


def refine(a: Labels, b: Labels) -> tuple[Labels, list[tuple[int, int]]]:
    """Labels of pairs that agree in both of two labellings, and the two labels of each."""
    width = int(b.max()) + 1
    found, inverse = np.unique(a * width + b, return_inverse=True)
    return inverse.reshape(a.shape), [divmod(int(one), width) for one in found]


def members(labels: Labels) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Of each label, the exposures and the outcomes that occur with it, in order."""
    if not labels.max():
        return [(np.arange(labels.shape[0]), np.arange(labels.shape[1]))]
    order = np.argsort(labels, axis=None, kind="stable")
    ends = np.cumsum(np.bincount(labels.ravel()))[:-1]
    pairs = [np.unravel_index(part, labels.shape) for part in np.split(order, ends)]
    return [(np.unique(p), np.unique(q)) for p, q in pairs]


def first_pairs(labels: Labels) -> list[tuple[int, int]]:
    """One pair (exposure, outcome) of each label: the people it uses are those of the pattern."""
    _, first = np.unique(labels, return_index=True)
    p, q = np.unravel_index(first, labels.shape)
    return list(zip(p.tolist(), q.tolist(), strict=True))


def _distinct(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Distinct rows of bytes, and which of them each row is."""
    rows = np.ascontiguousarray(rows)
    keys = rows.view(np.dtype((np.void, rows.shape[1]))).ravel()
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], group.ravel()
