"""What results of regressions share: parameters with their covariance, and how they are written.

Numbers for machines are plain: None for what is missing or infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mrscale.disclosure import export_count, is_small
from mrscale.errors import InputError

FEW = "so few people that their number would follow from the estimates: these are not shown"


@dataclass(frozen=True, eq=False, repr=False)
class Parameters:
    """Estimates by name, and their covariance.

    Attributes
    ----------
    params : pandas.Series
    cov : pandas.DataFrame
    """

    params: pd.Series
    cov: pd.DataFrame

    @property
    def reference(self) -> Any:
        """Distribution of an estimate over its standard error."""
        return stats.norm

    @property
    def std_errors(self) -> pd.Series:
        """Standard errors by name."""
        return pd.Series(np.sqrt(np.diag(self.cov)), self.params.index, name="std_error")

    @property
    def tstats(self) -> pd.Series:
        """Estimates over standard errors."""
        return (self.params / self.std_errors).rename("tstat")

    @property
    def pvalues(self) -> pd.Series:
        """Two-sided p-values of no effect, by name."""
        values = 2 * self.reference.sf(np.abs(self.tstats.to_numpy()))
        return pd.Series(values, self.params.index, name="pvalue")

    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        """Wald intervals, in the units of the estimates.

        Parameters
        ----------
        level : float, default 0.95
            Coverage of the intervals.

        Returns
        -------
        DataFrame
            A row per parameter: ``lower`` and ``upper``.

        Raises
        ------
        InputError
            If ``level`` is not between 0 and 1.
        """
        require_level(level)
        half = float(self.reference.isf((1 - level) / 2)) * self.std_errors
        return pd.DataFrame({"lower": self.params - half, "upper": self.params + half})

    def to_dataframe(self, level: float = 0.95) -> pd.DataFrame:
        """Estimates with their errors and intervals, in one table.

        Parameters
        ----------
        level : float, default 0.95
            Coverage of the intervals.

        Returns
        -------
        DataFrame
            A row per parameter: ``estimate``, ``std_error``, ``tstat``, ``pvalue``, ``ci_lower``
            and ``ci_upper``.

        Raises
        ------
        InputError
            If ``level`` is not between 0 and 1.
        """
        bounds = self.conf_int(level)
        table = pd.DataFrame(
            {
                "estimate": self.params,
                "std_error": self.std_errors,
                "tstat": self.tstats,
                "pvalue": self.pvalues,
                "ci_lower": bounds["lower"],
                "ci_upper": bounds["upper"],
            }
        )
        table.attrs["level"] = level  # figures say it
        return table


def number(value: float) -> str:
    """As people read it; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.5g}"


def plain(value: Any) -> Any:
    """None for what is not finite."""
    return float(value) if math.isfinite(value) else None


def rows(table: pd.DataFrame, key: str) -> list[dict[str, Any]]:
    """A table as records, its index as ``key``."""
    return [
        {key: name, **{str(column): plain(value) for column, value in row.items()}}
        for name, row in zip(table.index, table.to_dict("records"), strict=True)
    ]


def shown_clusters(num_clusters: int | None, num_obs: int) -> int | str | None:
    """A number of clusters is no number of people, but there are no fewer people."""
    if num_clusters is None or not is_small(num_obs):
        return num_clusters
    return export_count(num_clusters)


def require_level(level: float) -> None:
    """Refuse a coverage that is none."""
    if not isinstance(level, Real) or not 0 < level < 1:
        raise InputError(
            f"level must lie between 0 and 1; found {level}; it is the coverage of an interval: "
            "give 0.95 for a 95 % interval"
        )


def text(table: pd.DataFrame) -> str:
    """A table as plain text."""
    return str(table.to_string(float_format=number))
