"""The rows of all pairs of an exposure and an outcome, and the two passes over them.

Legend: N people, C = M + K design columns [Z | W], P exposures, Q outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale.errors import InputError
from mrscale.stats.batch import BatchFit
from mrscale.stats.crosses import PairMoments
from mrscale.stats.pair_scores import Codes, PairScores
from mrscale.stats.patterns import Labels, first_pairs, pattern_labels, refine
from mrscale.stream.arrays import BLOCK_ROWS, is_dask, reduce_rows
from mrscale.workflow.columns import (
    NamedColumns,
    named_columns,
    named_vector,
    require_finite,
    require_same_rows,
    require_unique_names,
)

_LEAST_ROWS, _MOST_ROWS = 64, 4096
"""Of a tile: its working arrays should stay near the processor, its moments cost little beside."""


@dataclass(frozen=True, eq=False)
class PairRows:
    """Exposures, outcomes, instruments and covariates of the same people.

    Attributes
    ----------
    exposures, outcomes, instruments, covariates : NamedColumns
    memory_limit : int
        Bytes that a thread may use for the working arrays of one block.
    codes, sizes : ndarray of int, shapes (N,) and (clusters,), or None
        Cluster of each person, and people of each cluster.
    order : ndarray of int, shape (N,), or None
        Puts the people of a cluster together.
    """

    exposures: NamedColumns
    outcomes: NamedColumns
    instruments: NamedColumns
    covariates: NamedColumns
    memory_limit: int
    codes: Codes | None = None
    sizes: Codes | None = None
    order: NDArray[np.intp] | None = None

    @classmethod
    def of(
        cls, exposures: Any, outcomes: Any, instruments: Any, covariates: Any, memory_limit: int
    ) -> PairRows:
        """Take what users gave.

        Raises
        ------
        InputError
            If it is not tables of numbers of one length with names that are unique, or there are
            no people, exposures, outcomes or instruments.
        """
        x, y = named_columns(exposures, "exposure"), named_columns(outcomes, "outcome")
        z, w = named_columns(instruments, "instrument"), NamedColumns("covariate", [], None)
        if covariates is not None:
            w = named_columns(covariates, "covariate")
        for table in (x, y, z):
            if not table.width:
                raise InputError(f"pairs need at least one {table.kind}; found none; give some")
        given = [table for table in (x, y, z, w) if table.width]
        require_same_rows(given)
        if not len(x):
            raise InputError("a regression needs people; found columns without any rows")
        for table in given:
            require_unique_names(table.names)
        return cls(x, y, z, w, memory_limit)

    def coded(self, labels: Any, kind: str) -> tuple[Codes, list[str]]:
        """Codes 0, 1, .. of people's labels in ascending order, and the labels.

        Raises
        ------
        InputError
            If labels are missing, of another length, or of people in another order.
        """
        part = named_vector(labels, kind)
        tables = (self.exposures, self.outcomes, self.instruments, self.covariates)
        require_same_rows([*(table for table in tables if table.width), part])
        codes, found = pd.factorize(part.values, sort=True)
        if (codes < 0).any():
            raise InputError(
                f"everybody needs a {kind}, but some are missing; give people who belong to none "
                "a label of their own"
            )
        return codes.astype(np.int64), [str(one) for one in found]

    def with_clusters(self, clusters: Any) -> PairRows:
        """The same rows, and which cluster each is in.

        Raises
        ------
        InputError
            If clusters are missing, of another length, or too scattered for ``memory_limit``.
        """
        codes, _ = self.coded(clusters, "cluster")
        sizes = np.bincount(codes)
        if any(is_dask(array) for array in self._arrays):
            self._require_few_open(codes)
            return replace(self, codes=codes, sizes=sizes)
        order = np.argsort(codes, kind="stable")
        return replace(self, codes=codes, sizes=sizes, order=order)

    def moments(
        self, *, classical: bool = False, groups: Codes | None = None
    ) -> dict[int, PairMoments]:
        """First pass; ``X'Y`` too where errors are ``classical``.

        With ``groups``, shape (N,), for each group of people; otherwise all are group 0.

        Raises
        ------
        InputError
            If values are missing or infinite that must not be, or the patterns of missingness
            take more than ``memory_limit``.
        """

        plain = self._without_values

        def from_rows(*block: NDArray[Any]) -> dict[int, PairMoments]:
            tiles = (plain._tile_moments(tile, classical) for tile in plain._tiles(block))
            return reduce(combine, tiles)

        def combine(a: dict[int, PairMoments], b: dict[int, PairMoments]) -> dict[int, PairMoments]:
            for key in a.keys() & b.keys():
                plain._require_few_patterns(refine(a[key].labels, b[key].labels)[0])
            return a | b | {key: a[key].combine(b[key]) for key in a if key in b}

        arrays = self._arrays if groups is None else [*self._arrays, groups]
        return reduce_rows(arrays, from_rows, combine)

    def scores(self, labels: Labels, fits: Sequence[BatchFit]) -> list[PairScores]:
        """Second pass: what the errors of each pattern need."""
        pairs, plain = first_pairs(labels), self._without_values

        def from_rows(*block: NDArray[Any]) -> list[PairScores]:
            tiles = (plain._tile_scores(tile, pairs, fits) for tile in plain._tiles(block))
            return reduce(combine, tiles)

        def combine(a: list[PairScores], b: list[PairScores]) -> list[PairScores]:
            return [one.combine(other, plain.sizes) for one, other in zip(a, b, strict=True)]

        arrays = self._arrays if self.codes is None else [*self._arrays, self.codes]
        return reduce_rows(arrays, from_rows, combine, order=self.order)

    @property
    def _without_values(self) -> PairRows:
        """What a worker needs to know; it gets the values block by block."""
        names = ("exposures", "outcomes", "instruments", "covariates")
        tables = {name: replace(getattr(self, name), values=None) for name in names}
        return replace(self, **tables, codes=None, order=None)

    @property
    def _arrays(self) -> list[Any]:
        tables = (self.exposures, self.outcomes, self.instruments, self.covariates)
        return [table.values for table in tables if table.width]

    @property
    def _widths(self) -> tuple[int, int]:
        """Design columns C and traits P + Q."""
        design = self.instruments.width + self.covariates.width
        return design, self.exposures.width + self.outcomes.width

    def _tiles(self, block: Sequence[NDArray[Any]]) -> Iterator[tuple[NDArray[Any], ...]]:
        """Pieces of a block: [Z | W], X and Y in float64, and the clusters or groups if any."""
        design, traits = self._widths
        room = self.memory_limit // (8 * (3 * design + 6 * traits))
        rows = min(max(_LEAST_ROWS, room), _MOST_ROWS)
        for start in range(0, len(block[0]), rows):
            x, y, *rest = (array[start : start + rows] for array in block)
            width = 1 + bool(self.covariates.width)
            zw = np.concatenate(rest[:width], axis=1, dtype=np.float64)
            x, y = (table.astype(np.float64, copy=False) for table in (x, y))
            yield zw, x, y, *rest[width:]

    def _tile_moments(
        self, tile: tuple[NDArray[Any], ...], classical: bool
    ) -> dict[int, PairMoments]:
        design, x, y, *codes = tile
        sums, m = design.sum(axis=0), self.instruments.width
        require_finite(self.instruments, sums[:m], "fill in missing calls, or leave people out")
        require_finite(self.covariates, sums[m:], "fill in missing values, or leave people out")
        for table, values in ((self.exposures, x), (self.outcomes, y)):
            infinite = np.where(np.isinf(values).any(axis=0), np.inf, 0)
            require_finite(table, infinite, "give them as NaN, which is missing")
        groups = codes[0] if codes else np.zeros(len(x), dtype=np.int64)
        found = {}
        for group in np.unique(groups):
            inside = slice(None) if (groups == group).all() else groups == group
            labels = pattern_labels(np.isfinite(x[inside]), np.isfinite(y[inside]))
            self._require_few_patterns(labels)
            one = PairMoments.from_block(
                design[inside], x[inside], y[inside], labels, classical=classical
            )
            found[int(group)] = one
        return found

    def _tile_scores(
        self,
        tile: tuple[NDArray[Any], ...],
        pairs: Sequence[tuple[int, int]],
        fits: Sequence[BatchFit],
    ) -> list[PairScores]:
        design, x, y, *codes = tile
        if codes and (np.diff(codes[0]) < 0).any():
            order = np.argsort(codes[0], kind="stable")
            design, x, y, codes = design[order], x[order], y[order], [codes[0][order]]
        found = []
        for (p, q), fit in zip(pairs, fits, strict=True):
            keep = np.isfinite(x[:, p]) & np.isfinite(y[:, q])
            d, rest_x, rest_y = fit.partialled(design, x, y, keep)
            if self.sizes is None:
                found.append(PairScores.of_people(d, rest_x, rest_y, keep))
            else:
                one = PairScores.of_clusters(d, rest_x, rest_y, keep, codes[0], self.sizes)
                found.append(one)
        return found

    def _require_few_patterns(self, labels: Labels) -> None:
        design, traits = self._widths
        patterns = int(labels.max()) + 1
        needed = 8 * (patterns * design * (design + 2) + design * traits)
        if patterns > 1 and needed > self.memory_limit:
            raise InputError(
                f"the pairs have {patterns:,} or more patterns of missing traits, whose moments "
                f"take {needed / 2**30:.1f} GiB, more than memory_limit "
                f"({self.memory_limit / 2**30:.1f} GiB); raise it, take fewer instruments, or "
                "split the traits over several calls"
            )

    def _require_few_open(self, codes: Codes) -> None:
        block = np.arange(len(codes)) // BLOCK_ROWS
        split = np.unique(np.unique(np.stack([codes, block]), axis=1)[0], return_counts=True)[1] > 1
        needed = 8 * int(split.sum()) * self.exposures.width * self.outcomes.width
        if needed > self.memory_limit:
            raise InputError(
                f"{split.sum():,} clusters have people in several blocks of {BLOCK_ROWS:,} rows, "
                f"which takes {needed / 2**30:.1f} GiB for so many pairs; sort people by cluster, "
                "or raise memory_limit"
            )
