"""What users hand over to learn instruments from, as cohorts.

Legend: N people, M instruments, E environments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrscale.disclosure import policy, show_count
from mrscale.errors import InputError
from mrscale.stats.identification import listed
from mrscale.stats.reduced import reduce_design
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.workflow.cohorts import (
    ArrayCohort,
    Cohort,
    balanced_folds,
    environment_codes,
    fewest_people,
)
from mrscale.workflow.columns import (
    NamedColumns,
    named_columns,
    named_vector,
    require_finite,
    require_same_rows,
)
from mrscale.workflow.iv_data import Data
from mrscale.workflow.learning import BLOCKS

INSTRUMENT = "instrument"
_OF_STORES = (
    "call_dosage",
    "environment",
    "environment_name",
    "variant_allele_frequency",
    "variant_id",
    "variant_effect_allele",
)
_REMEDY = "fill them in, or leave these people out"


class OneFold(GenotypeStore):
    """A store all of whose people train one encoder."""

    def array(self, name: str, rows: slice = slice(None)) -> NDArray[Any]:
        """As that of the store, but for the folds."""
        values = super().array(name, rows)
        return np.zeros_like(values) if name == "fold" else values


def instruments_of(data: Any, environment: Any = None) -> tuple[Cohort, list[str]]:
    """People in one fold, and names of their instruments (none where the user gave none).

    Parameters
    ----------
    data : str, Path, GenotypeStore, xarray.Dataset or array-like, shape (N, M)
        See :func:`mrscale.fit_encoder`.
    environment : array-like, shape (N,), optional
        For arrays.

    Raises
    ------
    InputError
        If environments are given twice or not at all, or the data allow no encoder.
    """
    held = isinstance(data, (str, Path, GenotypeStore, xr.Dataset))
    if held and environment is not None:
        raise InputError(
            "a store or a dataset has its environments in it; found environment= as well; leave "
            "it out, or give the instruments as an array"
        )
    if not held and environment is None:
        raise InputError(
            "an array of instruments needs environment=, the ancestry group, site or period of "
            "each person; found none"
        )
    cohort, names = dataset_or_store(data) if held else _from_arrays(data, environment)
    require_enough(cohort, 1)
    return cohort, names


def dataset_or_store(data: Any) -> tuple[Cohort, list[str]]:
    """A genotype store or an xarray dataset as it is, and names of its instruments.

    Raises
    ------
    InputError
        If a dataset is of neither kind that is known.
    StoreError
        As :func:`mrscale.store.reader.open_store`.
    """
    if isinstance(data, xr.Dataset):
        return _from_dataset(data)
    store = data if isinstance(data, GenotypeStore) else open_store(data)
    whole = OneFold(store.path, store.manifest)
    return whole, _variant_names(whole.array("variant_id"), whole.array("variant_effect_allele"))


def complete_instruments(given: NamedColumns) -> NDArray[Any]:
    """Instruments in memory, shape (N, M), as cohorts hold them.

    Raises
    ------
    InputError
        If there is nobody, or a value is not finite.
    """
    values = np.asarray(given.values)
    if not len(values):
        raise InputError("latent instruments need people; found instruments without any rows")
    with np.errstate(invalid="ignore", over="ignore"):
        sums = values.sum(axis=0, dtype=np.float64)
    require_finite(given, sums, _REMEDY)
    # negative integers stand for missing calls in cohorts, and for themselves in arrays
    if values.dtype.kind == "i" and values.min(initial=0) < 0:
        return values.astype(np.float64)
    return values


def own_names(given: NamedColumns) -> list[str]:
    """Names of columns, or none if they are those that were made up for them."""
    made_up = (
        [INSTRUMENT] if given.width == 1 else [f"{INSTRUMENT}_{i}" for i in range(given.width)]
    )
    return [] if given.names == made_up else given.names


def pair_cohort(
    outcome: Any,
    exposure: Any,
    instruments: Any,
    environment: Any,
    covariates: Any,
    clusters: Any,
    *,
    blocks: int | Literal["auto"],
    seed: int,
) -> ArrayCohort:
    """Take what users hand over; everything that :func:`mrscale.iv` refuses is refused.

    Parameters and errors are those of :func:`mrscale.learned_iv`.

    Returns
    -------
    ArrayCohort
        Its folds are the blocks of people that train one encoder each: whole clusters,
        environments in equal shares.
    """
    data = Data.of(
        outcome, exposure, instruments, covariates, clusters=clusters, weights=None, intercept=True
    )
    if data.exposures.width != 1:
        raise InputError(
            "learned instruments take one exposure at a time; found "
            f"{data.exposures.width} ({listed(data.exposures.names)}); estimate them one by one"
        )
    require_same_rows([data.outcome, named_vector(environment, "environment")])
    codes, places = environment_codes(environment)
    cohort = _cohort(complete_instruments(data.instruments), codes, places, data)
    num_blocks = BLOCKS if blocks == "auto" else blocks
    require_enough(cohort, num_blocks)
    moments = data.moments()
    _require_varying(~moments.constant[data.columns.instruments])
    data.require_usable(moments, reduce_design(moments, data.columns)[0])
    cohort.arrays["fold"] = balanced_folds(codes, cohort.arrays["family"], num_blocks, seed)
    if fewest_people(cohort, num_blocks) <= policy().limit:
        raise InputError(
            f"every block needs more than {policy().limit} people of each environment, and "
            "clusters stay together; found a block with fewer; ask for fewer blocks, or give "
            "smaller clusters"
        )
    return cohort


def require_enough(cohort: Cohort, num_blocks: int) -> None:
    """Refuse people who are too few, all together or in an environment.

    Parameters
    ----------
    cohort : Cohort
    num_blocks : int
        Disjoint blocks that the people of every environment are divided into.
    """
    if cohort.num_variants >= cohort.num_samples:
        raise InputError(
            "learned instruments need more people than instruments; found "
            f"{cohort.num_variants:,} instruments and {show_count(cohort.num_samples)} people; "
            "give a shorter list of instruments"
        )
    counts = np.bincount(cohort.array("environment"), minlength=len(cohort.names("environments")))
    small = int((counts <= policy().limit * num_blocks).sum())
    if small:
        each = f" for each of the {num_blocks} blocks" if num_blocks > 1 else ""
        fewer = ", or ask for fewer blocks" if num_blocks > 2 else ""
        # names are not shown: labels that nearly everybody has alone may be ids or measurements
        raise InputError(
            f"every environment needs more than {policy().limit} people{each}; found fewer in "
            f"{small:,} of {len(counts):,} environments; merge those with others, or leave their "
            f"people out{fewer}"
        )


def _from_arrays(x: Any, environment: Any) -> tuple[ArrayCohort, list[str]]:
    given = named_columns(x, INSTRUMENT)
    require_same_rows([given, named_vector(environment, "environment")])
    codes, places = environment_codes(environment)
    values = complete_instruments(given)
    _require_varying((values != values[:1]).any(axis=0))
    return _cohort(values, codes, places), own_names(given)


def _from_dataset(data: xr.Dataset) -> tuple[ArrayCohort, list[str]]:
    if "x" in data and "environment" in data:
        return _from_arrays(data["x"], data["environment"])
    lacking = [name for name in _OF_STORES if name not in data]
    if lacking:
        raise InputError(
            "a dataset must be that of a genotype store (mr.open), or hold x and environment; "
            f"found one without {', '.join(lacking)}"
        )
    # of a selection of people, whose environments need not be all
    present, codes = np.unique(data["environment"].to_numpy(), return_inverse=True)
    places = [str(name) for name in data["environment_name"].to_numpy()[present]]
    cohort = _cohort(np.asarray(data["call_dosage"].data), codes.astype(np.int16), places)
    if "family" in data:
        cohort.arrays["family"] = data["family"].to_numpy()
    if "variant_allele_frequency" in data:
        inside = data["variant_allele_frequency"].to_numpy()[present]
        cohort.arrays["variant_allele_frequency"] = inside
    return cohort, _variant_names(data["variant_id"], data["variant_effect_allele"])


def _cohort(
    x: NDArray[Any], codes: NDArray[np.int16], places: list[str], data: Data | None = None
) -> ArrayCohort:
    """People in one fold, with the traits and clusters of a regression if there is one."""
    alone = np.full(len(x), -1, dtype=np.int32)
    units = alone if data is None or data.codes is None else data.codes.astype(np.int32)
    arrays: dict[str, NDArray[Any]] = {
        "environment": codes,
        "fold": np.zeros(len(x), dtype=np.int8),
        "family": units,
        "cluster": units,
    }
    named = {"environments": places}
    if data is not None:
        parts = {"exposure": data.exposures, "outcome": data.outcome, "covariate": data.covariates}
        arrays |= {name: np.asarray(part.values, np.float64) for name, part in parts.items()}
        named |= {f"{name}s": part.names for name, part in parts.items()}
    return ArrayCohort(x, arrays, named)


def _variant_names(ids: Any, effect_alleles: Any) -> list[str]:
    """A dosage counts one allele: the other one's is another instrument."""
    pairs = zip(np.asarray(ids), np.asarray(effect_alleles), strict=True)
    return [f"{variant}_{allele}" for variant, allele in pairs]


def _require_varying(varies: NDArray[np.bool_]) -> None:
    if varies.sum() < 2:
        raise InputError(
            "learned instruments need at least two instruments that vary between people; found "
            f"{int(varies.sum())} of {len(varies)}; give more instruments"
        )
