"""Everything estimated for one exposure and one outcome: frozen numbers, no data, no model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from mrscale.plots import numbers
from mrscale.plots.style import PLAIN, look, shortened
from mrscale.stats.first_stage import WEAK_F

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Verdict = Literal["pass", "warn", "fail", "info"]
Trust = Literal["green", "amber", "red"]
RIVAL = "tsls_pc"
"""Key of 2SLS adjusted for principal components and environments, which learned estimates are
compared with."""
ROBUSTNESS = "robustness value"
"""How the names of the sensitivities begin that are made of a t statistic and its degrees of
freedom."""
MOST_INSTRUMENTS = 500
"""Of a pair, or left out of all, so many variants are listed in its result."""


@dataclass(frozen=True)
class Estimate:
    """One estimator's answer for one exposure and outcome.

    Attributes
    ----------
    key, label : str
        Machine name (``"ols"``, ``"tsls"``, ``"tsls_pc"``, ``"meta"``, ``"linear"``,
        ``"linear_controls"``, ``"flow_controls"``, ``"oracle"``) and the name people read.
    estimate, std_error, ci_lower, ci_upper, pvalue : float
        Outcome units per exposure unit; the interval is the nominal 95 % one.
    num_obs, num_instruments : int
        People used, and instruments after rank reduction.
    first_stage_f : float
        Classical first-stage F of the (excluded) instruments; NaN for OLS.
    j_pvalue : float
        Of Hansen's test of overidentification, the median over encoders; NaN for one instrument.
    q_pvalue : float
        Of Cochran's Q of the estimate over environments; NaN where it is not estimated in two.
    note : str
        One sentence a reader needs, or empty.
    """

    key: str
    label: str
    estimate: float
    std_error: float
    ci_lower: float
    ci_upper: float
    pvalue: float
    num_obs: int
    num_instruments: int = 0
    first_stage_f: float = math.nan
    j_pvalue: float = math.nan
    q_pvalue: float = math.nan
    note: str = ""


@dataclass(frozen=True)
class Diagnostic:
    """One check, its verdict, and what it can and cannot certify."""

    name: str
    statistic: float
    threshold: str
    verdict: Verdict
    meaning: str


@dataclass(frozen=True)
class LeftOut:
    """The headline's estimator without one environment; the interval is the nominal 95 % one."""

    label: str
    estimate: float
    ci_lower: float
    ci_upper: float
    first_stage_f: float


@dataclass(frozen=True)
class Sensitivity:
    """How far an estimate depends on something: a value, or a range of estimates, and its meaning;
    NaN for what does not apply."""

    name: str
    value: float
    lower: float
    upper: float
    meaning: str


@dataclass(frozen=True)
class Instrument:
    """A variant and its associations with one exposure and outcome, per effect allele.

    Attributes
    ----------
    variant, position, effect_allele, other_allele : str
        Position as ``"1:1765561"``.
    frequency : float
        Of the effect allele over everybody; NaN where it would tell a small count.
    beta_exposure, se_exposure, beta_outcome, se_outcome : float
        With environments and all covariates partialled out, homoskedastic errors; NaN where the
        variant does not vary given these, errors also where the number of people is hidden.
    """

    variant: str
    position: str
    effect_allele: str
    other_allele: str
    frequency: float
    beta_exposure: float
    se_exposure: float
    beta_outcome: float
    se_outcome: float

    @property
    def first_stage_f(self) -> float:
        """F of this variant alone."""
        return (self.beta_exposure / self.se_exposure) ** 2


