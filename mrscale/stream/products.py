"""Moments of a store's dosages with its traits, in one pass: exact where every call is there.

Dosages are small integers. Taken from the middle of their range they lie in -h .. h (h = 1 for
hard calls, 126 for imputed dosages), and a float32 product of fewer than ``2^24 / h^2`` people is
an exact integer whatever the order of its sums: half the time of a float64 one and no rounding.
Totals are int64, exact for ``N h < 3e9``, and centred at the end.

Legend: N people, M variants, T traits [W | X | Y], E environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mrscale.errors import InputError
from mrscale.progress import Advance, silent
from mrscale.stats.design import fill_missing
from mrscale.stats.moments import Floats, Moments
from mrscale.store.reader import GenotypeStore
from mrscale.store.schema import DosageCode
from mrscale.stream.engine import Client
from mrscale.stream.reduce import reduce_blocks

Integers = NDArray[np.int64]
Grouping = Literal["environment", "fold"]
Group = tuple[int, ...]
TraitNames = tuple[Sequence[str] | None, Sequence[str] | None, Sequence[str] | None]
"""Of exposures, outcomes and covariates."""
TraitColumns = tuple[tuple[str, tuple[int, ...]], ...]
"""Arrays of the store and the columns to take of each."""

_EXACT_FLOAT32 = 2**24
_TILE_ROWS = 512
"""Of the float64 products with traits: a tile stays in the processor's cache."""

_reading = Lock()
_read: dict[tuple[str, str, TraitColumns], People] = {}


@dataclass(frozen=True, eq=False)
class People:
    """Everybody in a store.

    Attributes
    ----------
    traits : ndarray, shape (N, T), float64
        Covariates, exposures and outcomes; NaN is missing.
    environment : ndarray of int16, shape (N,)
    fold : ndarray of int8, shape (N,)
    """

    traits: Floats
    environment: NDArray[np.int16]
    fold: NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class DosageProducts:
    """Exact cross-products of complete dosages, and float64 ones with traits: a monoid.

    Attributes
    ----------
    half : int
        Units of one effect allele, subtracted from every code.
    dosage_sum : ndarray of int64, shape (M,)
        Sum of the shifted codes.
    dosages : ndarray of int64, shape (M, M)
        Cross-product of the shifted codes, not centred.
    with_traits : ndarray, shape (M, T)
        Centred cross-product of the shifted codes with the traits.
    traits : Moments
        Of the traits, T columns; it holds the number of people.
    """

    half: int
    dosage_sum: Integers
    dosages: Integers
    with_traits: Floats
    traits: Moments

    def combine(self, other: DosageProducts) -> DosageProducts:
        """Of the people of both."""
        a, b = self.traits.count, other.traits.count
        if not a or not b:
            return self if a else other
        z = other.dosage_sum / b - self.dosage_sum / a
        t = other.traits.mean - self.traits.mean
        between = np.outer(z, t * (a * b / (a + b)))
        return DosageProducts(
            self.half,
            self.dosage_sum + other.dosage_sum,
            self.dosages + other.dosages,
            self.with_traits + other.with_traits + between,
            self.traits.combine(other.traits),
        )

    @property
    def moments(self) -> Moments:
        """Of [Z | T], dosages in effect alleles.

        Notes
        -----
        ``(N ZZ' - s s') / N`` in integers: no cancellation, however rare a variant is.
        """
        n, s, unit = self.traits.count, self.dosage_sum, float(self.half)
        if not n:
            return Moments.empty(len(s) + len(self.traits.mean))
        zz = (n * self.dosages - np.outer(s, s)) / (n * unit**2)
        zt = self.with_traits / unit
        cross = np.block([[zz, zt], [zt.T, self.traits.cross]])
        return Moments(n, np.concatenate([1 + s / (n * unit), self.traits.mean]), cross)


def dosage_moments(
    client: Client | None,
    store: GenotypeStore,
    *,
    exposures: Sequence[str] | None = None,
    outcomes: Sequence[str] | None = None,
    covariates: Sequence[str] | None = None,
    progress: Advance = silent,
) -> Moments:
    """Moments of [Z | W | X | Y] over the people of a store who have all of these traits.

    Parameters
    ----------
    client : distributed.Client or None
        As for :func:`mrscale.stream.reduce.reduce_blocks`.
    store : GenotypeStore
    exposures, outcomes, covariates : sequence of str, optional
        Names, in the order of the columns; all of the store's by default.
    progress : Advance
        Told of every finished block.

    Returns
    -------
    Moments
        Of M dosages (0 to 2), covariates, exposures and outcomes. Missing calls count as their
        environment's mean.

    Raises
    ------
    InputError
        If the store has no trait of a name.

    Notes
    -----
    People with all calls enter exact integer products. Those with a missing call enter float64
    ones. Products are computed on a GPU where torch finds one, to the same digits.
    """
    names = exposures, outcomes, covariates
    found = _reduce(client, store, names, progress, ())
    return found.get((), Moments.empty(0))


