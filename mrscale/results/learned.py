"""The result of an estimate with learned instruments."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from mrscale.disclosure import export_count, show_count
from mrscale.results.pair import Estimate, PairResult, Sensitivity, Trust
from mrscale.results.parameters import number, require_level, text
from mrscale.stats.pooling import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TABLE = (
    "label",
    "estimate",
    "std_error",
    "ci_lower",
    "ci_upper",
    "pvalue",
    "first_stage_f",
    "j_pvalue",
    "q_pvalue",
    "num_instruments",
)


@dataclass(frozen=True, eq=False, repr=False)
class LearnedIVResult:
    """An effect estimated with learned instruments, beside its rivals: numbers only, no data.

    Attributes
    ----------
    pair : PairResult
        Every estimate, the headline, and the checks behind the choice.
    dof : float
        Degrees of freedom of the headline's t reference; infinite for a normal one.
    latent_dim, num_factors, num_blocks : int
        Latent instruments, principal components they are made from, and encoders.
    environments : tuple of str
        Their names.
    num_clusters : int or None
        Clusters, if errors are clustered.
    latent_dim_path : pandas.DataFrame
        What the latent dimension was chosen by; see
        :func:`mrscale.results.latent_dim.path_table`. Empty if it was given, or chosen by the
        permutation test.
    provenance : dict
        Settings, seed, versions of software.
    """

    pair: PairResult
    dof: float
    latent_dim: int
    num_factors: int
    num_blocks: int
    environments: tuple[str, ...]
    num_clusters: int | None
    latent_dim_path: pd.DataFrame
    provenance: dict[str, Any]

    @property
    def headline(self) -> str:
        """Which row of :attr:`table` is the headline."""
        return self.pair.headline

    @property
    def estimate(self) -> float:
        """The headline: outcome units per unit of exposure."""
        return self._best.estimate

    @property
    def std_error(self) -> float:
        """Of the headline, with the encoders' own error where it is a learned one."""
        return self._best.std_error

    @property
    def pvalue(self) -> float:
        """Two-sided, of no effect."""
        return self._best.pvalue

    @property
    def trust(self) -> Trust:
        """How far the learned estimate can be believed: ``"green"``, ``"amber"`` or ``"red"``."""
        return self.pair.trust

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why this trust and this headline, in words."""
        return self.pair.reasons

    @property
    def anderson_rubin(self) -> tuple[tuple[float, float], ...]:
        """95 % Anderson-Rubin set of the adjusted 2SLS, as intervals: right however weak the
        instruments are. Empty: no effect fits all instruments."""
        return self.pair.anderson_rubin

    def conf_int(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of the headline, lower and upper end.

        Parameters
        ----------
        level : float, default 0.95
            Coverage.

        Returns
        -------
        lower, upper : float
            In outcome units per unit of exposure.

        Raises
        ------
        InputError
            If ``level`` is not between 0 and 1.
        """
        require_level(level)
        return interval(self.estimate, self.std_error, level=level, dof=self.dof)[:2]

    @property
    def table(self) -> pd.DataFrame:
        """A row per estimator.

        Index ``key``; columns ``label``, ``estimate``, ``std_error``, ``ci_lower``, ``ci_upper``
        (95 %), ``pvalue``, ``first_stage_f``, ``j_pvalue`` (Hansen), ``q_pvalue`` (Cochran, over
        environments), ``num_instruments``, ``num_obs``, ``headline``. Counts of 1 to 20 people are
        ``"<=20"``.
        """
        table = pd.DataFrame([asdict(one) for one in self.pair.estimates]).set_index("key")
        shown = table[list(_TABLE)]
        counts = [export_count(one.num_obs) for one in self.pair.estimates]
        return shown.assign(num_obs=counts, headline=table.index == self.headline)

    @property
    def diagnostics(self) -> pd.DataFrame:
        """A row per check: ``name``, ``statistic``, ``threshold``, ``verdict``, ``meaning``."""
        return pd.DataFrame([asdict(one) for one in self.pair.diagnostics])

    @property
    def sensitivity(self) -> pd.DataFrame:
        """``name``, ``value``, ``lower``, ``upper``, ``meaning``: what would explain the headline
        away (robustness values; leakage of the confounded part into the latent), the union of the
        intervals over encoders, restarts and latent dimensions, and the range of the adjusted 2SLS
        without one instrument."""
        columns = [f.name for f in fields(Sensitivity)]
        return pd.DataFrame([asdict(one) for one in self.pair.sensitivity], columns=columns)

    @property
    def per_environment(self) -> pd.DataFrame:
        """2SLS on all instruments inside each environment, as :attr:`table`."""
        rows = [
            {"key": one.key, **{c: getattr(one, c) for c in _TABLE[1:]}} for one in self._inside
        ]
        return pd.DataFrame(rows, columns=["key", *_TABLE[1:]]).set_index("key")

    def plot_latent_dim(self, ax: Axes | None = None) -> Axes:
        """Held-out log-likelihood over latent dimensions, the chosen one marked.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default the only axes of a new figure.

        Returns
        -------
        Axes
            Empty where the latent dimension was given, or chosen by the permutation test.

        Examples
        --------
        >>> import mrscale as mr
        >>> people = mr.simulate_latent("linear", num_exogenous=1, num_confounded=1, num_people=800)
        >>> fit = mr.learned_iv(
        ...     *(people[name] for name in ("outcome", "exposure", "x", "environment")),
        ...     method="flow",
        ...     steps=20,
        ... )
        >>> ax = fit.plot_latent_dim()
        >>> ax.get_xlabel()
        'latent dimension (0: nothing is invariant)'
        """
        from mrscale.plots import training

        return training.latent_dim(self.latent_dim_path, ax)

    def plot_forest(self, ax: Axes | None = None) -> Axes:
        """Forest plot of all estimators; see :meth:`PairResult.plot_forest`.

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
        >>> fit.plot_forest().figure.savefig("forest.svg")
        """
        return self.pair.plot_forest(ax)

    def plot_environments(self, ax: Axes | None = None) -> Axes:
        """Forest plot of 2SLS inside each environment; a dashed line at the headline.

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
        >>> ax = fit.plot_environments()
        >>> [text.get_text() for text in ax.get_yticklabels()]
        ['0', '1', '2', '3', '4']
        """
        return self.pair.plot_environments(ax)

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
        >>> ax = fit.plot_first_stage()
        >>> [text.get_text() for text in ax.get_yticklabels()][-2:]
        ['Learned, linear', 'Learned, linear with controls']
        """
        return self.pair.plot_first_stage(ax)

    def summary(self) -> str:
        """A short text: the headline and why, every estimate, and what would explain it away."""
        shown = self.table[["label", "estimate", "ci_lower", "ci_upper", *_TABLE[6:9]]]
        marks = ["*" if key == self.headline else "" for key in shown.index]
        parts = [
            *self._head,
            *(f"Why: {reason}" for reason in self.reasons),
            text(shown.assign(headline=marks).set_index("label")),
            "Sensitivity",
            text(self.sensitivity.drop(columns="meaning").set_index("name")),
        ]
        return "\n".join(parts)

    __repr__ = summary

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{escape(line)}</p>" for line in (*self._head, *self.reasons))
        tables = (
            self.table.set_index("label"),
            self.diagnostics,
            self.sensitivity.set_index("name"),
        )
        return lines + "".join(table.to_html(float_format=number) for table in tables)

    @property
    def _best(self) -> Estimate:
        return self.pair[self.headline]

    @property
    def _inside(self) -> tuple[Estimate, ...]:
        return self.pair.per_environment

    @property
    def _head(self) -> list[str]:
        low, high = self.conf_int()
        clusters = (
            "" if self.num_clusters is None else f", {show_count(self.num_clusters)} clusters"
        )
        lines = [
            f"Effect of {self.pair.exposure} on {self.pair.outcome}: {number(self.estimate)} "
            f"(95 % interval {number(low)} to {number(high)}), by: {self._best.label}",
            f"Trust in the learned instruments: {self.trust}. {show_count(self._best.num_obs)} "
            f"people{clusters}, {len(self.environments)} environments, {self.num_blocks} encoders, "
            f"{self.latent_dim} latent instruments of {self.num_factors} factors",
        ]
        if math.isinf(self.dof):
            ends = " and ".join(f"{number(a)} to {number(b)}" for a, b in self.anderson_rubin)
            lines.append(f"Robust to weak instruments (Anderson-Rubin): {ends or 'no effect fits'}")
        return lines
