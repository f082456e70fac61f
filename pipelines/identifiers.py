"""Ids of people: the columns and lists that hold them, and how they look, without naming one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mrscale.disclosure import is_small, show_count
from mrscale.errors import InputError
from pipelines.tables import column_names, read_lines, read_table

ID_COLUMNS = ("research_id", "sample_id", "sample_id.s", "s", "person_id")
"""Names that the id goes by in the tables of a workbench, in order of preference."""
_RUN = re.compile(r"[0-9]+|[^\W\d_]+|[\W_]+|\w")
_MOST_RUNS, _LONGEST_LITERAL = 8, 12


def id_column(columns: Iterable[str], sample_column: str) -> str | None:
    """The column of ids: the study's own name for it, or the first of :data:`ID_COLUMNS`."""
    present = set(columns)
    return next((name for name in (sample_column, *ID_COLUMNS) if name in present), None)


def require_id_column(file: str | Path, sample_column: str) -> str:
    """The column of ids of a table; refuse a table without one."""
    found = id_column(column_names(file), sample_column)
    if found is None:
        raise InputError(
            f"{file} has no column of ids; expected {sample_column} or one of "
            f"{', '.join(ID_COLUMNS)}"
        )
    return found


def read_ids(file: str | Path, sample_column: str) -> pd.Series:
    """Read ids from a table with a column of ids, or from a plain list without header.

    Raises
    ------
    InputError
        If the file has several columns and none of them is known to hold ids.
    """
    columns = column_names(file)
    if len(columns) > 1 or id_column(columns, sample_column):
        name = require_id_column(file, sample_column)
        ids = read_table(file, text=[name], columns=[name])[name]
    else:
        ids = read_lines(file)
    return ids.dropna().drop_duplicates()


def require_unique(ids: pd.Series, where: str) -> None:
    """Refuse ids of which some occur twice."""
    twice = int(ids.duplicated().sum())
    if twice:
        raise InputError(
            f"every person must have one row, but {show_count(twice)} rows repeat an id of "
            f"{where}; keep one row per person"
        )


def describe_ids(ids: Iterable[str]) -> str:
    """What ids have in common, never an id: ``"prefix_" + 7 digits``.

    Only what more than 20 ids share is told: the kinds of their runs of characters, the length of
    a run where all agree, and letters or signs that all have. Digits are never quoted.
    """
    runs = [_RUN.findall(text) for text in ids]
    if not runs:
        return "absent"
    if is_small(len(runs)):
        return "too few to describe"
    forms = {tuple(map(_kind, one)) for one in runs}
    if len(forms) > 1 or len(runs[0]) > _MOST_RUNS:
        return "of mixed form"
    return " + ".join(
        _describe_run(kind, set(parts))
        for kind, parts in zip(forms.pop(), zip(*runs, strict=True), strict=True)
    )


def describe_mismatch(ids: Iterable[str], where: str, others: Iterable[str], there: str) -> str:
    """A clause on how the ids of two files look, for messages about ids that do not meet."""
    return f"ids of {where} are {describe_ids(ids)}, those of {there} {describe_ids(others)}"


def _kind(run: str) -> str:
    return "digits" if run[0].isdigit() else "letters" if run[0].isalpha() else "signs"


def _describe_run(kind: str, found: set[str]) -> str:
    if kind != "digits" and len(found) == 1 and len(run := next(iter(found))) <= _LONGEST_LITERAL:
        return repr(run)
    lengths = {len(run) for run in found}
    return f"{lengths.pop()} {kind}" if len(lengths) == 1 else kind