def group_moments(
    client: Client | None,
    store: GenotypeStore,
    *,
    exposures: Sequence[str] | None = None,
    outcomes: Sequence[str] | None = None,
    covariates: Sequence[str] | None = None,
    by: Sequence[Grouping] = ("environment",),
    progress: Advance = silent,
) -> dict[Group, Moments]:
    """The moments of :func:`dosage_moments` in each group of people, from one pass.

    The keys are tuples of environment codes, folds, or both, as ``by`` says; groups in which
    nobody has all the traits are absent.
    """
    names = exposures, outcomes, covariates
    found = _reduce(client, store, names, progress, by)
    return dict(sorted(found.items()))


@dataclass(frozen=True, eq=False)
class _Part:
    """People of one environment, or all: those with every call, and the others."""

    complete: DosageProducts
    filled: Moments

    def combine(self, other: _Part) -> _Part:
        return _Part(self.complete.combine(other.complete), self.filled.combine(other.filled))


def _reduce(
    client: Client | None,
    store: GenotypeStore,
    names: TraitNames,
    progress: Advance,
    by: Sequence[Grouping],
) -> dict[Group, Moments]:
    columns = trait_columns(store, *names)
    block = partial(_block, store, columns, mean_dosage(store), tuple(by))
    layout = store.layout
    blocks = [layout.chunk(i) for i in range(layout.num_chunks)]
    found = reduce_blocks(client, blocks, block, _combine_parts, progress=progress)
    return {key: part.complete.moments.combine(part.filled) for key, part in found.items()}


def _combine_parts(a: dict[Group, _Part], b: dict[Group, _Part]) -> dict[Group, _Part]:
    both = {key: a[key].combine(b[key]) for key in a if key in b}
    return a | b | both


def mean_dosage(store: GenotypeStore) -> Floats:
    """Mean dosage per environment, shape (E, M); over all where an environment has no call."""
    frequency = store.array("variant_allele_frequency").astype(np.float64)
    return 2 * np.where(np.isnan(frequency), np.nanmean(frequency, axis=0), frequency)


def _block(
    store: GenotypeStore,
    columns: TraitColumns,
    fill: Floats,
    by: tuple[Grouping, ...],
    rows: slice,
) -> dict[Group, _Part]:
    people = people_of(store, columns)
    traits, environment = people.traits[rows], people.environment[rows]
    codes = store.dosage(rows)
    keep = np.asarray(np.isfinite(traits).all(axis=1))
    if not by:
        return {(): _part(store, codes, traits, environment, fill, keep)} if keep.any() else {}
    labels = np.stack([getattr(people, name)[rows] for name in by], axis=1)
    groups = np.unique(labels[keep], axis=0)
    return {
        tuple(int(label) for label in group): _part(
            store, codes, traits, environment, fill, keep & np.asarray(labels == group).all(axis=1)
        )
        for group in groups
    }


def _part(
    store: GenotypeStore,
    codes: NDArray[Any],
    traits: Floats,
    environment: NDArray[np.int16],
    fill: Floats,
    keep: NDArray[np.bool_],
) -> _Part:
    if not keep.all():
        codes, traits, environment = codes[keep], traits[keep], environment[keep]
    lacking = (codes == store.code.missing).any(axis=1)
    if not lacking.any():
        nobody = Moments.empty(codes.shape[1] + traits.shape[1])
        return _Part(_exact(codes, traits, store.code.per_allele), nobody)
    filled = filled_dosages(store.code, codes[lacking], environment[lacking], fill)
    rows = np.concatenate([filled, traits[lacking]], axis=1)
    on_gpu = torch.cuda.is_available()
    return _Part(
        _exact(codes[~lacking], traits[~lacking], store.code.per_allele),
        torch_moments(rows, "cuda") if on_gpu else Moments.from_block(rows),
    )


def filled_dosages(
    code: DosageCode, codes: NDArray[Any], environment: NDArray[np.int16], fill: Floats
) -> Floats:
    """Effect alleles of people in float64, missing calls at their environment's mean.

    Parameters
    ----------
    code : DosageCode
    codes : ndarray of int8 or uint8, shape (N, M)
    environment : ndarray of int16, shape (N,)
    fill : ndarray, shape (E, M)
    """
    if code.per_allele == 1:
        return fill_missing(codes, environment, fill)  # -1 is missing
    effect_alleles = np.where(codes == code.missing, np.nan, codes / code.per_allele)
    return fill_missing(effect_alleles, environment, fill)


