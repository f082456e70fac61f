"""Everyone in the study: the table of people joined with the genotype file, ordered, in folds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, count

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale import config
from mrscale.disclosure import is_small, policy, show_count
from mrscale.errors import InputError
from pipelines.folds import assign_folds
from pipelines.identifiers import describe_mismatch, read_ids
from pipelines.relatives import cluster_codes, family_codes, read_kinship
from pipelines.traits import CROSS, SAMPLE, matrix, read_columns, trait_columns

logger = logging.getLogger(__name__)

_NAMES_SHOWN = 5
_ORDER_STREAM, _FOLD_STREAM = 1, 2


@dataclass(frozen=True)
class People:
    """Everyone in the study, in the order of the store's rows.

    N samples, P exposures, Q outcomes, K covariates, E environments.

    Attributes
    ----------
    sample_id : ndarray of str, shape (N,)
    column : ndarray of int64, shape (N,)
        Index of each person in the genotype file.
    environment, family, cluster, fold : ndarray, shape (N,)
        int16, int32, int32, int8; as in the store's schema.
    environment_name : ndarray of str, shape (E,)
    environment_offset : ndarray of int64, shape (E,)
    exposure, outcome, covariate : ndarray of float32, shape (N, P), (N, Q), (N, K)
        NaN is missing.
    funnel : dict of str to int
        People left after each step.
    """

    sample_id: NDArray[np.str_]
    column: NDArray[np.int64]
    environment: NDArray[np.int16]
    environment_name: NDArray[np.str_]
    environment_offset: NDArray[np.int64]
    family: NDArray[np.int32]
    cluster: NDArray[np.int32]
    fold: NDArray[np.int8]
    exposure: NDArray[np.float32]
    outcome: NDArray[np.float32]
    covariate: NDArray[np.float32]
    funnel: dict[str, int]


@dataclass(frozen=True)
class PeopleTables:
    """All tables of people, read and checked before any engine starts.

    Attributes
    ----------
    people : DataFrame
        One row per person: text columns ``sample``, ``environment`` and, where the study names
        them, ``family`` and ``cluster``; one float32 column per trait, named ("exposure", name)
        and so on.
    excluded : dict of str to Series of str
        Ids to leave out, by the name of the file.
    pairs : DataFrame or None
        Pairs of relatives, ``first`` and ``second``.
    """

    people: pd.DataFrame
    excluded: dict[str, pd.Series] = field(default_factory=dict)
    pairs: pd.DataFrame | None = None


def read_phenotypes(study: config.Study) -> PeopleTables:
    """Read the tables of people and check them, before any engine starts.

    Raises
    ------
    InputError
        If a file, a column or all values of a trait are missing, a trait is not numeric, or a
        person has two rows.
    """
    people = study.people
    if not (people.phenotypes and study.traits.exposure and study.traits.outcome):
        raise InputError("extraction needs a table of people, an exposure and an outcome column")
    if not people.environment_column:
        raise InputError("extraction needs the name of at least one environment_column in [people]")
    optional = {"family": people.family_column, "cluster": people.cluster_column}
    text = {SAMPLE: [people.sample_column], "environment": people.environment_column}
    text |= {role: [name] for role, name in optional.items() if name}
    table = read_columns(people, text, study.traits)
    named = f"environment_column {CROSS.join(people.environment_column)}"
    _require_two(table["environment"], f"{named} has", "in the table of people")
    return PeopleTables(
        people=table,
        excluded=_read_exclusions(people),
        pairs=read_kinship(people.kinship, people.kinship_min) if people.kinship else None,
    )


def input_files(study: config.Study) -> dict[str, list[str]]:
    """The files of people that decide the store, by what they are."""
    people = study.people
    named: dict[str, tuple[str | None, ...]] = {
        "people": (people.phenotypes,),
        "ancestry": (people.ancestry,),
        "kinship": (people.kinship,),
        "exclude": people.exclude,
    }
    found = {name: [file for file in files if file] for name, files in named.items()}
    return {name: files for name, files in found.items() if files}


def arrange(table: PeopleTables, genotyped: Sequence[str], *, num_folds: int, seed: int) -> People:
    """Join the table of people with the genotype file's ids, order the rows and draw folds.

    Parameters
    ----------
    table : PeopleTables
        From :func:`read_phenotypes`.
    genotyped : sequence of str
        Sample ids of the genotype file, in its order.
    num_folds : int
        Number of disjoint blocks of people.
    seed : int
        The order of families and the folds derive from it, not from the order of any file.

    Raises
    ------
    InputError
        If no id matches, an id occurs twice in the genotype file, there are fewer than two
        environments, one has 20 people or fewer, or an exposure or outcome does not vary.
    """
    kept, funnel = _select(table, genotyped)
    _check_environments(kept["environment"])
    for role, name in trait_columns(kept):
        _check_varies(kept[(role, name)], role, name)
    name_E, code = np.unique(kept["environment"].to_numpy(dtype=str), return_inverse=True)
    nobody = pd.Series(pd.NA, index=kept.index, dtype="string")
    family = family_codes(kept[SAMPLE], kept.get("family", nobody), table.pairs)
    cluster = cluster_codes(kept["cluster"]) if "cluster" in kept else family
    order = _row_order(code, family, np.random.default_rng([seed, _ORDER_STREAM]))
    fold = assign_folds(code, family, num_folds, np.random.default_rng([seed, _FOLD_STREAM]))
    kept, code = kept.iloc[order], code[order]
    return People(
        sample_id=kept[SAMPLE].to_numpy(dtype=str),
        column=kept["column"].to_numpy(dtype=np.int64),
        environment=code.astype(np.int16),
        environment_name=name_E,
        environment_offset=np.searchsorted(code, np.arange(len(name_E))).astype(np.int64),
        family=family[order],
        cluster=cluster[order],
        fold=fold[order],
        exposure=matrix(kept, "exposure"),
        outcome=matrix(kept, "outcome"),
        covariate=matrix(kept, "covariate"),
        funnel=funnel,
    )


def _read_exclusions(people: config.People) -> dict[str, pd.Series]:
    """Ids to leave out, by file name; further files of one name are numbered."""
    found: dict[str, pd.Series] = {}
    for file in people.exclude:
        name = file.rstrip("/").rsplit("/", 1)[-1]
        numbered = (f"{name} ({number})" for number in count(2))
        label = next(one for one in chain([name], numbered) if one not in found)
        found[label] = read_ids(file, people.sample_column)
    return found


def _select(tables: PeopleTables, genotyped: Sequence[str]) -> tuple[pd.DataFrame, dict[str, int]]:
    """People with genotypes and an environment and on no list, by id; how many each step left."""
    kept = _join(tables.people, genotyped)
    funnel = {
        "in the table of people": len(tables.people),
        "in the genotype file": len(genotyped),
        "in both": len(kept),
    }
    for name, ids in tables.excluded.items():
        listed = kept[SAMPLE].isin(ids)
        if len(ids) and not listed.any():
            logger.warning(
                "nobody of %s is left to exclude; %s",
                name,
                describe_mismatch(ids, "the list", kept[SAMPLE], "the study"),
            )
        kept = kept[~listed]
        funnel[f"not excluded by {name}"] = len(kept)
    kept = kept.dropna(subset=["environment"]).sort_values(SAMPLE, ignore_index=True)
    funnel["with an environment"] = len(kept)
    return kept, funnel


def _join(table: pd.DataFrame, genotyped: Sequence[str]) -> pd.DataFrame:
    samples = pd.DataFrame({SAMPLE: pd.array(list(genotyped), dtype="string")})
    twice = int(samples[SAMPLE].duplicated().sum())
    if twice:
        raise InputError(
            f"{show_count(twice)} sample ids occur twice in the genotype file; give every sample "
            "there an id of its own, or leave the duplicates out of it"
        )
    samples["column"] = np.arange(len(samples))
    joined = table.merge(samples, on=SAMPLE, how="inner")
    if joined.empty:
        form = describe_mismatch(table[SAMPLE], "the table", samples[SAMPLE], "the genotype file")
        raise InputError(
            f"no id of the table of people ({show_count(len(table))} people) is in the genotype "
            f"file ({show_count(len(samples))} samples); {form}. Give the column that holds the "
            "genotype file's sample ids as sample_column (--sample-column)"
        )
    return joined


def _check_environments(environment: pd.Series) -> None:
    counts = environment.value_counts()
    _require_two(environment, "the environment column has", "among the genotyped people")
    small = sorted(str(name) for name, count in counts.items() if is_small(int(count)))
    if small:
        # a column of ids, taken for environments by mistake, must not be shown
        shown = 0 < len(small) <= min(_NAMES_SHOWN, len(counts) - 1)
        names = ", ".join(map(repr, small)) if shown else f"{len(small)} of {len(counts)}"
        raise InputError(
            f"every environment needs more than {policy().limit} people; with {show_count(1)} "
            f"people: {names}. "
            "Merge each with another environment, or drop its people by leaving their "
            "environment empty"
        )


def _require_two(environment: pd.Series, found: str, where: str) -> None:
    num = environment.nunique()
    if num < 2:
        raise InputError(
            f"at least two environments are required, but {found} {num} value{'s' * (num != 1)} "
            f"{where}; choose another environment_column"
        )


def _check_varies(values: pd.Series, role: str, name: str) -> None:
    if role == "covariate" and values.notna().any():
        return
    num_values = values.nunique(dropna=True)
    if num_values < 2:
        state = "is constant" if num_values else "is missing for everyone"
        raise InputError(f"{role} {name!r} {state} among the genotyped people; choose another")


def _row_order(
    environment: NDArray[np.int64], family: NDArray[np.int32], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows by environment, inside it families together and in random order."""
    num_rows = len(family)
    group = np.where(family >= 0, family, family.max(initial=-1) + 1 + np.arange(num_rows))
    rank = rng.permutation(group.max() + 1)
    return np.lexsort((np.arange(num_rows), rank[group], environment))
