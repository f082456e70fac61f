"""Columns that users hand over: their names, their values, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from mrscale.disclosure import show_count
from mrscale.errors import InputError
from mrscale.store.schema import DOSAGE
from mrscale.stream.arrays import is_dask


@dataclass(frozen=True, eq=False)
class NamedColumns:
    """A named table of numbers.

    Attributes
    ----------
    kind : str
        What the columns are for, as messages say it: ``"exposure"``.
    names : list of str
    values : ndarray or dask.array.Array, shape (N, columns)
    index : pandas.Index or None
        Row labels, if the user gave any; never shown.
    """

    kind: str
    names: list[str]
    values: Any
    index: pd.Index | None = None

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.names)


def named_columns(value: Any, kind: str) -> NamedColumns:
    """Take numpy, dask, xarray or pandas columns, or a list of numbers.

    Parameters
    ----------
    value : array-like, shape (N,) or (N, columns)
    kind : str
        For messages, and for names where ``value`` has none.

    Raises
    ------
    InputError
        If it is not a table of numbers.
    """
    values, names, index = _unpacked(value)
    values = _numbers(values, kind)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or np.isnan(values.shape).any():
        raise InputError(
            f"{kind} must be one column or a table of them, of known length; found an array of "
            f"shape {_shown_shape(values.shape)}; reshape it (or compute_chunk_sizes(), for dask)"
        )
    width = values.shape[1]
    default = [kind] if width == 1 else [f"{kind}_{i}" for i in range(width)]
    found = default if names is None else [str(name) for name in names]
    return NamedColumns(kind, found, values, index)


def named_vector(value: Any, kind: str) -> NamedColumns:
    """Take one column in memory that may be text, such as labels of clusters.

    Raises
    ------
    InputError
        If it is not one column.
    """
    values, _, index = _unpacked(value)
    values = _with_missing(values.compute() if is_dask(values) else values, kind)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise InputError(
            f"{kind} must be one column; found an array of shape {_shown_shape(values.shape)}"
        )
    return NamedColumns(kind, [kind], values, index)


def require_same_rows(parts: Sequence[NamedColumns]) -> None:
    """Refuse tables of different lengths, or whose row labels differ.

    Raises
    ------
    InputError
    """
    first = parts[0]
    for part in parts[1:]:
        if len(part) != len(first):
            # the difference may be a small count of people
            raise InputError(
                f"{first.kind} and {part.kind} must have one row per person each; found "
                f"{show_count(len(first))} rows and another number of them"
            )
    labelled = [(part.kind, part.index) for part in parts if part.index is not None]
    if not any(_are_numbers_of_rows(index) for _, index in labelled if not _is_made_up(index)):
        labelled = [(kind, index) for kind, index in labelled if not _is_made_up(index)]
    for kind, index in labelled[1:]:
        if not index.astype(object).equals(labelled[0][1].astype(object)):
            raise InputError(
                f"{labelled[0][0]} and {kind} must have the same people in the same order, "
                "but their row labels (the pandas index) differ; align them first, for example "
                "with .loc or .reindex, or pass .to_numpy() to go by position"
            )


def require_unique_names(names: Sequence[str]) -> None:
    """Refuse names that stand for two columns."""
    twice = sorted(name for name, number in Counter(names).items() if number > 1)
    if twice:
        raise InputError(
            f"every column needs a name of its own; found {', '.join(twice[:5])} more than once; "
            "rename the columns, or leave out those that are given twice"
        )


def require_finite(part: NamedColumns, sums: NDArray[np.float64], remedy: str) -> None:
    """Refuse columns whose sums are not finite: they hold missing or infinite values."""
    bad = np.flatnonzero(~np.isfinite(sums))
    if len(bad):
        names = ", ".join(part.names[i] for i in bad[:5])
        raise InputError(
            f"{part.kind} must hold finite numbers for everybody; found missing or infinite "
            f"values in {len(bad)} of {part.width} columns ({names}); {remedy}"
        )


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse an option that is none of the known ones, with the nearest that is."""
    if value not in choices:
        near = get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{name} must be one of {', '.join(choices)}; found {value!r}{hint}")


def require_small_sample(value: Any) -> None:
    """Refuse what is none of the ways to allow for a small sample."""
    if value not in (False, True, "n-k"):
        raise InputError(f'small_sample must be False, True or "n-k"; found {value!r}')


