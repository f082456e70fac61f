"""The data of one regression: columns side by side, and passes over their rows.

Legend: N people, C design columns [Z | W | X | y], G clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale.disclosure import show_count
from mrscale.errors import InputError
from mrscale.sampling.plan import blocks
from mrscale.stats.identification import listed, require_estimable
from mrscale.stats.linalg import standardised
from mrscale.stats.moments import Floats, Moments, tree_combine
from mrscale.stats.reduced import Columns, Reduced, design_cross
from mrscale.stats.scores import OuterSums
from mrscale.stream.arrays import is_dask, reduce_rows
from mrscale.workflow.columns import (
    NamedColumns,
    named_columns,
    named_vector,
    require_finite,
    require_same_rows,
    require_unique_names,
)

_TILE_ROWS = 2048
"""Rows of which scores are made at once: they stay in the processor's cache."""
_SAME = 1e-12
"""One minus the squared correlation of two columns that are the same."""

Scores = Callable[[Floats, Floats | None], Sequence[Floats]]


@dataclass(frozen=True, eq=False)
class Data:
    """Columns of one regression.

    Attributes
    ----------
    instruments, covariates, exposures, outcome : NamedColumns
        ``instruments`` is empty for OLS, ``covariates`` where there are none.
    weights : ndarray, shape (N,), or None
        With mean one: only their ratios matter.
    codes : ndarray of int, shape (N,), or None
        Cluster of each person, for clustered errors.
    intercept : bool
    """

    instruments: NamedColumns
    covariates: NamedColumns
    exposures: NamedColumns
    outcome: NamedColumns
    weights: Any
    codes: NDArray[np.int64] | None
    intercept: bool

    @classmethod
    def of(
        cls,
        outcome: Any,
        exposure: Any,
        instruments: Any,
        covariates: Any,
        *,
        clusters: Any,
        weights: Any,
        intercept: bool,
    ) -> Data:
        """Take what users hand over; see :func:`mrscale.iv` for what is refused."""
        y, x = named_columns(outcome, "outcome"), named_columns(exposure, "exposure")
        none = np.zeros((len(y), 0))
        z = _columns_or_none(instruments, "instrument", none)
        w = _columns_or_none(covariates, "covariate", none)
        given = [part for part in (y, x, z, w) if part.width]
        extra = [(clusters, "clusters"), (weights, "weights")]
        extras = [named_vector(value, kind) for value, kind in extra if value is not None]
        require_same_rows([*given, *extras])
        if not len(y):
            raise InputError("a regression needs people; found columns without any rows")
        if not x.width:
            raise InputError("a regression needs at least one exposure; found none; give some")
        if y.width != 1:
            raise InputError(
                f"the outcome must be one column; found {y.width}; use iv_many for several"
            )
        require_unique_names([name for part in given for name in part.names])
        codes = None if clusters is None else _codes(extras[0])
        weight = None if weights is None else _positive(extras[-1])
        return cls(z, w, x, y, weight, codes, intercept)

    @property
    def columns(self) -> Columns:
        """Widths of the design."""
        return Columns(self.instruments.width, self.covariates.width, self.exposures.width)

    @property
    def parts(self) -> list[NamedColumns]:
        """In the order of the design."""
        return [self.instruments, self.covariates, self.exposures, self.outcome]

    @property
    def num_clusters(self) -> int | None:
        """Clusters, if errors are clustered."""
        return None if self.codes is None else int(self.codes.max()) + 1

    def moments(self) -> Moments:
        """First pass: moments of the design, refused if a value is missing."""
        found = self._reduce(_moments, Moments.combine)
        self.require_finite(found)
        return found

    def require_finite(self, moments: Moments) -> None:
        """Refuse missing and infinite values, by the names of their columns."""
        with np.errstate(invalid="ignore"):
            sums = moments.mean + np.diag(moments.cross)
        remedy = "fill them or leave these people out (iv_many leaves them out pair by pair)"
        for part, of_part in zip(self.parts, np.split(sums, self._ends), strict=True):
            require_finite(part, of_part, remedy)

    def outer_sums(self, scores: Scores) -> OuterSums:
        """A pass for sums of products of scores, over people or over clusters.

        Takes a function of design rows and their weights that gives arrays of shapes (N, J).
        """
        sizes = self._cluster_sizes
        combine = partial(_combine, sizes=sizes)

        def block(rows: Floats, weights: Floats | None, codes: Any) -> OuterSums:
            tiles = [
                OuterSums.from_block(
                    scores(rows[tile], None if weights is None else weights[tile]),
                    None if codes is None else codes[tile],
                    sizes,
                )
                for tile in blocks(max(len(rows), 1), _TILE_ROWS)
            ]
            return tree_combine(tiles, combine)

        return self._reduce(block, combine, self._cluster_order)

    @cached_property
    def _cluster_sizes(self) -> NDArray[np.int64] | None:
        return None if self.codes is None else np.bincount(self.codes)

    @cached_property
    def _cluster_order(self) -> NDArray[np.intp] | None:
        """People of a cluster side by side, where rows are in memory: few clusters stay open."""
        if self.codes is None or any(is_dask(part.values) for part in self.parts):
            return None
        return np.argsort(self.codes, kind="stable")

    def sums(self, kernel: Callable[[Floats, Floats | None], Any], combine: Any) -> Any:
        """A pass for any other sum over blocks of design rows and their weights."""
        return self._reduce(lambda rows, weights, _: kernel(rows, weights), combine)

    def require_usable(
        self, moments: Moments, reduced: Reduced, *, instrumented: bool = True
    ) -> None:
        """Refuse a design that has no unique estimate, by the names of its columns."""
        if self.codes is not None and self.num_clusters < 2:  # type: ignore[operator]
            raise InputError(
                "clustered errors need two clusters or more (fifty to be trusted); found "
                f"{self.num_clusters}; use errors='robust', or another unit of clusters"
            )
        still = np.split(moments.constant, self._ends)
        for part, constant in zip(self.parts[2:], still[2:], strict=True):
            _require_variation(part, constant)
        self._require_no_covariate_among_instruments(moments)
        require_estimable(
            moments, reduced, self.columns, self.exposures.names, instrumented=instrumented
        )

    @property
    def _ends(self) -> NDArray[np.intp]:
        return np.cumsum([part.width for part in self.parts])[:-1]

    def _require_no_covariate_among_instruments(self, moments: Moments) -> None:
        correlation = standardised(design_cross(moments, intercept=self.intercept))[0]
        z, w = self.columns.instruments, self.columns.covariates
        same = 1 - correlation[np.ix_(z, w)] ** 2 < _SAME
        if same.any():
            names = [self.instruments.names[i] for i in np.flatnonzero(same.any(axis=1))]
            raise InputError(
                f"a column cannot be both an instrument and a covariate; found {listed(names)} in "
                "both (or a multiple of it); leave it out of one of them"
            )

    def _reduce(self, block: Any, combine: Any, order: Any = None) -> Any:
        arrays = [part.values for part in self.parts]
        extras = [extra for extra in (self.weights, self.codes) if extra is not None]
        # tasks carry this function to other processes: it must not hold the data
        from_rows = partial(
            _of_rows, block, weighted=self.weights is not None, clustered=self.codes is not None
        )
        return reduce_rows([*arrays, *extras], from_rows, combine, order=order)