@dataclass(frozen=True)
class PairResult:
    """Everything estimated for one exposure and one outcome.

    Attributes
    ----------
    estimates : tuple of Estimate
        In the order of the forest plot.
    headline : str
        Key of the estimate to quote; see ``reasons`` for why.
    trust : {"green", "amber", "red"}
        How far the learned estimate can be believed.
    per_environment : tuple of Estimate
        Naive 2SLS inside each environment (``key`` is the environment's name).
    anderson_rubin : tuple of (float, float)
        95 % Anderson-Rubin set of the adjusted 2SLS, robust or clustered as its error is, as a
        union of intervals (empty tuple: empty set; infinite ends: unbounded).
    without : tuple of LeftOut
        The headline's estimator without each environment, for each that allows it.
    sensitivity : tuple of Sensitivity
        What would explain the headline away, and how far estimates are apart.
    instruments : tuple of Instrument
        Those with the largest F, at most :data:`MOST_INSTRUMENTS`; empty without a store.
    truth : float or None
        The simulated effect, if the data were simulated.
    """

    exposure: str
    outcome: str
    estimates: tuple[Estimate, ...]
    headline: str
    trust: Trust
    reasons: tuple[str, ...]
    diagnostics: tuple[Diagnostic, ...] = ()
    per_environment: tuple[Estimate, ...] = ()
    anderson_rubin: tuple[tuple[float, float], ...] = ()
    without: tuple[LeftOut, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    instruments: tuple[Instrument, ...] = ()
    truth: float | None = None

    def __getitem__(self, key: str) -> Estimate:
        for estimate in self.estimates:
            if estimate.key == key:
                return estimate
        raise KeyError(f"no estimate {key!r}; there are: {[e.key for e in self.estimates]}")

    def to_dataframe(self) -> pd.DataFrame:
        """One row per estimator.

        Returns
        -------
        DataFrame
            ``exposure``, ``outcome``, the fields of :class:`Estimate`, and ``headline``.
        """
        table = pd.DataFrame([asdict(e) for e in self.estimates])
        table.insert(0, "exposure", self.exposure)
        table.insert(1, "outcome", self.outcome)
        return table.assign(headline=table["key"] == self.headline)

    def plot_forest(self, ax: Axes | None = None) -> Axes:
        """Forest plot of all estimators: 95 % intervals, first-stage F, the headline emphasised.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default the only axes of a new figure.

        Returns
        -------
        Axes
            One row per estimate, in their order; a dashed line at the truth when it is known. An
            interval beyond the axis ends in an arrow, its numbers still at the right.

        Examples
        --------
        >>> import mrscale as mr
        >>> people = mr.simulate_latent("linear", num_people=1000)
        >>> fit = mr.learned_iv(
        ...     people.outcome, people.exposure, people.x, people.environment, method="linear"
        ... )
        >>> ax = fit.pair.plot_forest()
        >>> ax.get_xlabel()
        'change of outcome per unit of exposure'
        """
        rows = [(e, e.label, look(e.key)) for e in self.estimates]
        truth = None if self.truth is None else ("truth", self.truth)
        label = f"change of {shortened(self.outcome)} per unit of {shortened(self.exposure)}"
        return self._forest(rows, truth, label, ax)

    def plot_environments(self, ax: Axes | None = None) -> Axes:
        """Forest plot of 2SLS inside each environment; a dashed line at the headline estimate.

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
        >>> people = mr.simulate_latent("linear", num_people=1000)
        >>> fit = mr.learned_iv(
        ...     people.outcome, people.exposure, people.x, people.environment, method="linear"
        ... )
        >>> ax = fit.pair.plot_environments()
        >>> [text.get_text() for text in ax.get_yticklabels()]
        ['0', '1', '2', '3', '4']
        """
        rows = [(e, e.key, PLAIN) for e in self.per_environment]
        best = self[self.headline].estimate
        line = None if math.isnan(best) else ("headline", best)
        return self._forest(rows, line, "2SLS estimate inside the environment", ax)

    def plot_leave_one_out(self, ax: Axes | None = None) -> Axes:
        """Forest plot of the headline's estimator without each environment, and with all.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default the only axes of a new figure.

        Returns
        -------
        Axes

        Examples
        --------
        >>> from mrscale.results import Estimate, LeftOut, PairResult
        >>> best = Estimate("tsls_pc", "2SLS, adjusted", 0.5, 0.1, 0.3, 0.7, 1e-6, 1000)
        >>> left = LeftOut("north", 0.6, 0.3, 0.9, 40.0)
        >>> pair = PairResult("ldl", "chd", (best,), "tsls_pc", "red", (), without=(left,))
        >>> [text.get_text() for text in pair.plot_leave_one_out().get_yticklabels()]
        ['without north', 'all']
        """
        from mrscale.plots.instruments import plot_leave_one_out

        best = self[self.headline]
        shown = ("label", "estimate", "ci_lower", "ci_upper")
        rows = [{name: getattr(one, name) for name in shown} for one in self.without]
        rows.append({name: getattr(best, name) for name in shown} | {"label": "all"})
        return plot_leave_one_out(pd.DataFrame(rows), ax)

    def plot_scatter(self, ax: Axes | None = None) -> Axes:
        """Associations of the listed instruments with the outcome against those with the exposure,
        with lines for the headline and 2SLS adjusted for principal components.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default the only axes of a new figure.

        Returns
        -------
        Axes

        Examples
        --------
        >>> from mrscale.results import Estimate, Instrument, PairResult
        >>> best = Estimate("tsls_pc", "2SLS, adjusted", 0.5, 0.1, 0.3, 0.7, 1e-6, 1000)
        >>> variant = Instrument("rs1", "1:99", "A", "C", 0.2, -0.1, 0.01, -0.05, 0.02)
        >>> pair = PairResult(
        ...     "ldl", "chd", (best,), "tsls_pc", "red", (), instruments=(variant,)
        ... )
        >>> [text.get_text() for text in pair.plot_scatter().get_legend().get_texts()]
        ['2SLS, adjusted']
        """
        from mrscale.plots.instruments import plot_scatter

        columns = [field.name for field in fields(Instrument)]
        data = pd.DataFrame([asdict(one) for one in self.instruments], columns=columns)
        data = data.dropna(subset=["beta_exposure", "beta_outcome"])
        sign = np.sign(data["beta_exposure"])
        data = data.assign(
            beta_exposure=sign * data["beta_exposure"], beta_outcome=sign * data["beta_outcome"]
        )
        lines = [
            {"method": e.label, "estimate": e.estimate, "intercept": math.nan}
            for e in self.estimates
            if e.key in (RIVAL, self.headline)
        ]
        return plot_scatter(data, pd.DataFrame(lines), ax)

    def plot_first_stage(self, ax: Axes | None = None) -> Axes:
        """First-stage F of every estimator, against the rule of thumb of 10.

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
        >>> people = mr.simulate_latent("linear", num_people=1000)
        >>> fit = mr.learned_iv(
        ...     people.outcome, people.exposure, people.x, people.environment, method="linear"
        ... )
        >>> ax = fit.pair.plot_first_stage()
        >>> [text.get_text() for text in ax.get_yticklabels()][-2:]
        ['Learned, linear', 'Learned, linear with controls']
        """
        from mrscale.plots.instruments import first_stage

        return first_stage(
            pd.Series({e.label: e.first_stage_f for e in self.estimates}), WEAK_F, ax
        )

    @property
    def decimals(self) -> int:
        """Decimal places that give the headline's standard error two significant digits."""
        return numbers.decimals(self[self.headline].std_error)

    def _forest(
        self,
        shown: list[tuple[Estimate, str, tuple[str, str]]],
        line: tuple[str, float] | None,
        label: str,
        ax: Axes | None,
    ) -> Axes:
        """Estimates with the name and the look of each."""
        from mrscale.plots.forest import Row, forest

        rows = [
            Row(
                name,
                e.estimate,
                e.ci_lower,
                e.ci_upper,
                e.first_stage_f,
                style,
                is_headline=e.key == self.headline,
            )
            for e, name, style in shown
        ]
        places = self.decimals
        marked = line and (line[1], f"{line[0]} {numbers.number(line[1], places)}")
        return forest(rows, places=places, reference=marked, label=label, ax=ax)