def _unpacked(value: Any) -> tuple[Any, Sequence[Any] | pd.Index | None, pd.Index | None]:
    """An array, the names of its columns and the labels of its rows, where there are any."""
    if isinstance(value, pd.Series):
        names = None if value.name is None else [value.name]
        return _pandas_values(value.to_frame())[:, 0], names, value.index
    if isinstance(value, pd.DataFrame):
        named = len(value.columns) and not _is_made_up(value.columns)
        return _pandas_values(value), value.columns if named else None, value.index
    if isinstance(value, xr.DataArray):
        index = value.indexes.get(value.dims[0]) if value.ndim else None
        if value.name == DOSAGE and value.dtype.kind == "i":
            value = value.where(value >= 0)
        return value.data, _xarray_names(value), index
    return value, None, None


def _is_made_up(index: pd.Index) -> bool:
    """Whether labels are the 0, 1, 2, ... of pandas itself: none, as in linearmodels."""
    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1


def _are_numbers_of_rows(index: pd.Index) -> bool:
    """Whether labels are 0, 1, 2, ... in any order: beside pandas' own they then tell one."""
    whole = pd.api.types.is_integer_dtype(index.dtype)
    return whole and np.array_equal(np.sort(index.to_numpy()), np.arange(len(index)))


def _pandas_values(table: pd.DataFrame) -> NDArray[Any]:
    """One type for all columns; missing values of pandas' own number types as NaN."""
    own = any(pd.api.types.is_extension_array_dtype(dtype) for dtype in table.dtypes)
    numbers = all(pd.api.types.is_numeric_dtype(dtype) for dtype in table.dtypes)
    if numbers and (own or table.dtypes.nunique() > 1):
        columns = (one.astype("Float64") for _, one in table.items())
        return np.column_stack([one.to_numpy(np.float64, na_value=np.nan) for one in columns])
    return table.to_numpy()


def _xarray_names(value: xr.DataArray) -> list[Any] | None:
    if value.ndim == 1:
        return [value.name] if value.name is not None else None
    along = str(value.dims[-1])
    named = along in value.coords and value.coords[along].ndim == 1
    return list(value.coords[along].values) if named else None


def _numbers(value: Any, kind: str) -> Any:
    """An array of numbers, dask's as it is."""
    if not is_dask(value):
        value = _filled(value, kind)
    elif isinstance(value._meta, np.ma.MaskedArray):
        value = value.astype(np.float64).map_blocks(np.ma.filled, np.nan)
    if value.dtype.kind == "O" and not is_dask(value):
        value = _from_objects(value, kind)
    if value.dtype.kind not in "biuf":
        raise _no_numbers(kind)
    return value.astype(np.float64) if value.dtype.kind == "b" else value


def _filled(value: Any, kind: str) -> NDArray[Any]:
    """What is masked in a masked array becomes NaN."""
    if isinstance(value, np.ma.MaskedArray) and value.dtype.kind in "biuf":
        return np.ma.filled(value.astype(np.float64), np.nan)
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # rows of different lengths, datasets, tensors
        raise _no_numbers(kind) from None


def _with_missing(value: Any, kind: str) -> NDArray[Any]:
    """Numbers or text, in which what is masked, or missing in a list, is missing."""
    if isinstance(value, np.ma.MaskedArray) and value.dtype.kind not in "biuf":
        return np.ma.filled(value.astype(object), None)
    found = _filled(value, kind)
    # numpy makes text of what is missing among text
    if not isinstance(value, list | tuple) or found.ndim not in (1, 2):
        return found
    return pd.DataFrame(list(value)).to_numpy() if found.ndim == 2 else pd.Series(value).to_numpy()


def _from_objects(value: NDArray[Any], kind: str) -> NDArray[np.float64]:
    if any(isinstance(one, str) for one in value.ravel()):
        raise _no_numbers(kind)
    try:
        return np.where(pd.isna(value), np.nan, value).astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise _no_numbers(kind) from None


def _no_numbers(kind: str) -> InputError:
    return InputError(
        f"{kind} must be numbers; found text, dates or mixed values; make categories into "
        "indicator columns (pandas.get_dummies) and text into numbers first"
    )


def _shown_shape(shape: Sequence[int]) -> str:
    """The number of people is the first number, and shown as such."""
    first = [show_count(int(n)) if not np.isnan(n) else "unknown" for n in shape[:1]]
    return "(" + ", ".join([*first, *(str(n) for n in shape[1:])]) + ")"
