"""The result of one instrumental-variable regression."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd
from scipy import stats

from mrscale.disclosure import export_count, is_small, show_count
from mrscale.errors import InputError
from mrscale.results.parameters import (
    FEW,
    Parameters,
    number,
    plain,
    require_level,
    rows,
    shown_clusters,
    text,
)
from mrscale.stats.clr import clr
from mrscale.stats.first_stage import WEAK_F
from mrscale.stats.reduced import Meats, Reduced
from mrscale.stats.sets import ConfidenceSet
from mrscale.stats.specification import TestResult
from mrscale.stats.weak import anderson_rubin

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, repr=False)
class IVResult(Parameters):
    """A fitted instrumental-variable regression: numbers only, no data.

    Attributes
    ----------
    params : pandas.Series
        Estimates by name: exposures first, then covariates, then ``const``.
    cov : pandas.DataFrame
        Their covariance.
    outcome : str
        Name of the outcome.
    exposures, instruments : tuple of str
        Names; ``instruments`` as given, before rank reduction.
    estimator, errors : str
        As asked for.
    small_sample : bool
        Whether errors are scaled for the number of parameters and p-values are from t.
    dof : float
        Degrees of freedom of that t; infinite for a normal distribution.
    num_obs, num_instruments : int
        People, and independent instruments given the covariates.
    num_clusters : int or None
        Clusters, if errors are clustered.
    kappa : float
        The k of a k-class estimator; NaN otherwise.
    residual_variance : float
        ``u'u / N``, or ``u'u / (N - K)`` with ``small_sample``; N without those whom JIVE leaves
        out.
    first_stage : pandas.DataFrame
        A row per exposure, empty for OLS; its columns are the fields of
        :class:`mrscale.stats.first_stage.FirstStage`. What concerns all exposures together
        stands in every row.
    first_stage_reasons : dict of str to str
        Why a column of ``first_stage`` is NaN.
    overidentification, endogeneity : TestResult
    condition_number : float
        Of the standardised instruments and covariates. Relative errors of the estimates are about
        machine precision times its square.
    notes : tuple of str
        What a reader needs to know: columns dropped, digits lost, conventions.
    """

    outcome: str
    exposures: tuple[str, ...]
    instruments: tuple[str, ...]
    estimator: str
    errors: str
    small_sample: bool
    dof: float
    num_obs: int
    num_instruments: int
    num_clusters: int | None
    kappa: float
    residual_variance: float
    first_stage: pd.DataFrame
    first_stage_reasons: dict[str, str]
    overidentification: TestResult
    endogeneity: TestResult
    condition_number: float
    notes: tuple[str, ...] = ()
    _reduced: Reduced | None = field(default=None, repr=False)
    _meats: Meats | None = field(default=None, repr=False)

    def anderson_rubin(self, level: float = 0.95, exposure: str | None = None) -> ConfidenceSet:
        """Anderson-Rubin set of an exposure's effect: right however weak the instruments are.

        Parameters
        ----------
        level : float, default 0.95
        exposure : str, optional
            Name of the exposure; the first if left out.

        Returns
        -------
        ConfidenceSet
            With robust or clustered errors the test is robust in the same way; see
            :func:`mrscale.stats.weak.anderson_rubin`.

        Raises
        ------
        InputError
            If ``level`` is not between 0 and 1, or there is no such exposure.
        """
        require_level(level)
        index = self._exposure_index(exposure)
        if self._reduced is None:
            return ConfidenceSet.not_applicable("anderson-rubin", level, _NO_INSTRUMENTS)
        return anderson_rubin(self._reduced, level, meats=self._meats, exposure=index)

    def clr(self, level: float = 0.95, exposure: str | None = None) -> ConfidenceSet:
        """Moreira's conditional likelihood ratio set: as valid, shorter with many instruments.

        Parameters
        ----------
        level : float, default 0.95
        exposure : str, optional
            Name of the exposure; the first if left out.

        Returns
        -------
        ConfidenceSet
            See :func:`mrscale.stats.clr.clr`.

        Raises
        ------
        InputError
            If ``level`` is not between 0 and 1, or there is no such exposure.
        """
        require_level(level)
        index = self._exposure_index(exposure)
        if self._reduced is None:
            return ConfidenceSet.not_applicable("clr", level, _NO_INSTRUMENTS)
        return clr(self._reduced, level, meats=self._meats, exposure=index)

    def to_dict(self, level: float = 0.95) -> dict[str, Any]:
        """For machines: plain numbers, text and lists, as JSON takes them.

        A number that does not exist or is infinite is None, with the reason beside it where
        there is one; an end of a confidence set that is None is infinite. A count of 1 to 20
        people is ``"<=20"``, and all numbers from which it would follow are None.

        Parameters
        ----------
        level : float, default 0.95
            Coverage of the intervals.

        Returns
        -------
        dict

        Raises
        ------
        InputError
            If ``level`` is not between 0 and 1.
        """
        sets = {"anderson_rubin": self.anderson_rubin, "clr": self.clr}
        told = {
            "outcome": self.outcome,
            "exposures": list(self.exposures),
            "instruments": list(self.instruments),
            "estimator": self.estimator,
            "errors": self.errors,
            "small_sample": self.small_sample,
            "dof": plain(self.dof),
            "num_obs": export_count(self.num_obs),
            "num_instruments": self.num_instruments,
            "num_clusters": shown_clusters(self.num_clusters, self.num_obs),
            "kappa": plain(self.kappa),
            "residual_variance": plain(self.residual_variance),
            "condition_number": plain(self.condition_number),
            "level": level,
            "estimates": rows(self.to_dataframe(level), "parameter"),
            "first_stage": rows(self.first_stage, "exposure"),
            "first_stage_reasons": dict(self.first_stage_reasons),
            "overidentification": self._test_dict(self.overidentification),
            "endogeneity": self._test_dict(self.endogeneity),
            **{
                name: {exposure: _set_dict(of(level, exposure)) for exposure in self.exposures}
                for name, of in sets.items()
            },
            "notes": list(self._all_notes),
        }
        return told | dict.fromkeys(_TELLING) if is_small(self.num_obs) else told

    def plot_forest(self, ax: Axes | None = None) -> Axes:
        """Forest plot of the exposures' estimates, with the effective F of each.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default the only axes of a new figure.

        Returns
        -------
        Axes

        Examples
        --------
        >>> import numpy as np, mrscale as mr
        >>> rng = np.random.default_rng(0)
        >>> z = rng.binomial(2, 0.3, (1000, 3))
        >>> x = z @ [0.3, 0.2, 0.4] + rng.normal(size=1000)
        >>> fit = mr.iv(0.5 * x + rng.normal(size=1000), x, z)
        >>> ax = fit.plot_forest()
        >>> [text.get_text() for text in ax.get_yticklabels()]
        ['exposure']
        """
        from mrscale.plots.forest import plot_forest

        shown = self.to_dataframe().loc[list(self.exposures)]
        strength = self.first_stage["effective_f"] if len(self.first_stage) else math.nan
        return plot_forest(shown.assign(first_stage_f=strength), ax)

    def plot_first_stage(self, ax: Axes | None = None) -> Axes:
        """Every first-stage F of every exposure, against the rule of thumb of 10.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default the only axes of a new figure.

        Returns
        -------
        Axes

        Examples
        --------
        >>> import numpy as np, mrscale as mr
        >>> rng = np.random.default_rng(0)
        >>> z = rng.binomial(2, 0.3, (1000, 3))
        >>> x = z @ [0.3, 0.2, 0.4] + rng.normal(size=1000)
        >>> fit = mr.iv(0.5 * x + rng.normal(size=1000), x, z)
        >>> ax = fit.plot_first_stage()
        >>> [text.get_text() for text in ax.get_yticklabels()]
        ['exposure: F', 'exposure: robust F', 'exposure: effective F']
        """
        from mrscale.plots.instruments import first_stage

        named = {
            f"{exposure}: {name}": self.first_stage.loc[exposure, column]
            for exposure in self.first_stage.index
            for column, name in _STRENGTHS.items()
        }
        return first_stage(pd.Series(named, dtype=float), WEAK_F, ax)

    def summary(self) -> str:
        """A short text: the estimates, the first stage, the tests and the notes."""
        head = (
            f"{self.estimator.upper()} of {self.outcome}, {self.errors} errors: "
            f"{show_count(self.num_obs)} people, {self.num_instruments} instruments"
        )
        if self.num_clusters is not None:
            head += f", {shown_clusters(self.num_clusters, self.num_obs)} clusters"
        parts = [head]
        if not is_small(self.num_obs):
            parts.append(text(self.to_dataframe()))
            if len(self.first_stage):
                parts += ["First stage", text(self.first_stage)]
            parts += map(str, self._tests)
        return "\n".join([*parts, *(f"Note: {note}" for note in self._all_notes)])

    __repr__ = summary

    def _repr_html_(self) -> str:
        if is_small(self.num_obs):
            return f"<p>{escape(self.summary())}</p>"
        first = self.first_stage.to_html(float_format=number) if len(self.first_stage) else ""
        lines = "".join(f"<p>{escape(line)}</p>" for line in (*map(str, self._tests), *self.notes))
        return self.to_dataframe().to_html(float_format=number) + first + lines

    @property
    def reference(self) -> Any:
        """Normal, or t with ``dof`` degrees of freedom."""
        return stats.t(self.dof) if math.isfinite(self.dof) else stats.norm

    @property
    def _tests(self) -> tuple[TestResult, TestResult]:
        return self.overidentification, self.endogeneity

    @property
    def _all_notes(self) -> tuple[str, ...]:
        return (*self.notes, FEW) if is_small(self.num_obs) else self.notes

    def _test_dict(self, test: TestResult) -> dict[str, Any]:
        return {
            "name": test.name,
            "statistic": plain(test.statistic),
            "dof": [*test.dof] if isinstance(test.dof, tuple) else [test.dof],
            "pvalue": plain(test.pvalue),
            "reason": test.reason,
        }

    def _exposure_index(self, name: str | None) -> int:
        if name is not None and name not in self.exposures:
            raise InputError(
                f"there is no exposure {name!r} in this fit; choose one of "
                f"{', '.join(self.exposures)}"
            )
        return 0 if name is None else self.exposures.index(name)


_STRENGTHS = {
    "f": "F",
    "f_robust": "robust F",
    "effective_f": "effective F",
    "conditional_f": "conditional F",
}
_NO_INSTRUMENTS = "OLS uses no instruments"
_TELLING = (
    "dof",
    "kappa",
    "residual_variance",
    "condition_number",
    "estimates",
    "first_stage",
    "overidentification",
    "endogeneity",
    "anderson_rubin",
    "clr",
)
"""Of :meth:`IVResult.to_dict`, numbers that together tell how many people there are: intervals
against standard errors, one F against another or against R2, degrees of freedom."""


def _set_dict(found: ConfidenceSet) -> dict[str, Any]:
    ends = [[plain(low), plain(high)] for low, high in found.intervals]
    return {"intervals": ends, "reason": found.reason}
