"""What a genotype store says of an exposure and an outcome."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from mrscale.disclosure import show_count
from mrscale.results.iv import IVResult
from mrscale.results.logistic import LogisticIVResult
from mrscale.stats.first_stage import WEAK_F
from mrscale.stats.specification import TestResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ESTIMATES = (
    "label",
    "exposure",
    "estimate",
    "std_error",
    "ci_lower",
    "ci_upper",
    "pvalue",
    "num_obs",
    "num_instruments",
    "first_stage_f",
    "note",
)
"""Columns of tables of estimates."""


def no_estimates() -> pd.DataFrame:
    """A table of estimates without rows."""
    return pd.DataFrame(columns=list(ESTIMATES))


@dataclass(frozen=True, eq=False, repr=False)
class CohortResult:
    """Estimates from a genotype store: everybody together, and what tells whether to believe it.

    Tables of estimates have the columns :data:`ESTIMATES`, a row per label and exposure. Counts of
    people in all tables may leave: 1 to 20 are ``"<=20"``, and one from which such a count would
    follow (``num_obs`` of an environment next to all) is a bound too.

    Attributes
    ----------
    outcome : str
    exposures : tuple of str
    instruments : {"genotype", "latent"}
    estimates : pandas.DataFrame
        Everybody together; for latent instruments each way to use them, labelled as in a study
        (``"linear"``, ``"linear_controls"`` ...).
    fit : IVResult, LogisticIVResult or None
        The regression on everybody; None for latent instruments, which pool several. Its
        ``num_obs`` is exact.
    people : int or str
        People used, as it may be shown.
    by_environment : pandas.DataFrame
        Each environment by itself, or why not.
    meta : pandas.DataFrame
        Fixed- and random-effects means over environments; ``Q``, ``Q_pvalue``, ``I2``, ``tau2``.
    leave_one_environment_out : pandas.DataFrame
        Everybody else, for each environment.
    first_stage_heterogeneity : pandas.DataFrame
        Whether the instruments act on each exposure alike in all environments: ``Q``, ``dof``,
        ``pvalue``, ``I2``.
    leave_one_instrument_out : pandas.DataFrame
        The other instruments, for each instrument: 2SLS, whatever the estimator.
    jackknife : pandas.DataFrame
        Delete-block jackknife over environments and folds: ``estimate``, ``std_error`` and
        ``bias_corrected`` per exposure. Families that span environments lie in several blocks.
    per_variant : pandas.DataFrame
        Associations of each variant with each trait, for :func:`mrscale.summary_mr`: ``beta``,
        ``std_error`` (homoskedastic), ``pvalue``, ``num_obs``; ``environment`` is empty for all
        together.
    notes : tuple of str
    """

    outcome: str
    exposures: tuple[str, ...]
    instruments: str
    estimates: pd.DataFrame
    fit: IVResult | LogisticIVResult | None = None
    people: int | str = 0
    by_environment: pd.DataFrame = field(default_factory=no_estimates)
    meta: pd.DataFrame = field(default_factory=pd.DataFrame)
    leave_one_environment_out: pd.DataFrame = field(default_factory=no_estimates)
    first_stage_heterogeneity: pd.DataFrame = field(default_factory=pd.DataFrame)
    leave_one_instrument_out: pd.DataFrame = field(default_factory=no_estimates)
    jackknife: pd.DataFrame = field(default_factory=pd.DataFrame)
    per_variant: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: tuple[str, ...] = ()

    def to_dataframe(self) -> pd.DataFrame:
        """All estimates in one table, the data of a forest plot.

        Returns
        -------
        DataFrame
            ``group`` (``"all"``, ``"environment"``, ``"meta-analysis"`` or ``"without"``) and the
            columns :data:`ESTIMATES`.
        """
        tables = {
            "all": self.estimates,
            "environment": self.by_environment,
            "meta-analysis": self.meta,
            "without": self.leave_one_environment_out,
        }
        columns = ["group", *ESTIMATES]
        rows = [
            row
            for name, table in tables.items()
            for row in table.assign(group=name).to_dict("records")
        ]
        return pd.DataFrame(rows, columns=columns)

    def plot_forest(self, ax: Axes | None = None) -> Axes:
        """Forest plot: everybody together, each environment, and their mean.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default the only axes of a new figure.

        Returns
        -------
        Axes

        Examples
        --------
        >>> import mrscale as mr
        >>> cohort = mr.estimate("store.zarr", by="environment")
        >>> ax = cohort.plot_forest()
        >>> [text.get_text() for text in ax.get_yticklabels()]
        ['everybody', 'north', 'south', 'west', 'fixed effects', 'random effects']
        >>> ax.figure.savefig("forest.svg")
        """
        from mrscale.plots.forest import plot_forest

        table = self.to_dataframe()
        return plot_forest(table[table["group"] != "without"], ax)

    def plot_first_stage(self, ax: Axes | None = None) -> Axes:
        """First-stage F of everybody together and of each environment, against 10.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default the only axes of a new figure.

        Returns
        -------
        Axes

        Examples
        --------
        >>> import mrscale as mr
        >>> cohort = mr.estimate("store.zarr", by="environment")
        >>> ax = cohort.plot_first_stage()
        >>> [text.get_text() for text in ax.get_yticklabels()]
        ['everybody', 'north', 'south', 'west']
        """
        from mrscale.plots.forest import row_names
        from mrscale.plots.instruments import first_stage

        table = self.to_dataframe()
        table = table[table["group"].isin(["all", "environment"])]
        return first_stage(
            pd.Series(table["first_stage_f"].to_numpy(float), row_names(table)), WEAK_F, ax
        )

    def plot_leave_one_out(self, ax: Axes | None = None) -> Axes:
        """Forest plot of everybody but each environment.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default the only axes of a new figure.

        Returns
        -------
        Axes

        Examples
        --------
        >>> import mrscale as mr
        >>> cohort = mr.estimate("store.zarr", by="environment")
        >>> ax = cohort.plot_leave_one_out()
        >>> [text.get_text() for text in ax.get_yticklabels()]
        ['without north', 'without south', 'without west']
        """
        from mrscale.plots.instruments import plot_leave_one_out

        return plot_leave_one_out(self.leave_one_environment_out, ax)

    def to_dict(self) -> dict[str, Any]:
        """For machines: lists of rows; a number that does not exist is None."""
        tables = {
            "estimates": self.to_dataframe(),
            "meta": self.meta,
            "first_stage_heterogeneity": self.first_stage_heterogeneity,
            "leave_one_instrument_out": self.leave_one_instrument_out,
            "jackknife": self.jackknife,
            "per_variant": self.per_variant,
        }
        return {
            "outcome": self.outcome,
            "exposures": list(self.exposures),
            "instruments": self.instruments,
            "people": self.people,
            **{name: _records(table) for name, table in tables.items()},
            "fit": self._fit_dict(),
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """A short text: estimates, their heterogeneity, tests and notes."""
        shown = ["group", "label", "exposure", "estimate", "ci_lower", "ci_upper", "first_stage_f"]
        table = self.to_dataframe()[[*shown, "num_obs"]]
        head = f"{', '.join(self.exposures)} -> {self.outcome}, {self.instruments} instruments, "
        head += f"{self.people if self._is_bounded else show_count(int(self.people))} people"
        text = table.to_string(index=False, float_format="{:.4g}".format, na_rep="")
        lines = [head, text, *self._heterogeneity, *map(self._test_text, self._tests)]
        return "\n".join([*lines, *(f"Note: {note}" for note in self._all_notes)])

    __repr__ = summary

    def _repr_html_(self) -> str:
        lines = [*self._heterogeneity, *map(self._test_text, self._tests), *self._all_notes]
        paragraphs = "".join(f"<p>{escape(line)}</p>" for line in lines)
        return str(self.to_dataframe().to_html(index=False, na_rep="")) + paragraphs

    @property
    def _is_bounded(self) -> bool:
        return isinstance(self.people, str)

    @property
    def _all_notes(self) -> list[str]:
        """Of the result, and why an environment has no estimate."""
        empty = self.by_environment[self.by_environment["estimate"].isna()]
        reasons = dict(zip(empty["label"], empty["note"], strict=True))
        return [*self.notes, *(f"{name}: {reason}" for name, reason in reasons.items())]

    @property
    def _heterogeneity(self) -> list[str]:
        rows = self.meta.drop_duplicates("exposure").to_dict("records") if len(self.meta) else []
        return [
            f"Between environments ({row['exposure']}): Q = {row['Q']:.3g}, "
            f"p = {row['Q_pvalue']:.3g}, I2 = {row['I2']:.0%}"
            for row in rows
            if row["num_environments"] > 1
        ]

    @property
    def _tests(self) -> tuple[TestResult, ...]:
        if isinstance(self.fit, IVResult):
            return self.fit.overidentification, self.fit.endogeneity
        return (self.fit.exogeneity,) if self.fit else ()

    def _test_text(self, test: TestResult) -> str:
        """Without the residual degrees of freedom where they would tell the number of people."""
        if test.reason or not (self._is_bounded and isinstance(test.dof, tuple)):
            return str(test)
        return f"{test.name}: p = {test.pvalue:.3g}"

    def _fit_dict(self) -> dict[str, Any] | None:
        """None, too, where the number of people is hidden: it would follow from F and R2."""
        return None if self.fit is None or self._is_bounded else self.fit.to_dict()


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of plain numbers and text; None for what is not finite."""
    return [
        {str(name): _plain(value) for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
