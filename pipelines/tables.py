"""Reading tables of any common text form or Parquet, with ids kept as text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mrscale.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"
_COLUMNS_SHOWN = 12


def read_table(path: str | Path, *, text: Iterable[str] = ()) -> pd.DataFrame:
    """Read a table with a header: tab, comma, semicolon or blank separated text, or Parquet.

    Parameters
    ----------
    path : str or Path
        ``.parquet``, or any text file; gzip (bgzip) is recognised by content, other compressions
        by suffix.
    text : iterable of str
        Columns to keep as text (leading zeros stay), whatever they look like.

    Raises
    ------
    InputError
        If there is no such file or it cannot be read as a table.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = _read_text(path, dict.fromkeys(text, str))
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path.name} cannot be read as a table ({type(error).__name__}); "
            "expected a header line and tab- or comma-separated columns, or Parquet"
        ) from None
    return table.assign(**{name: _as_text(table[name]) for name in text if name in table})


def require_columns(table: pd.DataFrame, names: Iterable[str], *, file: str) -> None:
    """Refuse a table without some of the columns, naming the nearest that it has."""
    for name in names:
        if name not in table:
            columns = [str(column) for column in table.columns]
            near = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            shown = ", ".join(columns[:_COLUMNS_SHOWN])
            more = ", ..." if len(columns) > _COLUMNS_SHOWN else ""
            raise InputError(f"{file} has no column {name!r}; {hint}Its columns: {shown}{more}")


def _read_text(path: Path, dtype: dict[str, type]) -> pd.DataFrame:
    with path.open("rb") as handle:
        gzipped = handle.read(2) == _GZIP_MAGIC
    compression = "gzip" if gzipped else "infer"
    header = pd.read_csv(path, sep="\0", nrows=0, compression=compression).columns[0]
    sep = next((s for s in "\t,;" if s in header), r"\s+")
    return pd.read_csv(path, sep=sep, compression=compression, dtype=dtype)


def _as_text(column: pd.Series) -> pd.Series:
    """Text of a column; whole numbers stored as floats lose the ".0" that was never meant."""
    if pd.api.types.is_float_dtype(column):
        column = column.astype("Int64") if (column.dropna() % 1 == 0).all() else column
    return column.astype("string").str.strip().replace("", pd.NA)
