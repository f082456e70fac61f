"""Split-sample instruments: the first stage comes from other people than the estimate does.

A first stage fitted (or instruments chosen) in the people it is used on fits their noise as well;
with many or weak instruments that pulls two-stage least squares towards ordinary least squares.
Predictions from other people do not know that noise.

Legend: N people, M instruments, P exposures, G groups of people, C design columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mrscale.stats.moments import Floats, Moments, pool
from mrscale.stats.reduced import Columns, reduce_design
from mrscale.stats.resampling import leave_each_out


@dataclass(frozen=True, eq=False)
class OtherFirstStage:
    """Instruments made from the first stage of other people.

    Attributes
    ----------
    columns : Columns
        Of the new design [X-hat | W | X | y]: as many instruments as exposures.
    matrix : ndarray, shape (C, P + K + P + 1)
    offset : ndarray, shape (P + K + P + 1,)
        The new design is ``rows @ matrix - offset`` of a design [Z | W | X | y].
    """

    columns: Columns
    matrix: Floats
    offset: Floats

    @classmethod
    def fit(cls, others: Moments, columns: Columns) -> OtherFirstStage:
        """First stage in other people, from the moments of their design [Z | W | X | y].

        Notes
        -----
        ``X-hat = (z - G'w)' Pi`` with Pi the first-stage coefficients and G the coefficients of
        the instruments on the covariates, both from the others.
        """
        reduced, basis = reduce_design(others, columns)
        predicted = basis.instruments @ reduced.zx
        unchanged = np.eye(columns.width)[:, columns.num_instruments :]
        p = columns.num_exposures
        offset = np.zeros(p + unchanged.shape[1])
        offset[:p] = others.mean @ predicted
        new = Columns(p, columns.num_covariates, p)
        return cls(new, np.column_stack([predicted, unchanged]), offset)

    def moments(self, group: Moments) -> Moments:
        """Of the new design, from those of the old one in people who were not in the fit."""
        new = group.transform(self.matrix)
        return replace(new, mean=new.mean - self.offset)

    def rows(self, rows: Floats) -> Floats:
        """Rows of the new design, for sums of scores."""
        return np.asarray(rows @ self.matrix - self.offset)


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """Two-way split sample: each group's instruments come from the others' first stage.

    Attributes
    ----------
    moments : Moments
        Of the design [X-hat | W | X | y] of everybody, to be fitted by two-stage least squares.
    first_stages : tuple of OtherFirstStage
        One per group; ``rows`` makes the design rows of its people.
    """

    moments: Moments
    first_stages: tuple[OtherFirstStage, ...]

    @property
    def columns(self) -> Columns:
        """Of the new design."""
        return self.first_stages[0].columns


def cross_fit(groups: Sequence[Moments], columns: Columns) -> CrossFitted:
    """Split-sample instruments for everybody, from the moments of disjoint groups of people.

    Parameters
    ----------
    groups : sequence of Moments
        Of a design [Z | W | X | y]; at least two groups.
    columns : Columns

    Returns
    -------
    CrossFitted

    Warnings
    --------
    Relatives belong to one group. Instruments chosen on a group's own outcome or exposure bring
    the bias back: choose them in other people too.

    Notes
    -----
    Two-stage least squares on the result is ``(sum_g X-hat_g' X_g)^-1 sum_g X-hat_g' y_g``, the
    unbiased split-sample estimator (USSIV) of Angrist and Krueger (1995), *Journal of Business and
    Economic Statistics* 13, averaged both ways. One way alone is ``OtherFirstStage.fit`` in one
    group and ``moments`` in the other. Their first, biased form (SSIV: ordinary least squares of
    y on X-hat, which shrinks towards zero by the first stage's noise) is the same moments without
    the columns of X.
    """
    others = leave_each_out(groups, Moments.combine)
    first_stages = tuple(OtherFirstStage.fit(one, columns) for one in others)
    parts = [stage.moments(group) for stage, group in zip(first_stages, groups, strict=True)]
    return CrossFitted(pool(parts), first_stages)


def between_groups(traits: Sequence[Floats], others: Sequence[Floats]) -> Floats:
    """What groups that are in each other's first stage add to the variance of the scores.

    Parameters
    ----------
    traits : sequence of ndarray, shapes (P + 1, P + 1, L, L)
        ``Meats.traits`` of each group, T_g.
    others : sequence of ndarray, shapes (L, L)
        ``A_g``, the inverse of the cross-product of the others' instruments.

    Returns
    -------
    ndarray, shape (P + 1, P + 1, P, P)
        To be added to ``Meats.traits`` of the design whose instruments are the predictions.

    Notes
    -----
    ``x_jp`` is in the prediction of person i of another group, and ``x_iq`` in that of j, so that
    ``r_ic (z_i'A_g z_j) x_jp`` and ``r_jd (z_j'A_h z_i) x_iq`` are correlated where r and x are.
    Summed over pairs, ``[c, d, p, q] = sum_{g != h} tr(A_g T_h[p, d] A_h T_g[q, c])``: Chao et
    al. (2012), by group.
    """
    p = traits[0].shape[0] - 1
    total = np.zeros((p + 1, p + 1, p, p))
    for g, of_g in enumerate(traits):
        for h, of_h in enumerate(traits[:g]):
            first, second = others[g] @ of_h[:p], others[h] @ of_g[:p]
            total += np.einsum("pdij,qcji->cdpq", first, second)
    return total + total.transpose(1, 0, 3, 2)


def overlap_warning(first_stage_f: float | None = None) -> str:
    """What to say when the instruments come from a GWAS that shares people with the sample.

    Parameters
    ----------
    first_stage_f : float, optional
        First-stage F in the sample.

    Notes
    -----
    With complete overlap the relative bias towards the observational estimate is about ``1 / F``
    (Burgess, Davies and Thompson, 2016, *Genetic Epidemiology* 40); choosing the instruments in
    the same people adds winner's curse to it, and makes F too large to be a guide.
    """
    size = "" if first_stage_f is None else f" (about 1/F = {1 / first_stage_f:.2g} or more of it)"
    return (
        "The instruments come from a GWAS that shares people with this sample: weak-instrument "
        f"bias and winner's curse both pull the estimate towards the observational one{size}, and "
        "the first-stage F is too large; use a split-sample first stage with instruments chosen "
        "in the other half, or a list from a GWAS without these people."
    )