def _of_rows(
    block: Any, z: Any, w: Any, x: Any, y: Any, *extra: Any, weighted: bool, clustered: bool
) -> Any:
    """A function of design rows, their weights and clusters, on one block of every column."""
    rows = np.concatenate([z, w, x, y], axis=1, dtype=np.float64)
    weights = np.asarray(extra[0]) if weighted else None
    return block(rows, weights, extra[-1] if clustered else None)


def _moments(rows: Floats, weights: Floats | None, _: Any) -> Moments:
    # missing values are found, and named, in the result
    with np.errstate(invalid="ignore", over="ignore"):
        return Moments.from_block(rows, weights)


def _combine(a: OuterSums, b: OuterSums, sizes: Any) -> OuterSums:
    return a.combine(b, sizes)


def _columns_or_none(value: Any, kind: str, none: NDArray[np.float64]) -> NamedColumns:
    return NamedColumns(kind, [], none) if value is None else named_columns(value, kind)


def _codes(clusters: NamedColumns) -> NDArray[np.int64]:
    codes, _ = pd.factorize(clusters.values)
    missing = int((codes < 0).sum())
    if missing:
        raise InputError(
            f"clusters must be known for everybody; found none for {show_count(missing)} people; "
            "give those who are alone a cluster of their own"
        )
    return codes.astype(np.int64)


def _positive(weights: NamedColumns) -> Floats:
    values = named_columns(weights.values, "weights").values[:, 0].astype(np.float64)
    if not (np.isfinite(values) & (values > 0)).all():
        raise InputError(
            "weights must be finite and above zero for everybody; leave people of no weight out"
        )
    return np.asarray(values / values.mean())


def _require_variation(part: NamedColumns, constant: NDArray[np.bool_]) -> None:
    if constant.any():
        names = [part.names[i] for i in np.flatnonzero(constant)]
        raise InputError(
            f"the {part.kind} must vary between people; found one value for all in "
            f"{listed(names)}; choose another {part.kind}"
        )
