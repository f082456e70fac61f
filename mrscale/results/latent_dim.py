"""What a latent dimension was chosen by, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_COLUMNS = ("log_likelihood", "from_best", "std_error", "chosen")


def path_table(path: Mapping[str, Sequence[float]], chosen: int) -> pd.DataFrame:
    """A row per latent dimension that was tried.

    Parameters
    ----------
    path : mapping of str to sequence of float
        Per latent dimension: held-out log-likelihood per person in each block of people.
    chosen : int

    Returns
    -------
    pandas.DataFrame
        Index ``latent_dim``; 0 has no invariant direction at all. Columns: ``log_likelihood`` (nats
        per person, the mean over blocks), ``from_best`` (that less the best one's), ``std_error``
        of the latter over blocks (NaN for one block), and ``chosen``.
    """
    dims = sorted(int(name) for name in path)
    index = pd.Index(dims, name="latent_dim")
    if not dims:
        return pd.DataFrame(columns=list(_COLUMNS), index=index)
    worth = np.array([path[str(d)] for d in dims], dtype=np.float64)
    # a flow that diverged is worth nothing
    worth = np.where(np.isfinite(worth), worth, np.nan)
    mean = worth.mean(axis=1)
    difference = worth - worth[np.nanargmax(mean)]
    num_blocks = worth.shape[1]
    error = difference.std(axis=1, ddof=1) / num_blocks**0.5 if num_blocks > 1 else np.nan
    values = (mean, difference.mean(axis=1), error, index == chosen)
    return pd.DataFrame(dict(zip(_COLUMNS, values, strict=True)), index=index)


def plot_path(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Held-out log-likelihood over latent dimensions, the chosen one marked.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`path_table`.
    ax : Axes, optional
        Where to draw; by default the only axes of a new figure.

    Returns
    -------
    Axes
        Bars are two standard errors of the difference from the best. Too large a dimension drops
        clearly, too small a one hardly.
    """
    ax = ax or Figure(figsize=(5.6, 3.4), layout="constrained").add_subplot()
    grey, orange = "#5f6368", "#d55e00"
    ax.errorbar(
        table.index, table["from_best"], 2 * table["std_error"].fillna(0), fmt="o-", color=grey
    )
    best = table[table["chosen"].astype(bool)]
    ax.plot(best.index, best["from_best"], "D", color=orange, label="chosen", zorder=3)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("latent dimension (0: nothing is invariant)")
    ax.set_ylabel("held-out log-likelihood\nper person, from the best (nats)")
    ax.legend(frameon=False)
    return ax
