"""Children and parents, and calls of theirs that no inheritance explains (autosomes)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale.errors import InputError
from pipelines.tables import read_lines

_NO_PARENT = "0"
_COLUMNS = 5
"""Family, person, father, mother, sex; the phenotype that follows is not read."""


@dataclass(frozen=True)
class Trios:
    """T children with both parents among the study's people.

    Attributes
    ----------
    members : ndarray of int64, shape (K,)
        Rows of the people concerned, ascending.
    positions : ndarray of int64, shape (3, T)
        Children, fathers and mothers as places in ``members``.
    """

    members: NDArray[np.int64]
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return self.positions.shape[1]


def read_trios(file: str, sample_id: NDArray[Any]) -> Trios:
    """Read a PLINK .fam file and find the trios that the study has.

    Parameters
    ----------
    file : str
        Path or URL: family, person, father and mother (0 without), ... in every line.
    sample_id : ndarray of str, shape (N,)
        Ids of the study's people; the .fam file has them in its second column.

    Raises
    ------
    InputError
        If there is no such file, a line has fewer than five columns, an id is there more than
        once, or no child of the study has both parents in it.
    """
    lines = read_lines(file).str.split()
    if (lines.str.len() < _COLUMNS).any():
        raise InputError(
            "[qc] pedigree must be a PLINK .fam file: family, person, father, mother, sex and "
            "phenotype in every line, without a header; this file has shorter lines"
        )
    person, father, mother = (lines.str[column].astype(str) for column in (1, 2, 3))
    row = pd.Series(np.arange(len(sample_id)), index=np.asarray(sample_id, dtype=str))
    ours = person.isin(row.index)
    if person[ours].duplicated().any():
        raise InputError(
            "[qc] pedigree has the same person id (second column) in several lines; give every "
            "person of the study an id of their own"
        )
    parents = father.isin(row.index) & mother.isin(row.index)
    parents &= (father != _NO_PARENT) & (mother != _NO_PARENT)
    trios = [row[ids[ours & parents]].to_numpy() for ids in (person, father, mother)]
    if not len(trios[0]):
        raise InputError(
            "[qc] pedigree has no child whose father and mother are both among the study's "
            "people; its second to fourth columns must hold their ids as in the genotypes, or "
            "leave the key out"
        )
    members, positions = np.unique(np.array(trios, dtype=np.int64), return_inverse=True)
    return Trios(members, positions.reshape(3, -1))


def mendel_errors(
    child: NDArray[Any], father: NDArray[Any], mother: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count calls of children that their parents' calls rule out, on autosomes.

    Parameters
    ----------
    child, father, mother : ndarray of integers, shape (S, T)
        Hard calls 0, 1, 2 of either allele; -1 is missing.

    Returns
    -------
    errors, called : ndarray of int64, shape (S,)
        Trios with an error, and trios with all three calls.

    Notes
    -----
    A parent passes on one of two alleles, so a child has at least as many copies as it has
    parents with two, and at most as many as it has parents with any.
    """
    fewest = (father == 2).astype(np.int8) + (mother == 2)
    most = (father > 0).astype(np.int8) + (mother > 0)
    called = (child >= 0) & (father >= 0) & (mother >= 0)
    wrong = called & ((child < fewest) | (child > most))
    return wrong.sum(axis=-1), called.sum(axis=-1)
