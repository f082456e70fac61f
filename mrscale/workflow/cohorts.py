"""People in memory, read as a genotype store is: one code for arrays and for stores.

Legend: N people, M instruments, E environments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale.disclosure import show_count
from mrscale.errors import InputError
from mrscale.sampling.plan import blocks
from mrscale.stats.design import has_every_call
from mrscale.stats.moments import Floats
from mrscale.store.reader import GenotypeStore, NameKind
from mrscale.store.schema import Layout
from mrscale.stream.products import mean_dosage
from mrscale.workflow.columns import named_vector

MOST_ENVIRONMENTS = 1000


@dataclass(frozen=True, eq=False)
class ArrayCohort:
    """Columns that users hold, under the names of the store's arrays.

    Attributes
    ----------
    instruments : ndarray, shape (N, M)
    arrays : dict of str to ndarray
        ``environment``, ``fold``, ``family``, ``cluster``, and the traits there are; with
        ``variant_allele_frequency`` if instruments are dosages of which some are missing.
    named : dict of str to list of str
        Names of exposures, outcomes, covariates and environments.
    """

    instruments: NDArray[Any]
    arrays: dict[str, NDArray[Any]]
    named: dict[str, list[str]]

    @property
    def layout(self) -> Layout:
        """Rows are cut as those of a store of this size."""
        return Layout.choose(*self.instruments.shape)

    @property
    def num_samples(self) -> int:
        """Number of people."""
        return len(self.instruments)

    @property
    def num_variants(self) -> int:
        """Number of instruments."""
        return int(self.instruments.shape[1])

    def array(self, name: str, rows: slice = slice(None)) -> NDArray[Any]:
        """As :meth:`mrscale.store.reader.GenotypeStore.array`."""
        return self.arrays[name][rows]

    def expected_dosage(self, rows: slice) -> NDArray[Any]:
        """As :meth:`mrscale.store.reader.GenotypeStore.expected_dosage`."""
        return self.instruments[rows]

    def names(self, kind: NameKind) -> list[str]:
        """As :meth:`mrscale.store.reader.GenotypeStore.names`."""
        return self.named[kind]


Cohort = GenotypeStore | ArrayCohort


def fill_of(cohort: Cohort) -> Floats:
    """Mean dosage per environment, shape (E, M), that replaces missing calls."""
    if isinstance(cohort, GenotypeStore) or "variant_allele_frequency" in cohort.arrays:
        return mean_dosage(cast(GenotypeStore, cohort))
    # instruments in memory are complete: nothing will be filled
    return np.zeros((len(cohort.named["environments"]), cohort.num_variants))


def environment_codes(environment: Any) -> tuple[NDArray[np.int16], list[str]]:
    """Codes from 0 and names of environments, from labels of people.

    Raises
    ------
    InputError
        If a label is missing, or there are fewer than two environments, or far too many.
    """
    codes, names = pd.factorize(named_vector(environment, "environment").values, sort=True)
    missing = int((codes < 0).sum())
    if missing:
        raise InputError(
            f"every person needs an environment; found {show_count(missing)} without one; leave "
            "them out, or give them an environment of their own"
        )
    require_environments(len(names))
    return codes.astype(np.int16), [str(name) for name in names]


def require_environments(number: int) -> None:
    """Refuse fewer than two environments, or far too many."""
    if not 2 <= number <= MOST_ENVIRONMENTS:
        raise InputError(
            f"learned instruments need at least two environments, and at most {MOST_ENVIRONMENTS:,}"
            f"; found {number:,}; give the ancestry group, site or period of each person"
        )


def fewest_people(cohort: Cohort, num_folds: int, *, drop_missing: bool = False) -> int:
    """People of one environment in one fold, where they are fewest; only those with every call, if
    the others are dropped."""
    fold, num_environments = cohort.array("fold").astype(np.intp), len(cohort.names("environments"))
    cell = fold * num_environments + cohort.array("environment")
    if drop_missing:
        cell = cell[with_every_call(cohort)]
    return int(np.bincount(cell, minlength=num_folds * num_environments).min())


def with_every_call(cohort: Cohort) -> NDArray[np.bool_]:
    """Who has a call of every variant, shape (N,); reads all dosages, a block at a time."""
    cuts = blocks(cohort.num_samples, cohort.layout.chunk_rows)
    return np.concatenate([has_every_call(cohort.expected_dosage(rows)) for rows in cuts])


def balanced_folds(
    environment: NDArray[np.int16], family: NDArray[np.int32], num_folds: int, seed: int
) -> NDArray[np.int8]:
    """Fold of each person: whole families, environments in equal shares.

    Parameters
    ----------
    environment : ndarray, shape (N,)
    family : ndarray, shape (N,)
        -1 is alone. A family counts for the environment of its first member.
    num_folds, seed : int
    """
    unit = np.where(family >= 0, family, family.max(initial=-1) + 1 + np.arange(len(family)))
    _, first, member, size = np.unique(
        unit, return_index=True, return_inverse=True, return_counts=True
    )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(first))
    # the largest families of an environment first: shares then differ by one of them at most
    order = order[np.lexsort((-size[order], environment[first[order]]))]
    fold = np.empty(len(first), dtype=np.int8)
    fold[order] = np.arange(len(first)) % num_folds
    return fold[member]
