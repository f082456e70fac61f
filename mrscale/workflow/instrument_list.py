"""The variants of a pair one by one, and those that were left out of all, as results list them.

Legend: M variants, E environments.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mrscale import places
from mrscale.disclosure import allele_frequency
from mrscale.results import Instrument, LeftOutVariant
from mrscale.results.pair import MOST_INSTRUMENTS
from mrscale.stats.associations import associations
from mrscale.stats.crosses import Crosses
from mrscale.stats.iv import LinearIV
from mrscale.stats.moments import Floats, Moments
from mrscale.stats.resampling import instrument_directions, leave_one_instrument_out
from mrscale.store.reader import GenotypeStore
from mrscale.store.schema import VARIANTS

_MOST_LEFT_OUT = 2000
"""With more variants, none is left out in turn: it takes as long as the estimates."""


@dataclass(frozen=True, eq=False)
class AdjustedVariants:
    """Variants with the covariates of the adjusted 2SLS partialled out.

    Attributes
    ----------
    beta, std_error : ndarray, shape (M, 2)
        Associations with exposure and outcome.
    without_one : tuple of (float, float)
        Smallest and largest 2SLS estimate without one variant; NaN if that was not tried.
    """

    beta: Floats
    std_error: Floats
    without_one: tuple[float, float]

    @classmethod
    def of(cls, moments: Moments, fit: LinearIV) -> AdjustedVariants:
        """From the moments of [Z | W | x | y], and the fit on them."""
        num_instruments = fit.basis.columns.num_instruments
        found = associations(Crosses.from_moments(moments, 2), num_instruments)
        without_one = (math.nan, math.nan)
        if 1 < num_instruments <= _MOST_LEFT_OUT:
            directions = instrument_directions(moments, fit.basis)
            left = leave_one_instrument_out(fit.reduced, directions)
            estimates = left.estimate[np.isfinite(left.estimate)]
            if estimates.size:
                without_one = (float(estimates.min()), float(estimates.max()))
        return cls(found.beta, found.std_error, without_one)


def strongest(store: GenotypeStore, adjusted: AdjustedVariants) -> tuple[Instrument, ...]:
    """The variants with the largest F of their own, at most ``MOST_INSTRUMENTS``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        strength = (adjusted.beta[:, 0] / adjusted.std_error[:, 0]) ** 2
    order = np.argsort(-np.nan_to_num(strength, nan=-1.0), kind="stable")[:MOST_INSTRUMENTS]
    names = ("variant_id", "variant_contig", "variant_position", "variant_effect_allele")
    ids, contigs, positions, effect = (store.array(name)[order].tolist() for name in names)
    alleles = store.array("variant_allele")[order].tolist()
    frequency = _frequencies(store)[order].tolist()
    numbers = np.stack([adjusted.beta, adjusted.std_error], axis=2).reshape(-1, 4)[order]
    return tuple(
        Instrument(
            variant=str(ids[i]),
            position=f"{contigs[i]}:{positions[i]}",
            effect_allele=str(effect[i]),
            other_allele=next(str(a) for a in alleles[i] if a != effect[i]),
            frequency=frequency[i],
            beta_exposure=beta_x,
            se_exposure=se_x,
            beta_outcome=beta_y,
            se_outcome=se_y,
        )
        for i, (beta_x, se_x, beta_y, se_y) in enumerate(numbers.tolist())
    )


def _frequencies(store: GenotypeStore) -> Floats:
    """Of the effect allele over everybody; NaN where it would tell a small count."""
    sizes = np.bincount(store.array("environment"), minlength=len(store.names("environments")))
    called = sizes[:, None] * store.array("variant_call_rate")
    inside = np.nan_to_num(store.array("variant_allele_frequency"))
    people = called.sum(axis=0)
    over_all = (called * inside).sum(axis=0) / np.where(people > 0, people, np.nan)
    shown = [allele_frequency(f, round(n)) for f, n in zip(over_all, people, strict=True)]
    return np.array(shown, dtype=np.float64)


def left_out(store: GenotypeStore) -> tuple[LeftOutVariant, ...]:
    """Candidates of the extraction that are no instruments, at most ``MOST_INSTRUMENTS``."""
    path = places.join(store.path, VARIANTS)
    if not places.is_file(path):
        return ()
    table = pd.read_csv(
        io.BytesIO(places.read_bytes(path)), sep="\t", dtype=str, keep_default_na=False
    )
    dropped = table[table["status"] != "kept"].head(MOST_INSTRUMENTS)
    return tuple(
        LeftOutVariant(v, f"{contig}:{position}", alleles, status, reason)
        for v, contig, position, alleles, status, reason in dropped[
            ["variant_id", "contig", "position", "alleles", "status", "reason"]
        ].itertuples(index=False)
    )
