"""The machine-readable results: ``result.json`` (everything) and ``estimates.tsv``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from mrscale.disclosure import AtMost, export_count, parse_count
from mrscale.errors import RunError
from mrscale.report import control
from mrscale.results import (
    Diagnostic,
    Estimate,
    Instrument,
    LeftOut,
    LeftOutVariant,
    PairResult,
    Sensitivity,
    StudyResult,
)

SCHEMA_VERSION = "1.1"


def to_json(result: StudyResult) -> dict[str, Any]:
    """Everything in a result as JSON-able values, with counts of people controlled.

    Returns
    -------
    dict
        The fields of :class:`~mrscale.results.StudyResult` and ``schema_version``. NaN is None,
        infinities are ``"inf"`` and ``"-inf"``, a suppressed count is text such as ``"<=20"``.
    """
    return {"schema_version": SCHEMA_VERSION, **_plain(control.disclose(result))}


def result_json(result: StudyResult) -> str:
    """The text of ``result.json``: strict JSON, in the order of the result (funnels have one)."""
    return json.dumps(to_json(result), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def from_json(raw: Mapping[str, Any]) -> StudyResult:
    """The result that :func:`to_json` wrote; suppressed counts stay bounds.

    Raises
    ------
    RunError
        If it was written with another schema version.
    """
    found = raw.get("schema_version")
    if found != SCHEMA_VERSION:
        raise RunError(
            f"result.json must have schema version {SCHEMA_VERSION!r} and has {found!r}; "
            "run the estimate verb again with this version of mrscale"
        )
    values = {k: v for k, v in raw.items() if k != "schema_version"}
    return StudyResult(
        **values
        | {
            "pairs": tuple(_pair(p) for p in raw["pairs"]),
            "environments": _counts(raw["environments"]),
            "people": _counts(raw["people"]),
            "left_out": tuple(_read(LeftOutVariant, one) for one in raw["left_out"]),
            "num_people": parse_count(raw["num_people"]),
            "missing_rate": _number(raw["missing_rate"]),
        }
    )


def load_result(path: str | Path) -> StudyResult:
    """Read a ``result.json``.

    Raises
    ------
    RunError
        If there is no such file, or it is not a result.
    """
    path = Path(path)
    if not path.is_file():
        raise RunError(f"no result at {path}; run the estimate verb first")
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RunError(
            f"{path} must be a result.json as mrscale writes it, and cannot be read as one; "
            "run the estimate verb again"
        ) from None


def estimates_tsv(result: StudyResult) -> str:
    """One row per exposure, outcome and estimator, tab-separated, NaN written as NA."""
    shown = control.disclose(result)
    table = shown.to_dataframe()
    # from the result and not from the table, whose integers no longer know that they are bounds
    counts = [export_count(e.num_obs) for pair in shown.pairs for e in pair.estimates]
    table["num_obs"] = pd.Series(counts, dtype=object)
    return str(table.to_csv(sep="\t", index=False, na_rep="NA", lineterminator="\n"))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, AtMost):
        return export_count(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _number(value: float | str | None) -> float:
    return math.nan if value is None else float(value)


def _counts(raw: Mapping[str, int | str]) -> dict[str, int]:
    return {name: parse_count(count) for name, count in raw.items()}


_READ: dict[str, Callable[[Any], Any]] = {
    "float": _number,
    "int": parse_count,
}
Row = TypeVar("Row", Estimate, Diagnostic, LeftOut, Sensitivity, Instrument, LeftOutVariant)


def _read(kind: type[Row], raw: Mapping[str, Any]) -> Row:
    """A row of plain numbers and text, by the types of its fields."""
    types = {f.name: str(f.type) for f in fields(kind)}
    return kind(**{name: _READ.get(types[name], str)(value) for name, value in raw.items()})


def _pair(raw: Mapping[str, Any]) -> PairResult:
    return PairResult(
        **{
            **raw,
            "estimates": tuple(_read(Estimate, e) for e in raw["estimates"]),
            "per_environment": tuple(_read(Estimate, e) for e in raw["per_environment"]),
            "diagnostics": tuple(_read(Diagnostic, d) for d in raw["diagnostics"]),
            "without": tuple(_read(LeftOut, one) for one in raw["without"]),
            "sensitivity": tuple(_read(Sensitivity, one) for one in raw["sensitivity"]),
            "instruments": tuple(_read(Instrument, one) for one in raw["instruments"]),
            "reasons": tuple(raw["reasons"]),
            "anderson_rubin": tuple(
                (_number(low), _number(high)) for low, high in raw["anderson_rubin"]
            ),
        }
    )
