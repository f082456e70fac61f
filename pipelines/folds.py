"""Disjoint blocks of people: whole families, balanced inside every environment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assign_folds(
    environment_N: NDArray[np.int64],
    family_N: NDArray[np.int32],
    num_folds: int,
    rng: np.random.Generator,
) -> NDArray[np.int8]:
    """Draw folds so that families stay whole and each environment is spread evenly.

    Families with relatives come first, largest first, each to the fold that is emptiest in the
    family's environments; unrelated people then fill the folds up, so that without families the
    fold sizes inside an environment differ by at most one.

    Parameters
    ----------
    environment_N : ndarray of int, shape (N,)
        Environment codes 0 .. E - 1.
    family_N : ndarray of int32, shape (N,)
        Family codes 0, 1, ...; -1 is alone.
    num_folds : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int8, shape (N,)
        Folds 0 .. num_folds - 1.
    """
    num_environments = int(environment_N.max()) + 1
    fold_N = np.full(len(family_N), -1, dtype=np.int8)
    load_EF = np.zeros((num_environments, num_folds), dtype=np.int64)
    _place_families(environment_N, family_N, fold_N, load_EF, rng)
    for environment in range(num_environments):
        alone = np.flatnonzero((environment_N == environment) & (fold_N < 0))
        quota_F = _even_out(load_EF[environment], len(alone), rng)
        fold_N[rng.permutation(alone)] = np.repeat(np.arange(num_folds, dtype=np.int8), quota_F)
    return fold_N


def _place_families(
    environment_N: NDArray[np.int64],
    family_N: NDArray[np.int32],
    fold_N: NDArray[np.int8],
    load_EF: NDArray[np.int64],
    rng: np.random.Generator,
) -> None:
    """Fill ``fold_N`` for everyone with relatives, and count them in ``load_EF``."""
    num_environments, num_folds = load_EF.shape
    related = np.flatnonzero(family_N >= 0)
    if not len(related):
        return
    related = related[np.argsort(family_N[related], kind="stable")]
    members = np.split(related, np.flatnonzero(np.diff(family_N[related])) + 1)
    random = rng.permutation(len(members))
    sizes = np.array([len(rows) for rows in members])
    for index in random[np.argsort(-sizes[random], kind="stable")]:
        count_E = np.bincount(environment_N[members[index]], minlength=num_environments)
        cost_F = (count_E @ load_EF).astype(float) + rng.random(num_folds) * 0.5
        fold = int(np.argmin(cost_F))
        fold_N[members[index]] = fold
        load_EF[:, fold] += count_E


def _even_out(
    load_F: NDArray[np.int64], num_people: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """How many of the people each fold takes so that the fold sizes become as equal as possible."""
    width = num_people // len(load_F) + 1 + int(np.ptp(load_F))
    level_FW = load_F[:, None] + np.arange(width)
    order = np.lexsort((np.repeat(rng.permutation(len(load_F)), width), level_FW.ravel()))
    return np.bincount(order[:num_people] // width, minlength=len(load_F))
