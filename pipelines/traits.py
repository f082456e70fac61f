"""Columns of the table of people: traits as numbers, everything else as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale import config
from mrscale.errors import InputError
from pipelines.ancestry import read_ancestry
from pipelines.cells import drop_codes, to_numbers
from pipelines.identifiers import describe_mismatch, require_unique
from pipelines.tables import column_names, read_table, require_columns

ROLES = ("exposure", "outcome", "covariate")
SAMPLE = "sample"
CROSS = " x "
"""Between the names of crossed environments."""


@dataclass(frozen=True)
class TraitTable:
    """Traits of the people of one table, in its order.

    Attributes
    ----------
    sample_id : ndarray of str, shape (N,)
        No two are equal.
    values : dict of str to (tuple of str, ndarray of float32, shape (N, P))
        For each of "exposure", "outcome" and "covariate": names and values; NaN is missing.
    """

    sample_id: NDArray[np.str_]
    values: dict[str, tuple[tuple[str, ...], NDArray[np.float32]]]


def read_traits(people: config.People, traits: config.Traits) -> TraitTable:
    """Read traits alone, to be added to a store that has its people already.

    Raises
    ------
    InputError
        If no trait is named, the file, a column or all values of a trait are missing, a trait is
        not numeric, or a person has two rows.
    """
    if not (people.phenotypes and any(getattr(traits, role) for role in ROLES)):
        raise InputError("adding traits needs a table of people and the names of some columns")
    table = read_columns(people, {SAMPLE: [people.sample_column]}, traits)
    return TraitTable(
        sample_id=table[SAMPLE].to_numpy(dtype=str),
        values={role: (getattr(traits, role), matrix(table, role)) for role in ROLES},
    )


def read_columns(
    people: config.People, text: Mapping[str, Sequence[str]], traits: config.Traits
) -> pd.DataFrame:
    """Read columns of the table of people, without the rows that have no id.

    Columns that it lacks may come from the table of ancestry.

    Parameters
    ----------
    people : mrscale.config.People
        Where the tables are and what means missing.
    text : mapping of str to sequence of str
        New and old names of text columns. Several old ones are crossed: ``"afr x north"``,
        missing where one is. ``"sample"`` is the id.
    traits : mrscale.config.Traits

    Returns
    -------
    DataFrame
        The text columns by their new names, and the traits (float32) by (role, name).
    """
    named = [(role, name) for role in ROLES for name in getattr(traits, role)]
    labels = list(dict.fromkeys(name for names in text.values() for name in names))
    table = _read_wanted(people, labels, [name for _, name in named])
    codes = people.missing_values
    columns: dict[str | tuple[str, str], pd.Series] = {}
    for role, names in text.items():
        parts = [
            table[name] if role == SAMPLE else drop_codes(table[name], codes) for name in names
        ]
        columns[role] = reduce(lambda left, right: left + CROSS + right, parts)
    for role, name in named:
        columns[role, name] = to_numbers(drop_codes(table[name], codes), f"{role} {name!r}")
    return pd.DataFrame(columns)


def _read_wanted(people: config.People, labels: list[str], numbers: list[str]) -> pd.DataFrame:
    """Cells of the wanted columns, ``labels`` as text, one row per person."""
    file, sample, wanted = people.phenotypes, people.sample_column, [*labels, *numbers]
    own = column_names(file)
    lacking = [name for name in dict.fromkeys(wanted) if name not in own]
    more = pd.DataFrame()
    if lacking and people.ancestry:
        more = read_ancestry(people.ancestry, lacking, sample)
    require_columns([*own, *more.columns], wanted, file=f"the table of people ({file})")
    table = read_table(file, text=labels, columns=wanted).dropna(subset=[sample])
    require_unique(table[sample], f"column {sample!r} of the table of people")
    if not lacking:
        return table
    if not table[sample].isin(more.index).any():
        form = describe_mismatch(table[sample], "the table", more.index, "the table of ancestry")
        raise InputError(
            f"nobody of the table of people is in the table of ancestry ({people.ancestry}); {form}"
        )
    return table.join(more[lacking], on=sample)


def matrix(table: pd.DataFrame, role: str) -> NDArray[np.float32]:
    """The columns (role, ...) side by side, shape (N, P)."""
    columns = [table[c].to_numpy(np.float32) for c in trait_columns(table) if c[0] == role]
    return np.stack(columns, axis=1) if columns else np.empty((len(table), 0), dtype=np.float32)


def trait_columns(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The columns that are traits, as (role, name)."""
    columns: list[Any] = list(table.columns)
    return [column for column in columns if isinstance(column, tuple)]
