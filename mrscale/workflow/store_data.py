"""The data of one regression as rows of a genotype store, read block by block.

Legend: N people of the store, n with all the traits, M variants, C design columns, E environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrscale.errors import InputError
from mrscale.progress import Advance, silent
from mrscale.stats.design import indicators
from mrscale.stats.moments import Floats, Moments, pool
from mrscale.store.reader import GenotypeStore
from mrscale.stream.engine import Client
from mrscale.stream.products import (
    Group,
    TraitColumns,
    filled_dosages,
    group_moments,
    mean_dosage,
    people_of,
    trait_columns,
)
from mrscale.stream.reduce import reduce_blocks
from mrscale.workflow.columns import NamedColumns
from mrscale.workflow.iv_data import Data

Codes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class StoreRows:
    """Design rows as any process reads them from a store: what travels to workers is small.

    Attributes
    ----------
    store : GenotypeStore
    traits : TraitColumns
        Covariates, exposures and outcome.
    present : tuple of int
        Environments in which people have all the traits; each but the first has an indicator.
    fill : ndarray, shape (E, M), or None
        Mean dosages; None for a design without instruments.
    """

    store: GenotypeStore
    traits: TraitColumns
    present: tuple[int, ...]
    fill: Floats | None

    def of(self, rows: slice) -> Floats:
        """[dosages | covariates | indicators | exposures | outcome], people with all traits."""
        people = people_of(self.store, self.traits)
        traits, environment = people.traits[rows], people.environment[rows]
        keep = np.isfinite(traits).all(axis=1)
        traits, environment = traits[keep], environment[keep]
        k = len(self.traits[0][1])
        position = np.searchsorted(self.present, environment).astype(np.int16)
        parts = [traits[:, :k], indicators(position, len(self.present)), traits[:, k:]]
        if self.fill is not None:
            codes = self.store.dosage(rows)[keep]
            parts.insert(0, filled_dosages(self.store.code, codes, environment, self.fill))
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True, eq=False)
class StoreData(Data):
    """A design [dosages | covariates | environments | exposures | outcome] of a store's people.

    Columns have names and no values; passes read the store's chunks. Environments enter as
    indicators of every one but the first that has people. Missing calls count as their
    environment's mean.

    Attributes
    ----------
    rows : StoreRows
    client : distributed.Client or None
        As for :func:`mrscale.stream.reduce.reduce_blocks`.
    progress : Advance
        Told of every pass; the amounts of each sum to 1.
    environment, fold : ndarray of int, shape (n,)
        Of the people who have all the traits, in the order of the store.
    ends : ndarray of int, shape (chunks,)
        How many of them there are up to the end of each chunk.
    sizes : ndarray of int, shape (E,)
        All people of each environment, with the traits or without.
    """

    rows: StoreRows
    client: Client | None
    progress: Advance
    environment: NDArray[np.int16]
    fold: NDArray[np.int8]
    ends: NDArray[np.intp]
    sizes: NDArray[np.intp]

    @classmethod
    def read(
        cls,
        store: GenotypeStore,
        client: Client | None,
        exposures: Sequence[str],
        outcome: str,
        covariates: Sequence[str],
        *,
        clustered: bool,
        progress: Advance = silent,
    ) -> StoreData:
        """Read traits, which are small, and leave the dosages where they are.

        Raises
        ------
        InputError
            If the store lacks a trait, or nobody has all of them.
        """
        traits = trait_columns(store, exposures, [outcome], covariates)
        people = people_of(store, traits)
        used = np.asarray(np.isfinite(people.traits).all(axis=1))
        if not used.any():
            raise InputError(
                "an estimate needs people with the exposure, the outcome and every covariate; "
                "found nobody with all of them; choose traits that were measured in the same people"
            )
        environment = people.environment[used]
        present = tuple(int(code) for code in np.unique(environment))
        names = store.names("environments")
        indicator_names = [f"environment {names[code]}" for code in present[1:]]
        chunks = [store.layout.chunk(i) for i in range(store.layout.num_chunks)]
        return cls(
            instruments=_nameless("instrument", [str(v) for v in store.array("variant_id")]),
            covariates=_nameless("covariate", [*covariates, *indicator_names]),
            exposures=_nameless("exposure", exposures),
            outcome=_nameless("outcome", [outcome]),
            weights=None,
            codes=_cluster_codes(store.array("cluster"), used) if clustered else None,
            intercept=True,
            rows=StoreRows(store, traits, present, mean_dosage(store)),
            client=client,
            progress=progress,
            environment=environment,
            fold=people.fold[used],
            ends=np.cumsum(used, dtype=np.intp)[[chunk.stop - 1 for chunk in chunks]],
            sizes=np.bincount(people.environment, minlength=len(names)),
        )

    @property
    def present(self) -> tuple[int, ...]:
        """Codes of the environments in which people have all the traits."""
        return self.rows.present

    @property
    def num_plain_covariates(self) -> int:
        """Covariates that are not indicators of environments."""
        return self.covariates.width - len(self.present) + 1

    @property
    def indicators(self) -> NDArray[np.intp]:
        """Columns of the design that are indicators of environments."""
        return self.columns.covariates[self.num_plain_covariates :]

    @property
    def within(self) -> NDArray[np.intp]:
        """Columns of the design that are not."""
        return np.setdiff1d(np.arange(self.columns.width), self.indicators)

    def group_moments(self) -> dict[Group, Moments]:
        """First pass: moments per (environment, fold) of the design without indicators."""
        return group_moments(
            self.client,
            self.rows.store,
            exposures=self.exposures.names,
            outcomes=self.outcome.names,
            covariates=self.covariates.names[: self.num_plain_covariates],
            by=("environment", "fold"),
            progress=self.progress,
        )

    def with_indicators(self, groups: dict[Group, Moments]) -> Moments:
        """Moments of the whole design, from those of groups without the indicators."""
        return pool([self._indicated(group[0], moments) for group, moments in groups.items()])

    def without_instruments(self) -> StoreData:
        """The design of ordinary least squares, whose passes read no dosages."""
        nothing = _nameless("instrument", [])
        return replace(self, instruments=nothing, rows=replace(self.rows, fill=None))

    def _indicated(self, code: int, moments: Moments) -> Moments:
        columns = self.within
        mean, cross = np.zeros(self.columns.width), np.zeros((self.columns.width,) * 2)
        mean[columns], cross[np.ix_(columns, columns)] = moments.mean, moments.cross
        mean[self.indicators] = np.equal(self.present[1:], code)
        return Moments(moments.count, mean, cross, moments.weight)

    def _reduce(self, block: Any, combine: Any, order: Any = None) -> Any:
        del order  # rows come as they lie in the store
        layout = self.rows.store.layout
        chunks = [layout.chunk(i) for i in range(layout.num_chunks)]
        none = [None] * len(chunks)
        codes = none if self.codes is None else np.split(self.codes, self.ends[:-1])
        people = np.diff(self.ends, prepend=0)
        parts = zip(chunks, codes, people, strict=True)
        blocks: Any = [(chunk, of_chunk) for chunk, of_chunk, count in parts if count]
        from_block: Any = partial(_of_block, self.rows, block)
        return reduce_blocks(self.client, blocks, from_block, combine, progress=self.progress)


def _of_block(rows: StoreRows, block: Any, chunk_and_codes: tuple[slice, Codes | None]) -> Any:
    """A function of design rows, weights and clusters, on one chunk of the store."""
    chunk, codes = chunk_and_codes
    return block(rows.of(chunk), None, codes)


def _nameless(kind: str, names: Sequence[str]) -> NamedColumns:
    """Columns that are named here and read elsewhere."""
    return NamedColumns(kind, list(names), np.zeros((0, len(names))))


def _cluster_codes(cluster: NDArray[np.int32], used: NDArray[np.bool_]) -> Codes:
    """Clusters from 0; people without one are their own."""
    codes = cluster.astype(np.int64)
    alone = codes < 0
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(int(alone.sum()))
    return np.asarray(np.unique(codes[used], return_inverse=True)[1], dtype=np.int64)
