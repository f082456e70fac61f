"""Trios of a pedigree, and calls that no inheritance explains."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from mrscale.errors import InputError
from pipelines.pedigree import mendel_errors, read_trios


def fam(tmp_path, *lines):
    path = tmp_path / "family.fam"
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def test_a_call_is_an_error_if_no_gametes_of_the_parents_make_it():
    gametes = {0: {0}, 1: {0, 1}, 2: {1}}
    child, father, mother = np.array(list(product(range(3), repeat=3))).T[:, :, None]
    errors, called = mendel_errors(child, father, mother)
    expected = [
        c not in {a + b for a in gametes[f] for b in gametes[m]}
        for c, f, m in product(range(3), repeat=3)
    ]
    assert errors.tolist() == expected
    assert called.tolist() == [1] * 27


def test_a_trio_counts_only_with_all_three_calls():
    child, father, mother = np.array([[[2, 2, 2, -1]], [[0, 0, -1, 0]], [[0, -1, 0, 0]]], np.int8)
    errors, called = mendel_errors(child, father, mother)
    assert (errors.tolist(), called.tolist()) == ([1], [1])


def test_trios_are_children_with_both_parents_in_the_study(tmp_path):
    file = fam(
        tmp_path,
        "f1 007 0 0 1 -9",
        "f1 mum 0 0 2 -9",
        "f1\tkid\t007\tmum\t1\t-9",
        "f1 half 007 elsewhere 1 -9",
        "f2 stranger 007 mum 1 -9",
        "f1 sister 007 mum 2 -9",
    )
    trios = read_trios(file, np.array(["sister", "0", "mum", "half", "007", "kid"]))
    assert trios.members.tolist() == [0, 2, 4, 5]
    assert trios.members[trios.positions].tolist() == [[5, 0], [4, 4], [2, 2]]
    assert len(trios) == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["f a 0 0"], "must be a PLINK .fam file"),
        (["f a 0 0 1 1", "f a b c 1 1"], "the same person id .* in several lines"),
        (["f a 0 0 1 1", "f b a x 1 1"], "no child whose father and mother are both among"),
    ],
)
def test_a_pedigree_that_cannot_be_used_says_why_and_names_nobody(tmp_path, lines, message):
    with pytest.raises(InputError, match=message) as caught:
        read_trios(fam(tmp_path, *lines), np.array(["a", "b", "secret"]))
    assert "secret" not in str(caught.value)