def _exact(codes: NDArray[Any], traits: Floats, half: int) -> DosageProducts:
    """Of a block of people with every call."""
    of_traits = Moments.from_block(traits)
    centred = np.concatenate([np.ones((len(traits), 1)), traits - of_traits.mean], axis=1)
    if torch.cuda.is_available():
        dosages, with_traits = torch_products(codes, centred, half, "cuda")
    else:
        dosages, with_traits = numpy_products(codes, centred, half)
    total = np.rint(with_traits[:, 0]).astype(np.int64)
    return DosageProducts(half, total, dosages, with_traits[:, 1:], of_traits)


def numpy_products(codes: NDArray[Any], traits: Floats, half: int) -> tuple[Integers, Floats]:
    """Cross-products of shifted codes with each other, exactly, and with traits.

    Parameters
    ----------
    codes : ndarray of int8 or uint8, shape (N, M)
        None missing.
    traits : ndarray, shape (N, T), float64
    half : int
        Subtracted from the codes.

    Returns
    -------
    ndarray of int64, shape (M, M), and ndarray of float64, shape (M, T)
    """
    num_variants, most = codes.shape[1], _EXACT_FLOAT32 // half**2
    dosages = np.zeros((num_variants, num_variants), dtype=np.int64)
    for start in range(0, len(codes), most):
        shifted = np.subtract(codes[start : start + most], np.float32(half), dtype=np.float32)
        np.add(dosages, shifted.T @ shifted, out=dosages, casting="unsafe")
    of_traits = np.zeros((traits.shape[1], num_variants))
    for start in range(0, len(codes), _TILE_ROWS):
        tile = np.subtract(codes[start : start + _TILE_ROWS], np.float64(half), dtype=np.float64)
        of_traits += traits[start : start + _TILE_ROWS].T @ tile
    return dosages, of_traits.T


def torch_products(
    codes: NDArray[Any], traits: Floats, half: int, device: str
) -> tuple[Integers, Floats]:
    """What :func:`numpy_products` computes, on a device of torch.

    TF32, should it be on, holds integers up to 2^11 exactly and sums in float32.
    """
    all_shifted = torch.from_numpy(np.ascontiguousarray(codes)).to(device).to(torch.float32) - half
    num_variants = codes.shape[1]
    dosages = torch.zeros((num_variants, num_variants), dtype=torch.int64, device=device)
    for shifted in all_shifted.split(_EXACT_FLOAT32 // half**2):
        dosages += (shifted.T @ shifted).to(torch.int64)
    with_traits = all_shifted.to(torch.float64).T @ torch.from_numpy(traits).to(device)
    return dosages.cpu().numpy(), with_traits.cpu().numpy()


def torch_moments(rows: Floats, device: str) -> Moments:
    """``Moments.from_block`` on a device of torch, in float64."""
    there = torch.from_numpy(rows).to(device)
    # from the first row onwards: see centre of mrscale.stats.moments
    left = there - there[0]
    offset = left.mean(dim=0)
    left -= offset
    return Moments(len(rows), (there[0] + offset).cpu().numpy(), (left.T @ left).cpu().numpy())


def trait_columns(
    store: GenotypeStore,
    exposures: Sequence[str] | None = None,
    outcomes: Sequence[str] | None = None,
    covariates: Sequence[str] | None = None,
) -> TraitColumns:
    """Where a store has the covariates, exposures and outcomes of some names, in this order.

    Raises
    ------
    InputError
        If the store has no trait of a name; it tells the nearest.
    """
    wanted = {"covariate": covariates, "exposure": exposures, "outcome": outcomes}
    found = []
    for array, chosen in wanted.items():
        kind: Any = f"{array}s"
        there = store.names(kind)
        unknown = sorted(set(chosen or ()) - set(there))
        if unknown:
            near = get_close_matches(unknown[0], there, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "name one of these, or append it"
            raise InputError(
                f"the store has no {array} {', '.join(unknown[:5])}; "
                f"it has {', '.join(there[:20]) or 'none'}; {hint}"
            )
        columns = there if chosen is None else chosen
        found.append((array, tuple(there.index(name) for name in columns)))
    return tuple(found)


def people_of(store: GenotypeStore, columns: TraitColumns) -> People:
    """What a pass needs of everybody beside dosages, read once per process: a block is a small
    part of the chunks of these arrays."""
    key = (store.path, store.digest, columns)
    with _reading:
        if key not in _read:
            parts = [store.array(name)[:, list(chosen)] for name, chosen in columns]
            traits = np.concatenate(parts, axis=1, dtype=np.float64)
            _read.clear()
            _read[key] = People(traits, store.array("environment"), store.array("fold"))
        return _read[key]
