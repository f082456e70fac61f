"""What summary-data analyses accept, checked once, with one clear sentence for what they do not.

Legend: M variants, P exposures.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from mrscale.errors import InputError
from mrscale.stats.summary.associations import Associations
from mrscale.stats.summary.panel import ErrorOrder, Options, Reference
from mrscale.stats.summary.robust_score import Loss

Floats = NDArray[np.float64]

MIN_EIGENVALUE = 1e-8
"""Below it, variants are copies of each other as far as their correlations tell."""


@dataclass(frozen=True, eq=False)
class Table:
    """Checked associations and their names.

    Attributes
    ----------
    associations : Associations
        ``bx`` and ``sx`` of shape (M,) for one exposure, (M, P) for several.
    variants : list
        Labels of a pandas index, or positions from 1.
    exposures : list of str
    """

    associations: Associations
    variants: list[Hashable]
    exposures: list[str]

    def require_one_exposure(self, purpose: str) -> None:
        """Refuse several exposures."""
        if self.associations.bx.ndim > 1:
            raise InputError(
                f"{purpose} takes one exposure, {len(self.exposures)} were given; "
                "pass one column of beta_exposure and se_exposure"
            )


def read_associations(
    beta_exposure: ArrayLike,
    se_exposure: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
    correlation: ArrayLike | None = None,
) -> Table:
    """Check and name the associations.

    Raises
    ------
    InputError
        If lengths, or labels of pandas indexes or columns, differ, a number is missing or not
        finite, a standard error or an exposure association is zero or less (association: zero),
        or the correlation is not a symmetric positive definite correlation matrix.
    """
    given = {
        "beta_exposure": beta_exposure,
        "se_exposure": se_exposure,
        "beta_outcome": beta_outcome,
        "se_outcome": se_outcome,
    }
    numbers = {name: _numbers(name, value) for name, value in given.items()}
    _require_shapes(numbers)
    for name, values in numbers.items():
        _refuse(name, ~np.isfinite(values), "finite, without missing values", "drop them")
    for name in ("se_exposure", "se_outcome"):
        _refuse(name, numbers[name] <= 0, "positive", "drop them or give their standard errors")
    bx, sx, by, sy = numbers.values()
    if bx.ndim == 2 and bx.shape[1] == 1:
        bx, sx = bx[:, 0], sx[:, 0]
    if bx.ndim == 1:
        _refuse("beta_exposure", bx == 0, "other than zero", "drop these variants: not instruments")
    variants = _variants(given, len(by))
    if isinstance(correlation, pd.DataFrame):
        for labels in (correlation.index, correlation.columns):
            _require_variants("correlation", labels, variants)
        if _contradict(correlation.index, correlation.columns):
            raise InputError("correlation must have the same labels for rows and columns")
    rho = None if correlation is None else _correlation(correlation, len(by))
    table = Associations(bx, sx, by, sy, rho)
    return Table(table, variants, _exposures(beta_exposure, se_exposure, bx))


def choose(methods: str | Iterable[str], valid: Sequence[str], everything: list[str]) -> list[str]:
    """Names of methods: "all", one name, or several; unknown ones with the nearest valid name."""
    if methods == "all":
        return everything
    names = [methods] if isinstance(methods, str) else list(methods)
    if not names:
        raise InputError(f"methods must name at least one method; choose from {', '.join(valid)}")
    for name in names:
        one_of("methods", name, valid)
    return names


def one_of(option: str, value: Any, valid: Sequence[str]) -> None:
    """Refuse a value that is none of the valid ones."""
    if value not in valid:
        near = difflib.get_close_matches(str(value), valid, n=1, cutoff=0.0)[0]
        raise InputError(
            f"{option}: there is no {value!r}; did you mean {near!r}? "
            f"It must be one of {', '.join(valid)}"
        )


def frequencies(values: ArrayLike | None, table: Table) -> Floats | None:
    """Check effect-allele frequencies, strictly between 0 and 1."""
    if values is None:
        return None
    num_variants = table.associations.num_variants
    if isinstance(values, pd.Series):
        _require_variants("allele_frequency", values.index, table.variants)
    numbers = _numbers("allele_frequency", values)
    if numbers.shape != (num_variants,):
        raise InputError(
            f"allele_frequency must have one number per variant, {num_variants}; "
            f"its shape is {numbers.shape}"
        )
    outside = ~((numbers > 0) & (numbers < 1))
    _refuse("allele_frequency", outside, "between 0 and 1", "drop these variants")
    return numbers


def require_options(options: Options) -> None:
    """Refuse settings that no method can work with."""
    one_of("reference", options.reference, get_args(Reference))
    one_of("median_weights", options.median_weights, get_args(ErrorOrder))
    one_of("mode_errors", options.mode_errors, get_args(ErrorOrder))
    one_of("raps_loss", options.raps_loss, get_args(Loss))
    require(0 < options.level < 1, "level", "between 0 and 1", options.level)
    require(options.mode_bandwidth > 0, "mode_bandwidth", "positive", options.mode_bandwidth)
    if options.mode_grid is not None:
        require(options.mode_grid >= 64, "mode_grid", "None, or at least 64", options.mode_grid)
    for name, least in (("num_resamples", 100), ("seed", 0)):
        value = getattr(options, name)
        whole = isinstance(value, int | np.integer)
        require(whole and value >= least, name, f"a whole number from {least}", value)
    for name in ("num_obs_exposure", "num_obs_outcome"):
        size = getattr(options, name)
        if size is None:
            continue
        if np.ndim(size) or not isinstance(size, int | float | np.number) or not np.isfinite(size):
            raise InputError(
                f"{name} must be one number, the size of the study; where variants have sizes of "
                "their own, give the smallest"
            )
        # the number itself may be a small count of people
        if size <= 20:
            raise InputError(f"{name} must be more than 20 people; give the size of the study")


def require(met: bool, name: str, requirement: str, found: object) -> None:
    """Refuse a setting that does not meet its requirement."""
    if not met:
        raise InputError(f"{name} must be {requirement}; it is {found}")


def _numbers(name: str, values: ArrayLike) -> Floats:
    try:
        given: Any = np.ma.asarray(values)
        if given.dtype.kind not in "biufO":
            raise TypeError
        # what is masked is missing
        return np.ma.filled(given.astype(np.float64), np.nan)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} must be an array of numbers") from None


def _require_shapes(numbers: dict[str, Floats]) -> None:
    shapes = {name: values.shape for name, values in numbers.items()}
    x, y = shapes["beta_exposure"], shapes["beta_outcome"]
    fit = shapes["se_exposure"] == x and shapes["se_outcome"] == y and len(y) == 1
    if not fit or len(x) not in (1, 2) or x[0] != y[0]:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InputError(
            "associations must have one number per variant (one column per exposure as well, for "
            f"several exposures), all of the same length; their shapes are: {found}"
        )
    if 0 in x:
        raise InputError("at least one variant and one exposure are needed; none was given")


def _refuse(name: str, bad: NDArray[np.bool_], requirement: str, remedy: str) -> None:
    """Refuse values that break a requirement, with their number and first position."""
    rows = np.flatnonzero(bad.any(axis=1) if bad.ndim == 2 else bad)
    if len(rows):
        raise InputError(
            f"{name} must be {requirement}; {len(rows):,} of {len(bad):,} variants are not, first "
            f"at position {rows[0] + 1}; {remedy}"
        )


def _correlation(values: ArrayLike, num_variants: int) -> Floats:
    rho = _numbers("correlation", values)
    if rho.shape != (num_variants, num_variants):
        raise InputError(
            f"correlation must be a square matrix over the {num_variants} variants; "
            f"its shape is {rho.shape}"
        )
    # tables of correlations are often rounded
    if not (np.allclose(rho, rho.T, rtol=0, atol=1e-6) and np.allclose(np.diag(rho), 1, atol=1e-6)):
        raise InputError(
            "correlation must be finite and symmetric with ones on its diagonal; give correlations "
            "(not covariances or r squared), signed by the effect alleles of the associations"
        )
    rho = (rho + rho.T) / 2
    least = float(np.linalg.eigvalsh(rho)[0])
    if least <= MIN_EIGENVALUE:
        raise InputError(
            f"correlation must be positive definite; its smallest eigenvalue is {least:.2g}; prune "
            "variants that are almost the same"
        )
    return rho


def _variants(given: dict[str, ArrayLike], num_variants: int) -> list[Hashable]:
    """Labels of the pandas indexes, which must agree, or positions from 1."""
    indexes = [v.index for v in given.values() if isinstance(v, pd.Series | pd.DataFrame)]
    indexes += [i for v in given.values() if isinstance(v, xr.DataArray) for i in _first_labels(v)]
    if any(not index.equals(indexes[0]) for index in indexes):
        raise InputError(
            "associations must list the same variants in the same order; their pandas indexes "
            "differ; align them on the variant first"
        )
    if not indexes or isinstance(indexes[0], pd.RangeIndex):
        return list(range(1, num_variants + 1))
    return list(indexes[0])


def _first_labels(values: xr.DataArray) -> list[pd.Index]:
    return [values.indexes[dim] for dim in values.dims[:1] if dim in values.indexes]


def _require_variants(name: str, labels: pd.Index, variants: list[Hashable]) -> None:
    """Refuse labels that name other variants than those of the associations, if both have any."""
    if _contradict(labels, variants):
        raise InputError(
            f"{name} must list the variants of the associations in their order, but its pandas "
            "labels differ; align it on the variant first, for example with .reindex"
        )


def _contradict(one: Iterable[Hashable], other: Iterable[Hashable]) -> bool:
    """Whether labels name other variants, or the same in another order; numbers that the others
    have not are numbers of rows, which name none."""
    first, second = list(one), list(other)
    numbered = any(all(isinstance(x, int | np.integer) for x in x_s) for x_s in (first, second))
    mine, theirs = list(map(str, first)), list(map(str, second))
    return mine != theirs and (not numbered or sorted(mine) == sorted(theirs))


def _exposures(beta_exposure: ArrayLike, se_exposure: ArrayLike, bx: Floats) -> list[str]:
    if isinstance(beta_exposure, pd.DataFrame):
        names = list(beta_exposure.columns)
        errors = list(se_exposure.columns) if isinstance(se_exposure, pd.DataFrame) else names
        if errors != names and set(errors) == set(names):  # they may have names of their own
            raise InputError(
                "beta_exposure and se_exposure must have the same exposures in the same order, but "
                "their columns come in different ones; align them first"
            )
        return [str(name) for name in beta_exposure.columns]
    if bx.ndim == 1:
        named = isinstance(beta_exposure, pd.Series) and beta_exposure.name is not None
        return [str(beta_exposure.name)] if named else ["exposure"]  # type: ignore[union-attr]
    return [f"exposure_{p + 1}" for p in range(bx.shape[1])]
