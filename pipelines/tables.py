"""Tables of any common text form or Parquet, by path or URL, with ids kept as text.

Only the columns asked for are read, and strictly: a row with too few or too many cells is refused
with its line number. No message quotes a cell.
"""

from __future__ import annotations

import bz2
import difflib
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mrscale import places
from mrscale.errors import InputError, MrscaleError, without_secrets
from mrscale.store.schema import QUERY
from pipelines import delimited
from pipelines.cells import MISSING, infer, to_text

_PARQUET = b"PAR1"
_CODECS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": lambda raw: io.BufferedReader(pa.CompressedInputStream(raw, "zstd")),
}
_DAMAGED = (ValueError, EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, pa.ArrowException)
_COLUMNS_SHOWN = 12


def read_table(
    path: str | Path, *, text: Iterable[str] = (), columns: Iterable[str] | None = None
) -> pd.DataFrame:
    """Read a table with a header: tab, comma, semicolon or blank separated text, or Parquet.

    Parameters
    ----------
    path : str or Path
        Path or URL. Parquet and compression (gzip, bgzip, zstd, xz, bzip2) are recognised by
        content, whatever the name.
    text : iterable of str
        Columns to keep as text (leading zeros stay), whatever they look like. Any other column
        becomes numbers if all its cells are.
    columns : iterable of str, optional
        Read only these, as far as the table has them; by default all.

    Raises
    ------
    InputError
        If there is no such file, it cannot be read as a table, rows are ragged, or two of the
        columns to read have one name.
    """
    text = frozenset(text)
    wanted = None if columns is None else frozenset(columns)
    with _opened(path) as source:
        if isinstance(source, pq.ParquetFile):
            table = source.read(columns=_kept(source.schema_arrow.names, wanted, path))
        else:
            names, sep = delimited.read_header(source, _name(path))
            kept = _kept(names, wanted, path)
            table = delimited.read_rows(source, names, sep, kept, file=_name(path))
        pairs = zip(table.column_names, table.columns, strict=True)
        return pd.DataFrame({n: to_text(c) if n in text else infer(c) for n, c in pairs})


def column_names(path: str | Path) -> list[str]:
    """Names in a table's header, without reading the rest; none if the file is empty."""
    with _opened(path) as source:
        if isinstance(source, pq.ParquetFile):
            return list(source.schema_arrow.names)
        return delimited.read_header(source, _name(path))[0]


def made_by(path: str | Path | None) -> dict[str, Any] | None:
    """The query that a Parquet file was made by, with its dataset and date; None for others."""
    if path is None:
        return None
    with _opened(path) as source:
        if not isinstance(source, pq.ParquetFile):
            return None
        told = (source.schema_arrow.metadata or {}).get(QUERY.encode())
    return json.loads(told) if told else None


def read_lines(path: str | Path) -> pd.Series:
    """Lines of a text file without header, one cell each, as text and without the empty ones; of a
    Parquet file its first column."""
    with _opened(path) as source:
        if isinstance(source, pq.ParquetFile):
            return to_text(source.read().column(0)).dropna()
        cells = [line.strip().strip('"') for line in delimited.decode(source.read()).splitlines()]
    return to_text(pa.chunked_array([cells], type=pa.string())).dropna()


def require_columns(columns: Iterable[Any], names: Iterable[str], *, file: str) -> None:
    """Refuse a table (or a list of column names) without some of the columns.

    The message names the nearest column and some others, unless the header looks like a row of
    people's data, which no message may quote.
    """
    present = [str(column) for column in columns]
    for name in names:
        if name not in present:
            raise InputError(f"{file} has no column {name!r}; {_hint(name, present)}")


def _hint(name: str, present: list[str]) -> str:
    if "" in present[1:] or any(map(_is_value, present)):
        return "its first line looks like data: if so, put a line with the column names above it"
    # an id may have become a name all the same
    safe = [column for column in present if not re.search(r"\d{4}", column)]
    near = difflib.get_close_matches(name, safe, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? Its columns" if near else "its columns"
    more = ", ..." if len(present) > len(safe[:_COLUMNS_SHOWN]) else ""
    return f"{hint}: {', '.join(safe[:_COLUMNS_SHOWN])}{more}"


def _is_value(cell: str) -> bool:
    """Whether a cell of the first line is a number or a missing value, which are no names."""
    try:
        float(cell)
    except ValueError:
        return cell != "" and cell in MISSING
    return True


def _kept(names: list[str], wanted: frozenset[str] | None, path: str | Path) -> list[str]:
    kept = [name for name in names if wanted is None or name in wanted]
    if len(set(kept)) < len(kept):
        raise InputError(f"{_name(path)} has two columns of one name; give each its own name")
    return kept


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """Open a file, decompressed, as a ParquetFile or a stream of bytes; explain what goes wrong."""
    try:
        with _raw(path) as raw:
            start = raw.read(6)
            raw.seek(0)
            if start.startswith(_PARQUET) or str(path).endswith(".parquet"):
                yield pq.ParquetFile(raw)
                return
            codec = next((c for magic, c in _CODECS.items() if start.startswith(magic)), None)
            yield codec(raw) if codec else raw
    except MrscaleError:
        raise
    except _DAMAGED as error:
        # "from None": Arrow quotes the cell that it could not read
        why = "it is cut off" if isinstance(error, EOFError) else "it is damaged or something else"
        raise InputError(
            f"{_name(path)} cannot be read as a table: {why}; {delimited.EXPECTED}, or Parquet"
        ) from None
    except Exception as error:
        # object stores have errors of their own
        if not (isinstance(error, OSError) or places.is_url(path)):
            raise
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}); check that it is there and that you "
            "may read it"
        ) from None


def _raw(path: str | Path) -> BinaryIO:
    if not places.is_file(path):
        raise InputError(f"no such file: {path}")
    if str(path).startswith(("http://", "https://")):
        # not every web server lets a reader go back to the start of a file
        return io.BytesIO(places.read_bytes(path))
    return places.open_binary(path)


def _name(path: str | Path) -> str:
    return without_secrets(str(path)).rstrip("/").rsplit("/", 1)[-1]
