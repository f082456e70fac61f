"""Cells of tables: trimmed text, numbers, codes of missing values."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mrscale.errors import InputError

logger = logging.getLogger(__name__)

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-nan", "NULL", "null", "None")
"""Cells that mean missing in any table."""
_OFTEN = 3
_ZEROS = r"\.?0+$"
"""At the end of a decimal that has a point."""
_SENTINELS = [sign * (10**digits - 1) for sign in (-1, 1) for digits in range(1, 7)]


def to_text(column: pa.ChunkedArray) -> pd.Series:
    """A column as trimmed text (pandas ``string``), missing where empty or NA.

    Whole numbers stored as floats lose the ".0" that was never meant.

    Raises
    ------
    InputError
        If a column of floats holds whole numbers too large to have kept their last digits.
    """
    column = _decoded(column)
    if pa.types.is_floating(column.type):
        column = _whole(column)
    cells = pd.Series(_trimmed(column).to_pandas(), dtype="string")
    has_point = pa.types.is_decimal(column.type) and column.type.scale > 0
    return cells.str.replace(_ZEROS, "", regex=True) if has_point else cells


def infer(column: pa.ChunkedArray) -> pd.Series:
    """A column as it was stored; text as numbers if all of it is (missing cells are NaN)."""
    column = _decoded(column)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column.to_pandas()
    cells = _trimmed(column)
    for kind in (pa.int64(), pa.float64()):
        try:
            return cells.cast(kind).to_pandas()
        except pa.ArrowInvalid:
            continue
    return cells.to_pandas()


def drop_codes(column: pd.Series, codes: Sequence[str]) -> pd.Series:
    """A column without the cells that are codes of missing values, as text or as numbers."""
    if not codes:
        return column
    wanted = pd.to_numeric(pd.Series(codes, dtype="object"), errors="coerce").dropna()
    values = pd.to_numeric(column, errors="coerce")
    if values.dtype == np.float32:
        wanted = wanted.astype(np.float32)  # -99.9 is another number there
    coded = values.isin(wanted.to_numpy()) | column.isin([code.strip() for code in codes])
    return column.mask(coded.to_numpy(dtype=bool))


def to_numbers(column: pd.Series, what: str) -> pd.Series:
    """A trait as float32; missing is NaN.

    Parameters
    ----------
    column : Series
    what : str
        For messages, such as ``"exposure 'bmi'"``.

    Raises
    ------
    InputError
        If a cell is not a finite number, or all are missing.
    """
    problem, advice = None, "recode it as numbers, or leave cells empty where it is missing"
    values = pd.to_numeric(column, errors="coerce").astype("float64")
    dates = column.dtype.kind in "mM"  # to pandas they are numbers, and a missing one is another
    if dates or (values.isna() & column.notna()).any():
        problem = "has cells that are not numbers"
        advice += " (a code such as . can be named in missing_values)"
    elif (values.abs() > np.finfo(np.float32).max).any():
        problem = "has infinite values"
    elif values.isna().all():
        problem, advice = "is missing for everyone", "choose another column"
    if problem:
        raise InputError(f"{what} {problem}; {advice}")
    _warn_of_sentinels(values, what)
    return values.astype("float32")


def _warn_of_sentinels(values: pd.Series, what: str) -> None:
    """Say so if -9, 999 and the like may mean missing: they lie far from all else, or they are
    the largest or smallest value and repeated where hardly another one is."""
    known = values.dropna().to_numpy()
    rest = known[~np.isin(known, _SENTINELS)]
    if not len(rest) or len(rest) == len(known):
        return
    low, high = rest.min(), rest.max()
    is_continuous = len(np.unique(rest)) > len(rest) / 2
    for code in np.intersect1d(known, _SENTINELS):
        beyond = max(low - code, code - high)
        repeated = is_continuous and beyond > 0 and (known == code).sum() > _OFTEN
        if beyond > max(high - low, 1) or (code < 0 <= low) or repeated:
            logger.warning(
                "%s seems to hold %g for missing values; if that is what it means, name it in "
                "missing_values of [people]",
                what,
                code,
            )


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The cells of a column of categories, which Parquet keeps as a dictionary."""
    is_coded = pa.types.is_dictionary(column.type)
    return column.cast(column.type.value_type) if is_coded else column


def _whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Floats that are all whole numbers, as integers."""
    known = column.drop_null().filter(pc.invert(pc.is_nan(column.drop_null())))
    values = known.to_numpy()
    if (values % 1 != 0).any():
        return column
    if len(values) and abs(values).max() > 2.0 ** np.finfo(values.dtype).nmant:
        raise InputError(
            "a column of ids is stored as floating-point numbers too large to be exact; "
            "store it as text or integers"
        )
    is_known = pc.invert(pc.is_nan(column))
    return pc.if_else(is_known, column, pa.scalar(None, column.type)).cast(pa.int64())


def _trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    cells = pc.utf8_trim_whitespace(column.cast(pa.string()))
    return pc.if_else(
        pc.is_in(cells, value_set=pa.array(MISSING)), pa.scalar(None, pa.string()), cells
    )
