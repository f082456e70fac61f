"""The result of one instrumental-variable logistic regression."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from mrscale.disclosure import export_count, is_small, show_count
from mrscale.results.parameters import (
    FEW,
    Parameters,
    number,
    plain,
    rows,
    shown_clusters,
    text,
)
from mrscale.stats.specification import TestResult


@dataclass(frozen=True, eq=False, repr=False)
class LogisticIVResult(Parameters):
    """Log odds ratios per unit of each exposure: numbers only, no data.

    Attributes
    ----------
    params : pandas.Series
        Log odds ratios by name of the exposure; with ``method="2sri"`` then the coefficients of
        their first-stage residuals, ``residual <exposure>``, zero without confounding.
    cov : pandas.DataFrame
        Their covariance, which accounts for the first stage.
    outcome : str
        Name of the outcome.
    exposures, instruments : tuple of str
        Names; ``instruments`` as given, before rank reduction.
    method : {"2sri", "logistic"}
        Two-stage residual inclusion, or predictor substitution.
    errors : {"robust", "cluster"}
    num_obs, num_cases, num_instruments : int
        People, those with the outcome, and independent instruments given the covariates.
    num_clusters : int or None
        Clusters, if errors are clustered.
    prevalence : float or None
        Of cases in the population, if people were weighted to it.
    first_stage : pandas.DataFrame
        A row per exposure; see :func:`mrscale.iv`.
    first_stage_reasons : dict of str to str
        Why a column of ``first_stage`` is NaN.
    exogeneity : TestResult
        Whether a logistic regression without instruments would have done (2SRI only).
    condition_number : float
        Of the standardised instruments and covariates.
    notes : tuple of str
        What a reader needs to know: what the estimate is, how cases came in, columns dropped.
    """

    outcome: str
    exposures: tuple[str, ...]
    instruments: tuple[str, ...]
    method: str
    errors: str
    num_obs: int
    num_cases: int
    num_instruments: int
    num_clusters: int | None
    prevalence: float | None
    first_stage: pd.DataFrame
    first_stage_reasons: dict[str, str]
    exogeneity: TestResult
    condition_number: float
    notes: tuple[str, ...] = ()

    def odds_ratios(self, level: float = 0.95) -> pd.DataFrame:
        """Odds ratio per unit of each exposure, with its interval.

        Parameters
        ----------
        level : float, default 0.95
            Coverage of the intervals.

        Returns
        -------
        DataFrame
            A row per exposure: ``odds_ratio``, ``ci_lower`` and ``ci_upper``.

        Raises
        ------
        InputError
            If ``level`` is not between 0 and 1.
        """
        log = pd.concat([self.params, self.conf_int(level)], axis=1).loc[list(self.exposures)]
        with np.errstate(over="ignore"):  # an exposure in tiny units: infinity is the answer
            found = pd.DataFrame(np.exp(log))
        return found.set_axis(["odds_ratio", "ci_lower", "ci_upper"], axis=1)

    def to_dict(self, level: float = 0.95) -> dict[str, Any]:
        """For machines: plain numbers, text and lists, as JSON takes them.

        A number that does not exist or is infinite is None. A count of 1 to 20 people is
        ``"<=20"``, and all numbers from which it would follow are None; so is the number of cases
        where it would tell that of a few controls.

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
        test = self.exogeneity
        told = {
            "outcome": self.outcome,
            "exposures": list(self.exposures),
            "instruments": list(self.instruments),
            "method": self.method,
            "errors": self.errors,
            "num_obs": export_count(self.num_obs),
            "num_cases": None if is_small(self._num_controls) else export_count(self.num_cases),
            "num_instruments": self.num_instruments,
            "num_clusters": shown_clusters(self.num_clusters, self.num_obs),
            "prevalence": self.prevalence,
            "condition_number": plain(self.condition_number),
            "level": level,
            "estimates": rows(self.to_dataframe(level), "parameter"),
            "odds_ratios": rows(self.odds_ratios(level), "exposure"),
            "first_stage": rows(self.first_stage, "exposure"),
            "first_stage_reasons": dict(self.first_stage_reasons),
            "exogeneity": {
                "name": test.name,
                "statistic": plain(test.statistic),
                "dof": [test.dof],
                "pvalue": plain(test.pvalue),
                "reason": test.reason,
            },
            "notes": list(self._all_notes),
        }
        return told | dict.fromkeys(_TELLING) if is_small(self.num_obs) else told

    def summary(self) -> str:
        """A short text: the estimates, the first stage, the test and the notes."""
        parts = [self._head]
        if not is_small(self.num_obs):
            parts += [text(self.to_dataframe()), "Odds ratios", text(self.odds_ratios())]
            parts += ["First stage", text(self.first_stage), str(self.exogeneity)]
        return "\n".join([*parts, *(f"Note: {note}" for note in self._all_notes)])

    __repr__ = summary

    def _repr_html_(self) -> str:
        if is_small(self.num_obs):
            return f"<p>{escape(self.summary())}</p>"
        tables = [self.to_dataframe(), self.odds_ratios(), self.first_stage]
        lines = [str(self.exogeneity), *self.notes]
        return "".join(
            [
                f"<p>{escape(self._head)}</p>",
                *(table.to_html(float_format=number) for table in tables),
                *(f"<p>{escape(line)}</p>" for line in lines),
            ]
        )

    @property
    def _num_controls(self) -> int:
        return self.num_obs - self.num_cases

    @property
    def _all_notes(self) -> tuple[str, ...]:
        return (*self.notes, FEW) if is_small(self.num_obs) else self.notes

    @property
    def _head(self) -> str:
        """One line; of cases and controls the rarer, from which the other follows."""
        rarer, kind = min((self.num_cases, "cases"), (self._num_controls, "controls"))
        head = (
            f"Log odds ratios of {self.outcome}, {_METHODS[self.method]}, {self.errors} errors: "
            f"{show_count(self.num_obs)} people, {show_count(rarer)} {kind}, "
            f"{self.num_instruments} instruments"
        )
        shown = shown_clusters(self.num_clusters, self.num_obs)
        return head if shown is None else f"{head}, {shown} clusters"


_METHODS = {
    "2sri": "two-stage residual inclusion",
    "logistic": "two-stage predictor substitution",
}
_TELLING = ("condition_number", "estimates", "odds_ratios", "first_stage", "exogeneity")
"""Of :meth:`LogisticIVResult.to_dict`, numbers that tell how many people there are."""
