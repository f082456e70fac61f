"""What a linear model needs before it can be estimated, one sentence for each way to fail.

Legend: N people, L instruments after rank reduction, P exposures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from mrscale.disclosure import show_count, vague
from mrscale.errors import InputError
from mrscale.stats.linalg import RANK_TOLERANCE
from mrscale.stats.moments import Floats, Moments
from mrscale.stats.reduced import Columns, Reduced

MOST_NAMES = 5
UNRELATED_SHARE = 1e-14
"""Share of an exposure that rounding alone lets instruments explain."""


def require_estimable(
    moments: Moments,
    reduced: Reduced,
    columns: Columns,
    exposures: Sequence[str],
    *,
    instrumented: bool = True,
) -> None:
    """Refuse a model that has no unique estimate.

    Parameters
    ----------
    moments, reduced, columns
        As of :func:`mrscale.stats.reduced.reduce_design`.
    exposures : sequence of str
        Names for messages.
    instrumented : bool, default True
        False for OLS.

    Raises
    ------
    InputError
        If people are too few, a trait does not vary, or the instruments do not identify the
        effects; it names the exposures.
    """
    _require_people(moments, reduced, columns, instrumented)
    still = _chosen(exposures, np.diag(reduced.xx) <= 0)
    if still:
        raise InputError(
            f"the exposure does not vary once the covariates are accounted for: {listed(still)}; "
            "drop the covariate that determines it"
        )
    if reduced.yy <= 0:
        raise InputError(
            "the outcome does not vary once the covariates are accounted for; choose another "
            "outcome, or drop the covariate that determines it"
        )
    combined = dependent(reduced.xx)
    if combined.any():
        names = _chosen(exposures, combined)
        raise InputError(
            f"the exposures {listed(names)} are linear combinations of each other once the "
            "covariates are accounted for; leave one of them out"
        )
    if dependent(reduced.total).any():
        raise InputError(
            "exposures and covariates give the outcome exactly, with no error left to estimate; "
            "choose another outcome, or drop what it was computed from"
        )
    if instrumented:
        _require_identified(reduced, columns, exposures)


def listed(names: Sequence[str]) -> str:
    """Some names for a message, the rest counted."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _require_people(
    moments: Moments, reduced: Reduced, columns: Columns, instrumented: bool
) -> None:
    p = columns.num_exposures
    given = columns.num_instruments if instrumented else 0
    people = show_count(vague(moments.count))
    if given and moments.count <= given + reduced.num_controls + p:
        raise InputError(
            "an estimate needs more people than instruments, covariates and exposures; found "
            f"{given:,} instruments, {columns.num_covariates:,} covariates and "
            f"{people} people (with as many instruments as people the estimate is just OLS); give "
            "a shorter list of instruments (--instruments)"
        )
    if moments.count <= reduced.num_controls + p + 1:
        raise InputError(
            "the regression needs more people than columns; found "
            f"{people} people for {reduced.num_controls + p:,} parameters; "
            "use fewer covariates or more people"
        )


def _require_identified(reduced: Reduced, columns: Columns, exposures: Sequence[str]) -> None:
    if not reduced.num_instruments:
        raise InputError(
            "no instrument varies once the covariates are accounted for; "
            "give other instruments or fewer covariates"
        )
    share = reduced.zx / np.sqrt(np.diag(reduced.xx))
    unrelated = (share**2).sum(0) <= UNRELATED_SHARE
    if unrelated.any():
        names = _chosen(exposures, unrelated)
        raise InputError(
            f"the instruments explain nothing of the exposure {listed(names)}; "
            "an estimate needs at least one instrument associated with it"
        )
    determined = dependent(reduced.xx - reduced.zx.T @ reduced.zx, np.diag(reduced.xx))
    if determined.any():
        raise InputError(
            f"the instruments determine the exposure {listed(_chosen(exposures, determined))} (or "
            "a combination of these): nothing else is left in it, so that there is no confounding "
            "to correct; use OLS, or leave out the instrument that was made from the exposure"
        )
    if reduced.num_instruments < reduced.num_exposures:
        raise InputError(
            f"{reduced.num_exposures} exposures ({listed(exposures)}) need as many independent "
            f"instruments; found {columns.num_instruments}, of which {reduced.num_instruments} "
            "independent given the covariates; give more instruments or fewer exposures"
        )
    alike = dependent(share.T @ share)
    if alike.any():
        names = _chosen(exposures, alike)
        raise InputError(
            f"the instruments do not tell the exposures {listed(names)} apart: what they explain "
            "of one is a combination of what they explain of the others; leave one exposure out "
            "or add instruments"
        )


def _chosen(names: Sequence[str], which: NDArray[np.bool_]) -> list[str]:
    return [name for name, chosen in zip(names, which, strict=True) if chosen]


def dependent(cross: Floats, size: Floats | None = None) -> NDArray[np.bool_]:
    """Which columns with this cross-product take part in a linear dependence, shape (P,).

    ``size``, shape (P,), is what their sums of squares are small or large against; by default
    those sums themselves.
    """
    scale = 1 / np.sqrt(np.diag(cross) if size is None else size)
    values, vectors = linalg.eigh(cross * np.outer(scale, scale))
    largest = values[-1] if size is None else 1.0
    null = vectors[:, values <= RANK_TOLERANCE * largest]
    return np.asarray((np.abs(null) > 1e-3).any(axis=1))
