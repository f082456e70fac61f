"""Delimited text, parsed by Arrow: strict about the number of cells, silent about their content."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as pa_csv

from mrscale.errors import InputError

EXPECTED = (
    "expected a line of column names, then rows, separated by tabs, commas, semicolons or blanks, "
    "in UTF-8"
)
_SEPARATORS = "\t,;"
_UTF8_MARK, _UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_BLOCK_BYTES = 16 * 2**20


def decode(data: bytes) -> str:
    """Text of UTF-8 bytes without the byte-order mark."""
    return data.removeprefix(_UTF8_MARK).decode()


def read_header(handle: BinaryIO, file: str) -> tuple[list[str], str]:
    """Read the first line: names of the columns and what separates them ("" for blanks).

    Raises
    ------
    InputError
        If the text is UTF-16, or its lines end in a way of long ago.
    """
    line = handle.readline()
    if line.startswith(_UTF16_MARKS):
        raise InputError(f"{file} is UTF-16 text; save it as UTF-8")
    text = decode(line).strip("\r\n")
    if "\r" in text:
        raise InputError(f"the lines of {file} end with carriage returns; end them with newlines")
    sep = next((sep for sep in _SEPARATORS if sep in text), "")
    return [cell.strip() for cell in _cells(text, sep)], sep


def read_rows(
    handle: BinaryIO, names: list[str], sep: str, kept: list[str], *, file: str
) -> pa.Table:
    """Parse what follows the header.

    Parameters
    ----------
    handle : binary stream
        After :func:`read_header`.
    names : list of str
        All columns, in order.
    sep : str
        What separates them, "" for blanks.
    kept : list of str
        Columns to return.
    file : str
        For messages.

    Returns
    -------
    pyarrow.Table
        Text columns, in the order of ``names``, cells as they are.

    Raises
    ------
    InputError
        If there is no header, a row has another number of cells (with its line number), or a
        quotation mark is never closed.
    """
    if not names:
        raise InputError(f"{file} is empty; {EXPECTED}")
    stream, rejects = _Counting(handle if sep else _tabbed(handle), sep or "\t"), _Rejects()
    if not (kept and stream.peek()):
        return pa.table({name: pa.array([], pa.string()) for name in kept})
    wanted = {index: name for index, name in enumerate(names) if name in kept}
    with _nothing_printed():
        table = _parse(stream, sep, len(names), list(wanted), rejects)
    if rejects.first:
        line, num_cells = rejects.first
        raise InputError(
            f"line {line + 1} of {file} has {num_cells} cells, but its header has {len(names)}; "
            "every row must have as many cells as there are column names"
        )
    if table.num_rows + rejects.num_blank < stream.num_lines and not stream.is_paired:
        raise InputError(f"{file} has a quotation mark that is never closed; mend or remove it")
    return table.rename_columns(list(wanted.values()))


def _parse(
    stream: io.RawIOBase, sep: str, num_columns: int, wanted: list[int], rejects: _Rejects
) -> pa.Table:
    """The wanted columns as text, named by position: columns not read may share a name."""
    kept = [str(index) for index in wanted]
    return pa_csv.read_csv(
        stream,
        # one thread: with more, Arrow does not know line numbers
        pa_csv.ReadOptions(
            column_names=[str(index) for index in range(num_columns)],
            use_threads=False,
            block_size=_BLOCK_BYTES,
        ),
        pa_csv.ParseOptions(
            delimiter=sep or "\t",
            newlines_in_values=True,
            ignore_empty_lines=False,
            invalid_row_handler=rejects,
        ),
        pa_csv.ConvertOptions(include_columns=kept, column_types=dict.fromkeys(kept, pa.string())),
    )


@contextmanager
def _nothing_printed() -> Iterator[None]:
    """Keep Arrow from printing a traceback, before it raises its error, where a row with a wrong
    number of cells is no UTF-8."""
    before, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = before


class _Rejects:
    """What Arrow calls for rows with a wrong number of cells: notes the first; lets blanks be."""

    def __init__(self) -> None:
        self.first: tuple[int, int] | None = None
        self.num_blank = 0

    def __call__(self, row: pa_csv.InvalidRow) -> str:
        if not row.text.strip():
            self.num_blank += 1
        elif self.first is None:
            self.first = row.number, row.actual_columns
        return "skip"


class _Counting(io.RawIOBase):
    """A stream that counts its lines and quotation marks: where a quoted cell never ends, Arrow
    reads on to the next mark, or to the end of the file, and does not say so."""

    def __init__(self, handle: BinaryIO, sep: str) -> None:
        self._handle, self._sep = handle, sep.encode()
        self._ahead = self._rest = b""
        self.num_lines = self._num_marks = self._num_opening = self._num_closing = 0

    @property
    def is_paired(self) -> bool:
        """Whether as many marks end a cell as begin one, and every other has its pair."""
        return self._num_marks % 2 == 0 and self._num_opening == self._num_closing

    def peek(self) -> bytes:
        self._ahead = self._ahead or self._handle.read(1)
        return self._ahead

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._handle.read(size) if not self._ahead else self._ahead
        self._ahead = b""
        if data:
            lines, end, self._rest = (self._rest + data).rpartition(b"\n")
            self._count(lines + end)
        else:
            self._count(self._rest + b"\n" if self._rest else b"")
            self._rest = b""
        return data

    def _count(self, lines: bytes) -> None:
        """Count in whole lines; a mark that is doubled stands for itself."""
        self.num_lines += lines.count(b"\n")
        self._num_marks += lines.count(b'"')
        single = b"\n" + lines.replace(b'""', b"")
        self._num_opening += single.count(b'\n"') + single.count(self._sep + b'"')
        self._num_closing += sum(single.count(b'"' + end) for end in (self._sep, b"\r", b"\n"))


def _tabbed(handle: BinaryIO) -> BinaryIO:
    """Blank-separated lines with single tabs instead; quoted cells may hold blanks."""
    lines = (
        "\t".join(_cells(line.decode(), "")).encode() if b'"' in line else b"\t".join(line.split())
        for line in handle
    )
    return io.BytesIO(b"\n".join(lines))


def _cells(line: str, sep: str) -> list[str]:
    if not line.strip():
        return []
    if sep:
        return next(csv.reader([line], delimiter=sep))
    return next(csv.reader([line.strip()], delimiter=" ", skipinitialspace=True))
