"""What a latent dimension was chosen by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

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
    best = np.nanargmax(mean) if np.isfinite(mean).any() else 0
    difference = worth - worth[best]
    num_blocks = worth.shape[1]
    error = difference.std(axis=1, ddof=1) / num_blocks**0.5 if num_blocks > 1 else np.nan
    values = (mean, difference.mean(axis=1), error, index == chosen)
    return pd.DataFrame(dict(zip(_COLUMNS, values, strict=True)), index=index)
