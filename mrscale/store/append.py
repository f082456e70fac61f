"""Adding exposures, outcomes and covariates to a finished store; genotypes are not touched.

The new traits are written as a group of their own under ``appended/``, named by its content, and
become visible all at once with the manifest's next version. An append that is killed leaves a
group that nobody reads, and that the same append writes over with the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mrscale import places
from mrscale.disclosure import show_count, vague
from mrscale.errors import InputError
from mrscale.provenance import digest
from mrscale.store import arrays as zarrs
from mrscale.store import manifest as manifests
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.store.schema import APPENDED, TRAITS

logger = logging.getLogger(__name__)

Columns = Mapping[str, tuple[Sequence[str], NDArray[np.floating[Any]]]]


@dataclass(frozen=True)
class Appended:
    """What an append did.

    Attributes
    ----------
    store : GenotypeStore
        Opened with the new traits.
    names : dict of str to tuple of str
        New names by kind: ``"exposure"``, ``"outcome"``, ``"covariate"``.
    num_absent : int
        People of the store without a row in the table; their new traits are missing.
    is_new : bool
        False if the store had these very traits already.
    """

    store: GenotypeStore
    names: dict[str, tuple[str, ...]]
    num_absent: int
    is_new: bool


def append(
    path: str | Path,
    sample_id: ArrayLike,
    values: Columns,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> Appended:
    """Add traits to a store, for all readers at once.

    Any number of processes may append to one store at a time.

    Parameters
    ----------
    path : str or Path
        Folder or URL of a finished store.
    sample_id : array-like of str, shape (N,)
        Ids of the table's rows, in any order; none twice. People who are not in the store are
        left out.
    values : mapping of str to (sequence of str, ndarray of float, shape (N, P))
        For ``"exposure"``, ``"outcome"`` and ``"covariate"``, or some of them: names and values,
        NaN where missing.
    provenance : mapping, optional
        JSON-able; kept in the manifest with the traits.

    Returns
    -------
    Appended
        The store with the new traits, their names, how many people of the store the table lacks,
        and whether anything was written.

    Raises
    ------
    InputError
        If no id matches, an id or a name comes twice, the store has a trait of that name, values
        do not have a row for each id and a column for each name, or the store cannot be written.
    StoreError
        If there is no finished store.

    Examples
    --------
    ``store.zarr`` holds 900 simulated people of three environments, and 30 variants.

    >>> import mrscale as mr
    >>> people = mr.open("store.zarr")
    >>> minutes = people["exposure"].to_numpy() * 60
    >>> done = mr.append("store.zarr", people["sample_id"], {"exposure": (["minutes"], minutes)})
    >>> done.store.names("exposures"), done.num_absent
    (['exposure', 'minutes'], 0)
    """
    store = open_store(path)
    ids = np.asarray(sample_id).astype(object).astype(str)
    _require_tables(values, ids)
    names = {kind: tuple(values[kind][0]) for kind in TRAITS if kind in values}
    _require_traits(names)
    row_N = _rows(store.array("sample_id"), ids)
    arrays = _arrays(row_N, values)
    digests = {name: zarrs.digest_of(value) for name, value in arrays.items()}
    entry: dict[str, Any] = {
        "name": digest(digests)[:16],
        "arrays": digests,
        "traits": {kind: list(given) for kind, given in names.items()},
        "provenance": dict(provenance or {}),
    }
    num_absent = int((row_N < 0).sum())
    logger.info("%s people of the store are not in the table", show_count(vague(num_absent)))
    if not _is_in(store, entry):
        _require_new(store, names)
        _write(path, entry["name"], arrays)
    is_new = False
    while not _is_in(store, entry):
        _require_new(store, names)
        is_new = manifests.commit(path, manifests.next_version(store.manifest, entry))
        # ours now, or that of another append, which was first: then ours comes after it
        store = open_store(path)
    return Appended(store, names, num_absent, is_new)


def _rows(wanted_N: NDArray[Any], given: NDArray[Any]) -> NDArray[np.int64]:
    """Row of the table for each person of the store; -1 where there is none."""
    order = np.argsort(given, kind="stable")
    ordered = given[order]
    twice = int((ordered[1:] == ordered[:-1]).sum())
    if twice:
        raise InputError(
            f"every person must have one row, but {show_count(twice)} rows of the table repeat "
            "an id; keep one row per person"
        )
    position_N = np.searchsorted(ordered, wanted_N)
    if len(given) == 0:
        found_N = np.zeros(len(wanted_N), dtype=bool)
    else:
        found_N = ordered[position_N.clip(max=len(given) - 1)] == wanted_N
    if not found_N.any():
        raise InputError(
            f"no id of the table ({show_count(len(given))} people) is in the store "
            f"({show_count(len(wanted_N))} people); give the column that holds the store's sample "
            "ids as sample_column (--sample-column)"
        )
    return np.where(found_N, order[position_N.clip(max=len(given) - 1)], -1)


def _arrays(row_N: NDArray[np.int64], values: Columns) -> dict[str, NDArray[Any]]:
    """The group's arrays: of every kind its values in the store's order, and their names."""
    arrays: dict[str, NDArray[Any]] = {}
    for kind, plural in TRAITS.items():
        given, table = values.get(kind, ((), np.empty((0, 0))))
        matrix = np.full((len(row_N), len(given)), np.nan, dtype=np.float32)
        if len(given):
            matrix[row_N >= 0] = _numbers(table, kind)[row_N[row_N >= 0]]
        if np.isinf(matrix).any():
            raise InputError(f"an {kind} has infinite values; leave cells empty where missing")
        arrays |= {kind: matrix, plural: np.array(list(given), dtype=str)}
    return arrays


def _numbers(table: Any, kind: str) -> NDArray[np.float32]:
    """Values as they are stored; what is masked is missing."""
    try:
        return np.ma.filled(np.ma.asarray(table, dtype=np.float32), np.nan)
    except (TypeError, ValueError):
        raise InputError(
            f"values of the {kind} must be numbers, and NaN where missing; found text or others; "
            "make them into numbers first, for example with pandas.to_numeric"
        ) from None


def _write(path: str | Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    group = places.join(path, APPENDED, name)
    with places.writing(path):
        zarrs.create_group(group)
        for array, content in arrays.items():
            zarrs.write_whole(group, array, content)
        zarrs.consolidate(group, arrays)


def _require_tables(values: Columns, ids: NDArray[Any]) -> None:
    """Refuse values that would be taken for those of other people or traits."""
    if unknown := sorted(values.keys() - TRAITS.keys()):
        raise InputError(
            f"values are appended for {', '.join(TRAITS)}; found {unknown[0]!r}; correct its name"
        )
    for kind, given in values.items():
        if not (isinstance(given, tuple | list) and len(given) == 2):
            raise InputError(f"give the {kind} as a pair: the names, and their values")
        names, table = given
        if isinstance(names, str):
            raise InputError(f"names of the {kind} must be a list; found {names!r}; put it in [ ]")
        labels = getattr(table, "index", None)
        if isinstance(labels, pd.Index) and _is_reordered(labels.astype(str).to_numpy(), ids):
            raise InputError(
                f"the row labels of the {kind} are the ids in another order; give the ids in the "
                "order of the rows"
            )
        if (found := np.shape(table)) != (len(ids), len(names)):
            where = "rows" if len(found) == 2 and found[1] == len(names) else "columns"
            raise InputError(
                f"values of the {kind} must have a row for each id and a column for each name "
                f"({len(names)}); found other {where}; give the ids of these rows, in their order"
            )


def _is_reordered(labels: NDArray[Any], ids: NDArray[Any]) -> bool:
    return not np.array_equal(labels, ids) and np.array_equal(np.sort(labels), np.sort(ids))


def _require_traits(names: Mapping[str, tuple[str, ...]]) -> None:
    if not any(names.values()):
        raise InputError("give at least one exposure, outcome or covariate to append")
    every = list(chain.from_iterable(names.values()))
    for name in every:
        if not isinstance(name, str) or not name:
            raise InputError(
                f"names of traits must be text; found {name!r}; name the columns first, for "
                "example by str()"
            )
    if len(set(every)) < len(every):
        raise InputError("each name can be given once, as one kind of trait; one is given twice")


def _is_in(store: GenotypeStore, entry: Mapping[str, Any]) -> bool:
    return any(entry["name"] == there["name"] for there in store.manifest["appended"])


def _require_new(store: GenotypeStore, names: Mapping[str, tuple[str, ...]]) -> None:
    given = set(chain.from_iterable(names.values()))
    for kind, plural in TRAITS.items():
        if taken := sorted(given & set(store.array(plural).tolist())):
            raise InputError(
                f"the store has the {kind} {taken[0]!r} already, with other values; nothing was "
                "changed; rename the column and append it under the new name"
            )
