"""Moments of a store's dosages: exact, one pass, missing calls at their environment's mean."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mrscale.errors import InputError
from mrscale.stats.moments import Moments, pool
from mrscale.store import writer
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.store.schema import CALLS, DOSAGES, DosageCode, Layout
from mrscale.stream.products import (
    DosageProducts,
    dosage_moments,
    group_moments,
    numpy_products,
    torch_moments,
    torch_products,
)

NUM_PEOPLE, NUM_VARIANTS = 700, 12


def write(path: Path, code: DosageCode, missing: float, missing_traits: float = 0.0):
    """A store of 700 people in 3 environments, and its dosages, filled, with all its traits."""
    rng = np.random.default_rng(3)
    environment = np.sort(rng.integers(0, 3, NUM_PEOPLE))
    frequency = np.r_[0.001, rng.uniform(0.05, 0.5, NUM_VARIANTS - 1)]
    if code is CALLS:
        codes = rng.binomial(2, frequency, (NUM_PEOPLE, NUM_VARIANTS)).astype(np.int8)
    else:
        codes = rng.integers(0, 253, (NUM_PEOPLE, NUM_VARIANTS)).astype(np.uint8)
    codes[rng.random(codes.shape) < missing] = code.missing
    dosage = np.where(codes == code.missing, np.nan, codes / code.per_allele)
    frequency = np.stack([np.nanmean(dosage[environment == e], axis=0) / 2 for e in range(3)])
    frequency = frequency.astype(np.float32)
    traits = rng.normal(size=(NUM_PEOPLE, 5)).astype(np.float32) + 100
    traits[rng.random(traits.shape) < missing_traits] = np.nan
    layout = Layout(NUM_PEOPLE, NUM_VARIANTS, chunk_rows=64, shard_rows=256)
    arrays = {
        "sample_id": np.array([f"person-{i}" for i in range(NUM_PEOPLE)]),
        "environment": environment,
        "environment_name": np.array(["north", "south", "west"]),
        "environment_offset": np.searchsorted(environment, range(3)),
        "covariate": traits[:, :2],
        "exposure": traits[:, 2:4],
        "outcome": traits[:, 4:],
        "covariates": np.array(["age", "PC1"]),
        "exposures": np.array(["bmi", "ldl"]),
        "outcomes": np.array(["chd"]),
        "family": np.full(NUM_PEOPLE, -1),
        "cluster": np.full(NUM_PEOPLE, -1),
        "fold": np.arange(NUM_PEOPLE) % 2,
        "variant_contig": np.full(NUM_VARIANTS, "1"),
        "variant_position": 1000 + np.arange(NUM_VARIANTS),
        "variant_allele": np.tile(["A", "C"], (NUM_VARIANTS, 1)),
        "variant_id": np.array([f"variant-{i}" for i in range(NUM_VARIANTS)]),
        "variant_effect_allele": np.full(NUM_VARIANTS, "C"),
        "variant_allele_frequency": frequency,
        "variant_call_rate": np.ones_like(frequency),
        "variant_hwe_p": np.ones_like(frequency),
    }
    writer.create(path, layout, code=code)
    writer.finalise(
        path,
        layout=layout,
        arrays={name: writer.write_array(path, name, value) for name, value in arrays.items()},
        shards={
            shard: writer.write_shard(path, shard, codes[layout.shard(shard)], key="k")
            for shard in range(layout.num_shards)
        },
        report={},
        provenance={},
        run={},
    )
    fill = 2 * frequency.astype(np.float64)[environment]
    dosage = np.where(np.isnan(dosage), fill, dosage)
    columns = np.concatenate([dosage, traits], axis=1, dtype=np.float64)
    return SimpleNamespace(store=open_store(path), columns=columns, environment=environment)


def assert_moments(found: Moments, columns: np.ndarray, rtol: float = 1e-12) -> None:
    dense = Moments.from_block(columns)
    # a variant that nobody carries has no spread, but a sum of traits has its rounding
    size = np.maximum(np.sqrt(np.diag(dense.cross)), 1)
    assert found.count == dense.count
    # of a mean that happens to be next to zero, digits count against the column's spread
    spread = np.sqrt(np.diag(dense.cross) / dense.count)
    assert (np.abs(found.mean - dense.mean) <= rtol * (np.abs(dense.mean) + spread)).all()
    assert (np.abs(found.cross - dense.cross) <= rtol * np.outer(size, size)).all()


@pytest.mark.parametrize("missing", [0.0, 0.002, 0.1])
@pytest.mark.parametrize("code", [CALLS, DOSAGES], ids=lambda code: code.name)
def test_moments_are_those_of_the_dense_matrix(tmp_path, code, missing):
    made = write(tmp_path / "s.zarr", code, missing)
    assert_moments(dosage_moments(None, made.store), made.columns)


def test_dosages_are_exact_however_rare_a_variant_is(tmp_path):
    made = write(tmp_path / "s.zarr", CALLS, 0.0)
    found = dosage_moments(None, made.store)
    z = made.columns[:, :NUM_VARIANTS].astype(np.int64)
    n, s = len(z), z.sum(axis=0)
    assert_array_equal(
        found.cross[:NUM_VARIANTS, :NUM_VARIANTS], (n * z.T @ z - np.outer(s, s)) / n
    )


def test_people_without_a_trait_that_is_asked_for_are_left_out(tmp_path):
    made = write(tmp_path / "s.zarr", CALLS, 0.01, missing_traits=0.1)
    found = dosage_moments(None, made.store, exposures=["ldl"], outcomes=[], covariates=["PC1"])
    columns = made.columns[:, [*range(NUM_VARIANTS), NUM_VARIANTS + 1, NUM_VARIANTS + 3]]
    assert_moments(found, columns[np.isfinite(columns).all(axis=1)])


def test_groups_of_people_are_told_apart_in_the_same_pass(tmp_path, monkeypatch):
    made = write(tmp_path / "s.zarr", CALLS, 0.01, missing_traits=0.02)
    read = GenotypeStore.dosage
    rows_read = []

    def counting(self, rows):
        rows_read.append(rows)
        return read(self, rows)

    monkeypatch.setattr(GenotypeStore, "dosage", counting)
    found = group_moments(None, made.store, by=("environment", "fold"))
    assert len(rows_read) == made.store.layout.num_chunks
    complete = np.isfinite(made.columns).all(axis=1)
    fold = np.arange(NUM_PEOPLE) % 2
    assert list(found) == [(e, f) for e in range(3) for f in range(2)]
    for (e, f), moments in found.items():
        inside = complete & (made.environment == e) & (fold == f)
        assert_moments(moments, made.columns[inside])


@pytest.mark.parametrize("by", [("environment",), ("fold",), ("fold", "environment")])
def test_groups_add_up_to_everybody(tmp_path, by):
    made = write(tmp_path / "s.zarr", DOSAGES, 0.001, missing_traits=0.02)
    found = group_moments(None, made.store, by=by)
    labels = {"environment": made.environment, "fold": np.arange(NUM_PEOPLE) % 2}
    groups = np.unique(np.stack([labels[name] for name in by], axis=1), axis=0)
    assert list(found) == [tuple(group) for group in groups.tolist()]
    assert_moments(pool(list(found.values())), made.columns[np.isfinite(made.columns).all(axis=1)])


def test_a_group_of_nobody_is_absent(tmp_path):
    made = write(tmp_path / "s.zarr", CALLS, 0.01)
    exposure = made.store.array("exposure")
    exposure[made.environment == 1] = np.nan
    writer.write_array(tmp_path / "s.zarr", "exposure", exposure)
    found = group_moments(None, open_store(tmp_path / "s.zarr"))
    assert list(found) == [(0,), (2,)]


def test_small_arrays_are_read_once_per_process(tmp_path, monkeypatch):
    made = write(tmp_path / "s.zarr", CALLS, 0.0)
    read, names = GenotypeStore.array, []

    def counting(self, name, rows=slice(None)):
        names.append(name)
        return read(self, name, rows)

    monkeypatch.setattr(GenotypeStore, "array", counting)
    for _ in range(2):
        group_moments(None, made.store, by=("environment", "fold"))
    assert [names.count(name) for name in ("fold", "environment", "exposure")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "hint"), [("height", "name one of these, or append it"), ("lld", "did you mean 'ldl'")]
)
def test_an_unknown_trait_is_named(tmp_path, name, hint):
    made = write(tmp_path / "s.zarr", CALLS, 0.0)
    with pytest.raises(InputError, match=f"no exposure {name}; it has bmi, ldl; {hint}"):
        dosage_moments(None, made.store, exposures=[name])


@pytest.mark.parametrize("code", [CALLS, DOSAGES], ids=lambda code: code.name)
def test_float32_products_are_exact_integers_at_their_largest(code):
    rng = np.random.default_rng(0)
    num_people = 3000  # several products of the largest exact size, for imputed dosages
    codes = rng.choice([0, code.highest], size=(num_people, 8)).astype(code.dtype)
    codes[:, :2] = code.highest
    traits = rng.normal(size=(num_people, 3))
    shifted = codes.astype(np.int64) - code.per_allele
    dosages, with_traits = numpy_products(codes, traits, code.per_allele)
    assert_array_equal(dosages, shifted.T @ shifted)
    assert_allclose(with_traits, shifted.T @ traits, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("code", [CALLS, DOSAGES], ids=lambda code: code.name)
def test_torch_gives_the_same_products(code):
    rng = np.random.default_rng(1)
    codes = rng.integers(0, code.highest + 1, size=(2500, 9)).astype(code.dtype)
    traits = rng.normal(size=(2500, 3))
    expected = numpy_products(codes, traits, code.per_allele)
    found = torch_products(codes, traits, code.per_allele, "cpu")
    assert_array_equal(found[0], expected[0])
    assert_allclose(found[1], expected[1], rtol=1e-10, atol=1e-10)
    assert_moments(torch_moments(traits, "cpu"), traits, 1e-13)


def test_nobody_is_the_identity():
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 3, size=(50, 3)).astype(np.int8)
    some = DosageProducts(
        1,
        codes.sum(0, np.int64),
        codes.T @ codes,
        np.zeros((3, 1)),
        Moments.from_block(codes[:, :1]),
    )
    nobody = DosageProducts(
        1, np.zeros(3, np.int64), np.zeros((3, 3), np.int64), np.zeros((3, 1)), Moments.empty(1)
    )
    assert nobody.combine(some) is some
    assert some.combine(nobody) is some
    assert nobody.moments.count == 0
