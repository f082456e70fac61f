"""The data sets of the experiments: which there are, and that a case is always the same data."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mrscale.errors import InputError
from mrscale.experiments.cases import SEEDS, Data, OnGenotypes, semi_synthetic, simulation

FIELDS = ("instruments", "environment", "exposure", "outcome", "exogenous")


def same(a: Data, b: Data) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


def test_every_design_has_the_seeds_of_the_paper() -> None:
    assert (SEEDS.start, SEEDS.stop) == (42, 62)
    cases = simulation()
    counts = Counter(case.design for case in cases)
    assert set(counts.values()) == {20}
    assert [case.design for case in cases[: len(counts)]] == list(counts)
    assert {case.options["latent_dim"] for case in cases} == {1, 2}


@pytest.fixture(scope="module")
def coalescent() -> OnGenotypes:
    (case,) = semi_synthetic([42], 600)
    assert isinstance(case, OnGenotypes)
    return case


@pytest.fixture(scope="module")
def drawn(coalescent) -> Data:
    return coalescent.draw()


def test_a_seed_says_everything() -> None:
    first, again, other = (simulation([seed], 600)[-1].draw() for seed in (42, 42, 43))
    assert same(first, again)
    assert not np.array_equal(first.outcome, other.outcome)
    assert len(first.outcome) == 600


def test_designs_differ_in_what_their_names_say() -> None:
    cases = {case.design: case for case in simulation([42], 600)}
    drawn = {name: case.draw() for name, case in cases.items()}
    assert len(np.unique(drawn["mlp, 10 environments"].environment)) == 10
    assert len(np.unique(drawn["mlp"].environment)) == 5
    assert same(drawn["mlp"], drawn["mlp, lower dimension"])
    assert not np.array_equal(drawn["mlp"].instruments, drawn["tanh"].instruments)


def test_a_seed_says_everything_of_the_coalescent(coalescent, drawn) -> None:
    assert same(drawn, coalescent.draw())
    other = replace(coalescent, seed=43).draw()
    assert not np.array_equal(drawn.outcome, other.outcome)
    assert len(drawn.outcome) == 600


def test_relatives_of_the_coalescent_are_told(drawn) -> None:
    assert drawn.family is not None
    assert 1 < np.bincount(drawn.family).max() <= 3
    assert set(np.unique(drawn.environment)) == set(range(5))


def test_a_case_on_files_is_known_by_their_content_and_has_their_people(tmp_path) -> None:
    files = tmp_path / "g.vcf.gz", tmp_path / "s.tsv"
    seen = []
    for genotypes, samples in ((b"1", b"a"), (b"2", b"a"), (b"1", b"b"), (b"1", b"a")):
        files[0].write_bytes(genotypes)
        files[1].write_bytes(samples)
        seen.append(repr(semi_synthetic([42], None, *files)))
    assert len(set(seen)) == 3
    assert seen[0] == seen[-1]
    assert str(tmp_path) not in seen[0]
    with pytest.raises(InputError, match="the people are those of the genotype file"):
        semi_synthetic([42], 2000, *files)


def test_genotypes_and_their_samples_go_together(tmp_path) -> None:
    with pytest.raises(InputError, match=r"need both .*; found genotypes alone; give samples"):
        semi_synthetic([42], genotypes=tmp_path / "g.vcf.gz")
