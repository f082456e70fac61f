"""Relatives: pairs of a kinship table become families, which share a fold and a cluster."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mrscale.disclosure import policy, show_count
from mrscale.errors import InputError
from pipelines.identifiers import describe_mismatch
from pipelines.tables import column_names, read_table

logger = logging.getLogger(__name__)

_PAIRS = (
    ("i.s", "j.s"),
    ("#iid1", "iid2"),
    ("iid1", "iid2"),
    ("id1", "id2"),
    ("sample_id_1", "sample_id_2"),
    ("sample_id1", "sample_id2"),
    ("research_id_1", "research_id_2"),
    ("person_id_1", "person_id_2"),
)
_COEFFICIENTS = ("kin", "kinship")
_LARGE_SHARE = 0.1


def read_kinship(file: str | Path, kinship_min: float) -> pd.DataFrame:
    """Read the pairs of relatives from a kinship table (of Hail, KING or PLINK).

    Parameters
    ----------
    file : str or Path
        Columns of two ids (``i.s`` and ``j.s``, ``ID1`` and ``ID2``, ...) and of the kinship
        coefficient (``kin`` or ``Kinship``), in any case of letters.
    kinship_min : float
        Pairs with less are not related.

    Returns
    -------
    DataFrame
        Text columns ``first`` and ``second``.

    Raises
    ------
    InputError
        If a column is missing or kinship is not numeric.
    """
    lower = {name.lower(): name for name in column_names(file)}
    pair = next((p for p in _PAIRS if p[0] in lower and p[1] in lower), None)
    coefficient = next((name for name in _COEFFICIENTS if name in lower), None)
    if pair is None or coefficient is None:
        raise InputError(
            f"{file} is not a table of kinship: expected columns i.s, j.s and kin (Hail) or "
            "ID1, ID2 and Kinship (KING)"
        )
    first, second, kin = lower[pair[0]], lower[pair[1]], lower[coefficient]
    table = read_table(file, text=[first, second], columns=[first, second, kin])
    kinship = pd.to_numeric(table[kin], errors="coerce")
    if (kinship.isna() & table[kin].notna()).any():
        raise InputError(f"column {kin!r} of {file} has cells that are not numbers; mend them")
    related = table.loc[kinship >= kinship_min, [first, second]].dropna()
    return related.set_axis(["first", "second"], axis=1)


def family_codes(
    sample: pd.Series, family: pd.Series, pairs: pd.DataFrame | None
) -> NDArray[np.int32]:
    """Connected components of people who share a family name or are a pair of relatives.

    Parameters
    ----------
    sample : Series of str, shape (N,)
        Everyone in the study; pairs with anyone else are left aside.
    family : Series of str, shape (N,)
        Names of families; missing is none, and so is "0", as in PLINK.
    pairs : DataFrame or None
        From :func:`read_kinship`.

    Returns
    -------
    ndarray of int32, shape (N,)
        0, 1, ... in the order of each family's first member; -1 is alone.
    """
    names, _ = pd.factorize(family.mask(family == "0"))
    named = np.flatnonzero(names >= 0)
    # a family's name is one more node, to which all its members are tied
    edges = [(named, len(sample) + names[named])]
    if pairs is not None:
        edges.append(_present_pairs(sample, pairs))
    start, end = (np.concatenate(side) for side in zip(*edges, strict=True))
    num_nodes = len(sample) + int(names.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(start), dtype=bool), (start, end)), (num_nodes, num_nodes))
    component = connected_components(graph, directed=False)[1][: len(sample)]
    size = np.bincount(component)[component]
    codes, _ = pd.factorize(pd.Series(component).mask(size == 1))
    _say_how_related(size)
    return np.asarray(codes, dtype=np.int32)


def cluster_codes(cluster: pd.Series) -> NDArray[np.int32]:
    """Codes of the units of clustered errors, in the order of names; -1 is its own unit."""
    codes, _ = pd.factorize(cluster, sort=True)
    return np.asarray(codes, dtype=np.int32)


def _say_how_related(family_size: NDArray[np.intp]) -> None:
    num_related = int((family_size > 1).sum())
    logger.info("%s people have relatives in the study", show_count(num_related))
    if family_size.max(initial=0) > max(policy().limit, _LARGE_SHARE * len(family_size)):
        logger.warning(
            "one family has more than %d %% of all people, so that folds cannot be even; raise "
            "kinship_min in [people] or check family_column",
            round(100 * _LARGE_SHARE),
        )


def _present_pairs(
    sample: pd.Series, pairs: pd.DataFrame
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of the pairs of which both are in the study."""
    position = pd.Index(sample)
    first, second = (position.get_indexer(pd.Index(pairs[side])) for side in ("first", "second"))
    if len(pairs) and max(first.max(), second.max()) < 0:
        logger.warning(
            "nobody of the kinship table is in the study; %s",
            describe_mismatch(pairs["first"], "the kinship table", sample, "the study"),
        )
    both = (first >= 0) & (second >= 0)
    return first[both], second[both]
