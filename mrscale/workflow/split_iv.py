"""``mrscale.split_iv``: two-stage least squares with a first stage from other people.

Three passes over the rows: moments of every group, from which the first stages and the estimate
follow; products of scores; and the same by group, for what the first stages share.

Legend: N people, C design columns, L instruments, P exposures, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import linalg

from mrscale.disclosure import show_count, vague
from mrscale.errors import InputError
from mrscale.results.iv import IVResult
from mrscale.stats.kclass import fit_kclass, parameter_map
from mrscale.stats.linalg import RANK_TOLERANCE, standardised, whitening
from mrscale.stats.moments import Floats, Moments, combine_keyed, pool
from mrscale.stats.reduced import Basis, Columns, Reduced, reduce_design
from mrscale.stats.resampling import leave_each_out
from mrscale.stats.scores import OuterSums, canonical_rows, iv_scores
from mrscale.stats.small_sample import SmallSample
from mrscale.stats.specification import TestResult
from mrscale.stats.split_sample import OtherFirstStage, between_groups, cross_fit
from mrscale.workflow.columns import (
    NamedColumns,
    named_vector,
    require_choice,
    require_same_rows,
    require_small_sample,
)
from mrscale.workflow.iv import fit_problem, iv_result, require_clusters
from mrscale.workflow.iv_data import Data
from mrscale.workflow.iv_fits import Errors, Fit, Problem

Codes = NDArray[np.int64]
MOST_GROUPS = 100
"""Each keeps its own moments."""


def split_iv(
    outcome: Any,
    exposure: Any,
    instruments: Any,
    covariates: Any = None,
    *,
    groups: Any,
    errors: Errors = "robust",
    clusters: Any = None,
    small_sample: SmallSample = False,
) -> IVResult:
    """Two-stage least squares whose first stage, for each group of people, is that of the others.

    Weak instruments do not pull it towards ordinary least squares, as they do with two-stage
    least squares: predictions from other people do not know a person's own noise.

    Parameters
    ----------
    outcome, exposure, instruments, covariates
        As for :func:`mrscale.iv`.
    groups : array-like, shape (N,)
        Label of each person's group: two to 100 groups of about equal size, relatives in the same
        one. With two, each half has the other's first stage; with ten, less of it is lost.
    errors : {"classical", "robust", "cluster"}, default "robust"
        All allow for what groups share that are in each other's first stage.
    clusters : array-like, shape (N,), optional
        Cluster of each person, for ``errors="cluster"``; inside one group each.
    small_sample : bool or "n-k", default False
        As for :func:`mrscale.iv`.

    Returns
    -------
    IVResult
        With ``estimator="split-sample 2sls"``. Its ``first_stage`` is out of sample: of the
        exposures on their predictions from the other groups.

    Raises
    ------
    InputError
        If there are not two to 100 groups, if the people outside one are too few for a first
        stage, and where :func:`mrscale.iv` raises it.

    Warnings
    --------
    Instruments chosen in these people, on their exposure or outcome, bring the bias back.
    ``first_stage`` and ``endogeneity`` take the predictions as given.

    Notes
    -----
    Angrist and Krueger (1995), both ways; see :func:`mrscale.stats.split_sample.cross_fit`. With
    many weak instruments its errors, like those of jackknife estimators, need the terms of Chao,
    Swanson, Hausman, Newey and Woutersen (2012), *Econometric Theory* 28; so does
    ``anderson_rubin()``, robust whatever the errors.

    Examples
    --------
    >>> import numpy as np, mrscale as mr
    >>> rng = np.random.default_rng(0)
    >>> z, u = rng.binomial(2, 0.3, (5000, 30)), rng.normal(size=5000)
    >>> x = 0.2 * z.sum(axis=1) + u + rng.normal(size=5000)
    >>> fit = mr.split_iv(0.5 * x - u, x, z, groups=np.arange(5000) % 10)
    >>> fit.params["exposure"].round(1)
    np.float64(0.5)
    """
    require_choice("errors", errors, get_args(Errors))
    require_small_sample(small_sample)
    require_clusters(errors, clusters)
    data = Data.of(
        outcome, exposure, instruments, covariates, clusters=clusters, weights=None, intercept=True
    )
    codes = _group_codes(groups, data.outcome)
    moments = group_moments(data, codes)
    return fit_split(data, codes, moments, errors=errors, small_sample=small_sample)


def group_moments(data: Data, groups: Codes) -> list[Moments]:
    """Moments of each group's design, in one pass.

    Parameters
    ----------
    data : Data
    groups : ndarray of int, shape (N,)
        Group of each person, from 0.

    Raises
    ------
    InputError
        If a value is missing.
    """
    # whatever a person is labelled with comes to the kernel where clusters do
    found: dict[int, Moments] = replace(data, codes=groups)._reduce(_by_group, combine_keyed)
    moments = [found[group] for group in range(len(found))]
    data.require_finite(pool(moments))
    return moments


def fit_split(
    data: Data,
    groups: Codes,
    moments: Sequence[Moments],
    *,
    errors: Errors,
    small_sample: SmallSample = False,
) -> IVResult:
    """Fit :func:`split_iv` to columns or to the rows of a store.

    Parameters
    ----------
    data : Data
        With an intercept.
    groups : ndarray of int, shape (N,)
        Group of each person, from 0, in the order of the rows (a store's: of people used).
    moments : sequence of Moments
        Of each group's design, in the order of the groups.
    errors, small_sample
        As for :func:`split_iv`.
    """
    everybody = pool(moments)
    whole, whole_basis = reduce_design(everybody, data.columns)
    data.require_usable(everybody, whole)
    _require_others(data.columns, moments)
    crossed = cross_fit(moments, data.columns)
    split = SplitData.from_source(data, groups, crossed.first_stages)
    reduced, basis = reduce_design(crossed.moments, crossed.columns)
    split.require_usable(crossed.moments, reduced)
    problem = Problem(split, crossed.moments, reduced, basis, errors)
    shared = between_groups(
        _traits_by_group(data, groups, whole, whole_basis), _others(moments, whole_basis)
    )
    fit = _with_shared(fit_problem(problem, "2sls"), problem, shared)
    result = iv_result(problem, fit, "2sls", small_sample)
    return replace(
        result,
        estimator="split-sample 2sls",
        instruments=tuple(data.instruments.names),
        num_instruments=whole.num_instruments,
        overidentification=TestResult.not_applicable("Overidentification", _ONE_EACH),
        notes=(_first_stage_note(len(moments)), *_straddling(data, groups), *result.notes),
        _meats=fit.meats,
    )


def _with_shared(fit: Fit, problem: Problem, shared: Floats) -> Fit:
    """A fit whose errors and meats have what groups share."""
    p, basis = problem.reduced.num_exposures, problem.basis
    root = basis.instruments[:p]
    more = np.einsum("pl,cdpq,qm->cdlm", root, shared, root)
    assert fit.meats is not None  # 2SLS has them
    traits = fit.meats.traits + more
    _require_variance(traits.transpose(0, 2, 1, 3).reshape(p * (p + 1), -1))
    solved = fit_kclass(problem.reduced, 1.0)
    w = solved.residual_weights
    to = parameter_map(basis, solved.bread)[:, :p] @ problem.reduced.zx.T
    cov = fit.cov + to @ np.einsum("c,d,cdlm->lm", w, w, more) @ to.T
    return replace(fit, cov=cov, meats=replace(fit.meats, traits=traits))


def _require_variance(stacked: Floats) -> None:
    """Refuse an estimate of a variance that is none; nothing but its expectation is positive."""
    if linalg.eigvalsh(standardised(stacked)[0])[0] < -RANK_TOLERANCE:
        raise InputError(
            "errors of a split sample need more people, or stronger instruments; found groups that "
            "share so much of each other's first stage that the variance came out negative; give "
            "fewer instruments, or use mrscale.iv(..., estimator='liml') and its anderson_rubin()"
        )


def _others(moments: Sequence[Moments], basis: Basis) -> list[Floats]:
    """Inverse cross-product of the canonical instruments of all groups but one, for each."""
    z = basis.instruments
    roots = [whitening(m.transform(z).cross)[0] for m in leave_each_out(moments, Moments.combine)]
    return [root @ root.T for root in roots]


def _traits_by_group(data: Data, groups: Codes, reduced: Reduced, basis: Basis) -> list[Floats]:
    """``Meats.traits`` of each group, in one pass."""
    num, n, p = int(groups.max()) + 1, reduced.num_instruments, reduced.num_exposures
    labels = _labels(data.codes, groups)
    sizes = None if data.codes is None else np.bincount(labels)
    unfitted = np.append(np.zeros(p), 1.0)

    def block(rows: Floats, weights: Floats | None, labels: Codes) -> dict[int, OuterSums]:
        scores = iv_scores(*canonical_rows(rows, basis, weights), reduced, unfitted)[1]
        of = labels % num
        return {
            int(g): OuterSums.from_block([scores[of == g]], labels[of == g], sizes)
            for g in np.unique(of)
        }

    def combine(a: dict[int, OuterSums], b: dict[int, OuterSums]) -> dict[int, OuterSums]:
        both = {g: a[g].combine(b[g], sizes) for g in a.keys() & b.keys()}
        return {**a, **b, **both}

    sums = replace(data, codes=labels)._reduce(block, combine)
    shape = (p + 1, n, p + 1, n)
    return [sums[g].totals[0].reshape(shape).transpose(0, 2, 1, 3) for g in range(num)]


@dataclass(frozen=True, eq=False)
class SplitData(Data):
    """The design [X-hat | W | X | y] of other data, X-hat from the first stage of other groups.

    Attributes
    ----------
    source : Data
    groups : ndarray of int, shape (N,)
    first_stages : tuple of OtherFirstStage
        One per group.
    """

    source: Data
    groups: Codes
    first_stages: tuple[OtherFirstStage, ...]

    @classmethod
    def from_source(
        cls, source: Data, groups: Codes, first_stages: tuple[OtherFirstStage, ...]
    ) -> SplitData:
        """The source's columns, predictions in the place of instruments."""
        names = [f"predicted {name}" for name in source.exposures.names]
        return cls(
            instruments=NamedColumns("instrument", names, np.zeros((0, len(names)))),
            covariates=source.covariates,
            exposures=source.exposures,
            outcome=source.outcome,
            weights=source.weights,
            codes=source.codes,
            intercept=source.intercept,
            source=source,
            groups=groups,
            first_stages=first_stages,
        )

    def _reduce(self, block: Any, combine: Any, order: Any = None) -> Any:
        # tasks carry the kernel to other processes: it must not hold the data
        kernel = partial(_of_split_rows, block, self.first_stages, self.codes is not None)
        labelled = replace(self.source, codes=_labels(self.codes, self.groups))
        return labelled._reduce(kernel, combine, order)


def _labels(clusters: Codes | None, groups: Codes) -> Codes:
    """``cluster * G + group``, by which a kernel knows both."""
    return groups if clusters is None else clusters * (groups.max() + 1) + groups


def _of_split_rows(
    block: Any,
    first_stages: tuple[OtherFirstStage, ...],
    clustered: bool,
    rows: Floats,
    weights: Floats | None,
    labels: Codes,
) -> Any:
    """A function of the rows of the new design, from a labelled block of the old one's."""
    clusters, groups = np.divmod(labels, len(first_stages))
    new = np.empty((len(rows), first_stages[0].columns.width))
    for group in np.unique(groups):
        chosen = groups == group
        new[chosen] = first_stages[group].rows(rows[chosen])
    return block(new, weights, clusters if clustered else None)


def _by_group(rows: Floats, weights: Floats | None, groups: Codes) -> dict[int, Moments]:
    found = {}
    for group in np.unique(groups):
        chosen = groups == group
        with np.errstate(invalid="ignore", over="ignore"):  # found, and named, in the result
            of_group = None if weights is None else weights[chosen]
            found[int(group)] = Moments.from_block(rows[chosen], of_group)
    return found


def _group_codes(groups: Any, outcome: NamedColumns) -> Codes:
    labels = named_vector(groups, "groups")
    require_same_rows([outcome, labels])
    codes, names = pd.factorize(labels.values)
    missing = int((codes < 0).sum())
    if missing:
        raise InputError(
            "groups must be known for everybody; found no group for "
            f"{show_count(missing)} people; give each a group, that of their relatives"
        )
    if not 2 <= len(names) <= MOST_GROUPS:
        raise InputError(
            f"a split sample needs two to {MOST_GROUPS} groups of people; found "
            f"{show_count(len(names))}; divide people (families as a whole) at random, for "
            "example into ten"
        )
    return codes.astype(np.int64)


def _require_others(columns: Columns, moments: Sequence[Moments]) -> None:
    """Refuse groups of which one leaves too few people for a first stage."""
    fewest = sum(group.count for group in moments) - max(group.count for group in moments)
    needed = columns.num_instruments + columns.num_covariates + columns.num_exposures + 1
    if fewest <= needed:
        raise InputError(
            "the first stage of a group comes from the people outside it, and needs more of them "
            f"than instruments and covariates; found {show_count(vague(fewest))} people outside "
            f"the largest group, {columns.num_instruments:,} instruments and "
            f"{columns.num_covariates:,} covariates; make more groups of equal size, or give "
            "fewer instruments"
        )


_ONE_EACH = "the split-sample first stage makes one instrument per exposure"


def _first_stage_note(num_groups: int) -> str:
    return (
        f"each of {num_groups} groups has the first stage of the others: the table of the first "
        "stage is out of sample, of the exposures on these predictions"
    )


def _straddling(data: Data, groups: Codes) -> list[str]:
    if data.codes is None:
        return []
    if len(np.unique(_labels(data.codes, groups))) == data.num_clusters:
        return []
    return [
        "some clusters have people in several groups: what they share then reaches their own "
        "first stage; put each cluster (family) into one group"
    ]
