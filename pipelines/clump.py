"""Clumping by linkage disequilibrium among the study's own people: pure numpy, exact, in bands.

Only pairs of variants on one contig and within a distance are looked at. Variants come in natural
order, so these pairs lie near the diagonal of the matrix of all pairs; the band is cut into
rectangles (windows), and each pass over the people accumulates as many windows as memory holds.
Sums of integer codes are exact, so that any cut of the people into blocks gives the same bits.

Legend: M variants, E environments, n people of a block, R rows and C columns of a window, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_ROWS = 512
_MEMORY = 2**31
_EXACT_FLOAT32 = 2**24


@dataclass(frozen=True)
class Window:
    """Pairs that are accumulated together: variants ``first:stop`` with ``first:reach``."""

    first: int
    stop: int
    reach: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, (R, C)."""
        return self.stop - self.first, self.reach - self.first


def plan_passes(
    contig: NDArray[Any],
    position: NDArray[np.int64],
    *,
    kb: float,
    num_environments: int,
    memory: int = _MEMORY,
) -> list[list[Window]]:
    """Windows that cover all pairs within a distance, in passes whose sums fit into memory.

    Parameters
    ----------
    contig, position : ndarray, shape (M,)
        Variants in natural order.
    kb : float
        Largest distance of a pair in kilobases.
    num_environments : int
    memory : int
        Bytes for the sums of one pass; a window never takes less than one row of pairs.

    Returns
    -------
    list of list of Window
        Windows of each pass over the people.
    """
    cell = 4 * 8 * num_environments
    passes: list[list[Window]] = []
    room = 0
    for window in _windows(contig, position, kb, most_pairs=memory // cell):
        size = cell * window.shape[0] * window.shape[1]
        if size > room or not passes:
            passes.append([])
            room = memory
        passes[-1].append(window)
        room -= size
    return passes


def _windows(
    contig: NDArray[Any], position: NDArray[np.int64], kb: float, most_pairs: int
) -> Iterator[Window]:
    if not len(contig):
        return
    starts = np.flatnonzero(np.append(True, contig[1:] != contig[:-1])).tolist()
    for begin, end in zip(starts, [*starts[1:], len(contig)], strict=True):
        # the last variant within the distance of each
        reach = begin + np.searchsorted(
            position[begin:end], position[begin:end] + 1000 * kb, side="right"
        )
        first = begin
        while first < end:
            stop = min(first + _MOST_ROWS, end)
            while (
                stop > first + 1 and (stop - first) * (reach[stop - 1 - begin] - first) > most_pairs
            ):
                stop = (first + stop) // 2
            yield Window(first, stop, int(reach[stop - 1 - begin]))
            first = stop


class Linkage:
    """Sums over people from which r2 follows, within each environment and over all people.

    Parameters
    ----------
    windows : iterable of Window
        Pairs to accumulate: one pass of :func:`plan_passes`.
    num_environments : int
        E.
    missing : int, default -1
        Code of a person without a call.

    Notes
    -----
    A missing call takes the mean of its environment, so it adds nothing to a covariance. With d
    the codes (zero where missing) and c whether there is a call, the sums are those of c, d and
    d^2 of variants and of the products of d and c of pairs: exact in float64 below 2^53. Every
    variant must have a call in every environment.
    """

    def __init__(
        self, windows: Iterable[Window], num_environments: int, *, missing: int = -1
    ) -> None:
        self.windows = list(windows)
        self._missing = missing
        self._people_E = np.zeros(num_environments)
        shapes = [window.shape for window in self.windows]
        self._sums = [np.zeros((num_environments, 3, columns)) for _, columns in shapes]
        # [d | c] of the rows with [d | c] of the columns
        self._products = [np.zeros((num_environments, 2 * r, 2 * c)) for r, c in shapes]

    def update(self, environment: int, codes_nM: NDArray[np.integer[Any]]) -> None:
        """Add people of one environment.

        Parameters
        ----------
        environment : int
        codes_nM : ndarray of integers, shape (n, M)
            Dosage codes of either allele on any scale, for r2 does not depend on them.
        """
        self._people_E[environment] += len(codes_nM)
        for k, window in enumerate(self.windows):
            codes_nC = codes_nM[:, window.first : window.reach]
            called = codes_nC != self._missing
            dosage = np.where(called, codes_nC, codes_nC.dtype.type(0))
            largest = int(np.abs(dosage, dtype=np.int64).max(initial=0))
            exact = np.float32 if len(dosage) * largest**2 < _EXACT_FLOAT32 else np.float64
            d: NDArray[Any] = dosage.astype(exact)
            c: NDArray[Any] = called.astype(exact)
            num_rows = window.shape[0]
            rows, columns = np.hstack([d[:, :num_rows], c[:, :num_rows]]), np.hstack([d, c])
            self._products[k][environment] += rows.T @ columns
            self._sums[k][environment] += [
                each.sum(axis=0, dtype=np.float64) for each in (c, d, d * d)
            ]

    def combine(self, other: Linkage) -> Linkage:
        """Add the sums over other people, in place; the same windows and environments."""
        self._people_E += other._people_E
        for mine, theirs in zip(
            [*self._sums, *self._products], [*other._sums, *other._products], strict=True
        ):
            mine += theirs
        return self

    def r2(self, window: int) -> NDArray[np.float64]:
        """Squared correlations in one window, by number.

        Returns
        -------
        ndarray of float64, shape (E + 1, R, C)
            In every environment, and last over all people; NaN where a variant does not vary.
        """
        num_rows = self.windows[window].shape[0]
        c_EC, d_EC, d2_EC = np.moveaxis(self._sums[window], 1, 0)
        called = np.maximum(c_EC, 1)
        mean_EC = d_EC / called
        variance_EC = (called * d2_EC - d_EC**2) / called
        mean_ER = mean_EC[:, :num_rows, None]
        top, bottom = np.split(self._products[window], 2, axis=1)
        (dd, dc), (cd, cc) = (np.split(half, 2, axis=2) for half in (top, bottom))
        columns = mean_EC[:, None, :]
        covariance = dd - dc * columns - mean_ER * cd + mean_ER * columns * cc

        weight_E = self._people_E / self._people_E.sum()
        shift_EC = mean_EC - weight_E @ mean_EC
        pushed_EC = self._people_E[:, None] * shift_EC
        between = pushed_EC[:, :num_rows].T @ shift_EC
        covariance = np.concatenate([covariance, (covariance.sum(axis=0) + between)[None]])
        total_C = variance_EC.sum(axis=0) + (pushed_EC * shift_EC).sum(axis=0)
        variance = np.concatenate([variance_EC, total_C[None]])
        with np.errstate(invalid="ignore", divide="ignore"):
            return covariance**2 / (variance[:, :num_rows, None] * variance[:, None, :])

    def finalise(self, position: NDArray[np.int64], *, kb: float, r2: float) -> NDArray[np.int64]:
        """Pairs within the distance whose r2 is above a threshold in any environment or over all.

        Parameters
        ----------
        position : ndarray, shape (M,)
            Of the variants in the order of the codes' columns.
        kb, r2 : float
            Largest distance in kilobases, and the threshold.

        Returns
        -------
        ndarray of int64, shape (P, 2)
            Numbers of variants, the smaller first, in order.
        """
        found = [np.empty((0, 2), dtype=np.int64)]
        for k, window in enumerate(self.windows):
            # NaN compares false: a variant that does not vary is linked to none
            linked = (self.r2(k) > r2).any(axis=0)
            pairs = np.argwhere(linked) + window.first
            near = position[pairs[:, 1]] - position[pairs[:, 0]] <= 1000 * kb
            found.append(pairs[near & (pairs[:, 0] < pairs[:, 1])])
        return np.concatenate(found)


def clump(order: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep variants from the best on; each takes with it all those that it is linked to.

    Parameters
    ----------
    order : ndarray of int64, shape (M,)
        Variants, the best first.
    pairs : ndarray of int64, shape (P, 2)
        Linked variants, of all passes.

    Returns
    -------
    ndarray of int64, shape (M,)
        The kept variant that represents each; its own number where it is kept.
    """
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    starts = np.searchsorted(both[:, 0], np.arange(len(order) + 1))
    kept_by = np.full(len(order), -1, dtype=np.int64)
    for variant in order:
        if kept_by[variant] < 0:
            kept_by[variant] = variant
            linked = both[starts[variant] : starts[variant + 1], 1]
            kept_by[linked[kept_by[linked] < 0]] = variant
    return kept_by
