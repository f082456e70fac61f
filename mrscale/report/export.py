"""The machine-readable results: ``result.json`` (everything) and ``estimates.tsv``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
from pydantic import BaseModel, StrictInt

from mrscale.disclosure import AtMost, export_count, parse_count
from mrscale.errors import RunError
from mrscale.report import control
from mrscale.results import StudyResult

SCHEMA_VERSION = "1.1"


def to_json(result: StudyResult) -> dict[str, Any]:
    """Everything in a result as JSON-able values, with counts of people controlled.

    Returns
    -------
    dict
        The fields of :class:`~mrscale.results.StudyResult` and ``schema_version``. NaN is None,
        infinities are ``"inf"`` and ``"-inf"``, a suppressed count is text such as ``"<=20"``.
    """
    return {"schema_version": SCHEMA_VERSION, **plain(control.disclose(result))}


def result_json(result: StudyResult) -> str:
    """The text of ``result.json``: strict JSON, in the order of the result (funnels have one)."""
    return json.dumps(to_json(result), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def from_json(raw: Mapping[str, Any]) -> StudyResult:
    """The result that :func:`to_json` wrote; suppressed counts stay bounds.

    Raises
    ------
    RunError
        If it was written with another schema version.
    ValueError, KeyError, TypeError, AttributeError, OverflowError
        If it is not what :func:`to_json` writes.
    """
    found = raw.get("schema_version")
    if found != SCHEMA_VERSION:
        raise RunError(
            f"result.json must have schema version {SCHEMA_VERSION!r} and has {found!r}; "
            "run the estimate verb again with this version of mrscale"
        )
    result: StudyResult = _read(
        StudyResult, {name: value for name, value in raw.items() if name != "schema_version"}
    )
    for pair in result.pairs:
        pair[pair.headline]
    for encoder in result.encoders.values():
        _check_drawn(encoder, len(result.environments))
    return result


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
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
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


def plain(value: Any) -> Any:
    """Values of strict JSON: NaN is None, infinities are text, bounds of counts are, too."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, AtMost):
        return export_count(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


@cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(kind: Any, raw: Any) -> Any:
    """The value of a type that :func:`plain` wrote; raises where it cannot have written this."""
    of = get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        read = {name: _read(_types(kind)[name], value) for name, value in raw.items()}
        return kind(**read)
    if kind is float:
        return math.nan if raw is None else float(raw)
    if kind is int:
        return parse_count(raw)
    if get_origin(kind) is tuple:
        kinds = of[:1] * len(raw) if of[1] is ... else of
        return tuple(_read(each, value) for each, value in zip(kinds, raw, strict=True))
    if get_origin(kind) is dict:
        return {name: _read(of[1], value) for name, value in raw.items()}
    if get_origin(kind) is UnionType:
        return None if raw is None else _read(of[0], raw)
    wrong_word = get_origin(kind) is Literal and raw not in of
    if wrong_word or (kind is str and not isinstance(raw, str)):
        raise ValueError(f"must be {kind}")
    return raw


class _Moments(BaseModel):
    mean: list[list[float | None]]
    deviation: list[list[float | None]]


class _Profile(BaseModel):
    remainder: _Moments
    latent: _Moments


class _Fold(BaseModel):
    fold: int
    best_step: int | None = None
    history: list[tuple[float, float | None, float | None]] = []
    eigenvalues: list[float] = []


class _Drawn(BaseModel):
    """What is drawn of an encoder; all else is shown as it is."""

    factors: StrictInt | None = None
    folds: list[_Fold] = []
    profile: _Profile | None = None


def _check_drawn(encoder: Mapping[str, Any], num_environments: int) -> None:
    """Raise ValueError where the page could not draw what it draws of an encoder."""
    drawn = _Drawn.model_validate(encoder)
    if any(fold.history and fold.best_step is None for fold in drawn.folds):
        raise ValueError("a training must have kept a step")
    if drawn.factors is None and any(fold.eigenvalues for fold in drawn.folds):
        raise ValueError("eigenvalues must have a number of factors")
    for moments in (drawn.profile.remainder, drawn.profile.latent) if drawn.profile else ():
        mean, deviation = np.array(moments.mean, float), np.array(moments.deviation, float)
        if mean.shape != deviation.shape or len(mean) != num_environments:
            raise ValueError("a profile must have a row for each environment")
