"""The table of people: checked, joined with the genotype file, ordered, split into folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale import config
from mrscale.disclosure import is_small, show_count
from mrscale.errors import InputError
from pipelines.folds import assign_folds
from pipelines.tables import read_table, require_columns

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


def read_phenotypes(study: config.Study) -> pd.DataFrame:
    """Read the table of people and check its columns, before any engine starts.

    Returns
    -------
    DataFrame
        Text columns ``sample``, ``environment``, ``family`` and one float32 column per trait,
        named ``("exposure", name)`` and so on.

    Raises
    ------
    InputError
        If the file, a column or all values of a trait are missing, a trait is not numeric, or
        a person has two rows.
    """
    people, file = study.people, study.people.phenotypes
    if not (file and study.traits.exposure and study.traits.outcome):
        raise InputError("extraction needs a table of people, an exposure and an outcome column")
    text = {"sample": people.sample_column, "environment": people.environment_column[0]}
    if people.family_column:
        text["family"] = people.family_column
    table = read_table(file, text=text.values())
    traits = [(role, name) for role in _ROLES for name in getattr(study.traits, role)]
    wanted = [*text.values(), *(name for _, name in traits)]
    require_columns(table, wanted, file=f"the table of people ({file})")
    columns: dict[Any, pd.Series] = {role: table[name] for role, name in text.items()}
    columns.setdefault("family", pd.Series(pd.NA, index=table.index, dtype="string"))
    for role, name in traits:
        columns[(role, name)] = _numbers(table[name], role)
    found = pd.DataFrame(columns).dropna(subset=["sample"])
    twice = int(found["sample"].duplicated().sum())
    if twice:
        raise InputError(
            f"every person must have one row, but {show_count(twice)} rows of the table of "
            f"people repeat an id of column {people.sample_column!r}; keep one row per person"
        )
    return found


def arrange(table: pd.DataFrame, genotyped: Sequence[str], *, num_folds: int, seed: int) -> People:
    """Join the table of people with the genotype file's ids, order the rows and draw folds.

    Parameters
    ----------
    table : DataFrame
        From :func:`read_phenotypes`.
    genotyped : sequence of str
        Sample ids of the genotype file, in its order.
    num_folds : int
        Number of disjoint blocks of people.
    seed : int
        The order of families and the folds derive from it, not from the order of either file.

    Raises
    ------
    InputError
        If no id matches, an id occurs twice in the genotype file, there are fewer than two
        environments, one has 20 people or fewer, or an exposure or outcome does not vary.
    """
    joined = _join(table, genotyped)
    kept = joined.dropna(subset=["environment"]).sort_values("sample", ignore_index=True)
    _check_environments(kept["environment"])
    for role, name in _traits(kept):
        _check_varies(kept[(role, name)], role, name)
    funnel = {
        "in the table of people": len(table),
        "in the genotype file": len(genotyped),
        "in both": len(joined),
        "with an environment": len(kept),
    }
    name_E, code = np.unique(kept["environment"].to_numpy(dtype=str), return_inverse=True)
    family = _family_codes(kept["family"])
    order = _row_order(code, family, np.random.default_rng([seed, _ORDER_STREAM]))
    fold = assign_folds(code, family, num_folds, np.random.default_rng([seed, _FOLD_STREAM]))
    kept, code, family = kept.iloc[order], code[order], family[order]
    return People(
        sample_id=kept["sample"].to_numpy(dtype=str),
        column=kept["column"].to_numpy(dtype=np.int64),
        environment=code.astype(np.int16),
        environment_name=name_E,
        environment_offset=np.searchsorted(code, np.arange(len(name_E))).astype(np.int64),
        family=family,
        cluster=family,
        fold=fold[order],
        exposure=_matrix(kept, "exposure"),
        outcome=_matrix(kept, "outcome"),
        covariate=_matrix(kept, "covariate"),
        funnel=funnel,
    )


_ROLES = ("exposure", "outcome", "covariate")


def _traits(table: pd.DataFrame) -> list[tuple[str, str]]:
    return [column for column in table.columns if isinstance(column, tuple)]


def _numbers(column: pd.Series, role: str) -> pd.Series:
    problem, advice = None, "recode it as numbers, or leave cells empty where it is missing"
    values = pd.to_numeric(column, errors="coerce").astype("float64")
    if (values.isna() & column.notna()).any():
        problem = "has cells that are not numbers"
    elif np.isinf(values).any():
        problem = "has infinite values"
    elif values.isna().all():
        problem, advice = "is missing for everyone", "choose another column"
    if problem:
        raise InputError(f"{role} {column.name!r} {problem}; {advice}")
    return values.astype("float32")


def _join(table: pd.DataFrame, genotyped: Sequence[str]) -> pd.DataFrame:
    samples = pd.DataFrame({"sample": pd.array(list(genotyped), dtype="string")})
    twice = int(samples["sample"].duplicated().sum())
    if twice:
        raise InputError(f"{show_count(twice)} sample ids occur twice in the genotype file")
    samples["column"] = np.arange(len(samples))
    joined = table.merge(samples, on="sample", how="inner")
    if joined.empty:
        raise InputError(
            f"no id of the table of people ({show_count(len(table))} people) is in the genotype "
            f"file ({show_count(len(samples))} samples); give the column that holds the genotype "
            "file's sample ids as sample_column (--sample-column)"
        )
    return joined


def _check_environments(environment: pd.Series) -> None:
    counts = environment.value_counts()
    if len(counts) < 2:
        raise InputError(
            f"at least two environments are required, but the environment column has {len(counts)} "
            "value among the genotyped people; choose another environment_column"
        )
    small = sorted(name for name, count in counts.items() if is_small(int(count)))
    if small:
        names = ", ".join(repr(name) for name in small[:_NAMES_SHOWN])
        more = ", ..." if len(small) > _NAMES_SHOWN else ""
        raise InputError(
            f"every environment needs more than 20 people; with {show_count(1)} people: {names}"
            f"{more}. Merge each with another environment, or drop its people by leaving their "
            "environment empty"
        )


def _check_varies(values: pd.Series, role: str, name: str) -> None:
    if role == "covariate" and values.notna().any():
        return
    num_values = values.nunique(dropna=True)
    if num_values < 2:
        state = "is constant" if num_values else "is missing for everyone"
        raise InputError(f"{role} {name!r} {state} among the genotyped people; choose another")


def _family_codes(family: pd.Series) -> NDArray[np.int32]:
    """Codes of families with two or more members present, in name order; -1 for everyone else."""
    has_relatives = family.notna() & family.duplicated(keep=False)
    codes, _ = pd.factorize(family.where(has_relatives), sort=True)
    return np.asarray(codes, dtype=np.int32)


def _row_order(
    environment: NDArray[np.int64], family: NDArray[np.int32], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows by environment, inside it families together and in random order."""
    num_rows = len(family)
    group = np.where(family >= 0, family, family.max(initial=-1) + 1 + np.arange(num_rows))
    rank = rng.permutation(group.max() + 1)
    return np.lexsort((np.arange(num_rows), rank[group], environment))


def _matrix(table: pd.DataFrame, role: str) -> NDArray[np.float32]:
    columns = [column for column in _traits(table) if column[0] == role]
    values = [table[column].to_numpy(dtype=np.float32) for column in columns]
    return np.stack(values, axis=1) if values else np.empty((len(table), 0), dtype=np.float32)
