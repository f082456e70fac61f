"""Tables of genetic ancestry as the workbench makes them: ``ancestry_preds.tsv``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale.disclosure import show_count
from mrscale.errors import InputError
from pipelines.identifiers import require_id_column, require_unique
from pipelines.tables import read_table

LABELS = ("ancestry_pred", "ancestry_pred_other")
FEATURES = "pca_features"
_COMPONENT = re.compile(r"PC[1-9]\d*")


def read_ancestry(file: str | Path, wanted: Iterable[str], sample_column: str) -> pd.DataFrame:
    """Read predicted ancestry and principal components.

    Parameters
    ----------
    file : str or Path
        Table with a column of ids (``research_id``), labels (``ancestry_pred``) and
        ``pca_features``, a text such as ``"[0.1, -0.02, 3e-4]"``.
    wanted : iterable of str
        Columns of interest: components are parsed only if one of them is named.
    sample_column : str
        The study's own name of the column of ids.

    Returns
    -------
    DataFrame
        Indexed by id; the labels that the table has as text, and PC1, PC2, ... as float64 (NaN
        where a person has no features).

    Raises
    ------
    InputError
        If there is no column of ids, a person has two rows, or features are not lists of equally
        many numbers.
    """
    ids = require_id_column(file, sample_column)
    with_components = any(_COMPONENT.fullmatch(name) for name in wanted)
    columns = [ids, *LABELS, *([FEATURES] if with_components else [])]
    table = read_table(file, text=columns, columns=columns).dropna(subset=[ids])
    require_unique(table[ids], f"the table of ancestry ({file})")
    found = table.set_index(ids)
    if FEATURES not in found:
        return found
    components = _parse_features(found.pop(FEATURES), file)
    names = [f"PC{i + 1}" for i in range(components.shape[1])]
    return found.join(pd.DataFrame(components, index=found.index, columns=names))


def _parse_features(features: pd.Series, file: str | Path) -> NDArray[np.float64]:
    """Numbers of the lists, shape (N, components)."""
    lists = [None if pd.isna(cell) else _parse_list(cell) for cell in features]
    lengths = Counter(len(values) for values in lists if values)
    length = lengths.most_common(1)[0][0] if lengths else 0
    num_bad = sum(values is not None and len(values) != (length or -1) for values in lists)
    if num_bad:
        wanted = f"lists of {length} finite numbers" if length else "lists of finite numbers"
        raise InputError(
            f"{show_count(num_bad)} rows of {FEATURES} in {file} are not {wanted} in brackets, as "
            "in [0.1, -0.02]; mend or empty them"
        )
    blank = [np.nan] * length
    return np.array([values or blank for values in lists], dtype=float).reshape(len(lists), length)


def _parse_list(cell: str) -> list[float]:
    """Numbers of "[a, b, ...]"; empty if it is anything else."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return []
    try:
        values = [float(part) for part in cell[1:-1].split(",")]
    except ValueError:
        return []
    return values if np.isfinite(values).all() else []
