"""How many objects a store of a biobank's size has; run by hand.

    python tests/benchmarks/store_objects.py PATH [PEOPLE] [VARIANTS]

Writes random genotypes straight through the writer, to a folder or a URL, counts objects and bytes,
and fails if there are more than one object in 64 MiB and 200 beside.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from mrscale import places
from mrscale.store import writer
from mrscale.store.schema import Layout
from mrscale.store.verify import verify

NUM_ENVIRONMENTS, NUM_TRAITS, NUM_COVARIATES, NUM_FOLDS = 5, 20, 20, 4


def main(path: str, num_people: int = 500_000, num_variants: int = 1_000) -> None:
    """Write, count, verify; print each with its time and the peak memory so far."""
    rng = np.random.default_rng(0)
    layout = Layout.choose(num_people, num_variants)
    start = time.perf_counter()
    writer.claim(path, {"seed": 0})
    writer.create(path, layout)
    arrays = {
        name: writer.write_array(path, name, values)
        for name, values in small_arrays(rng, num_people, num_variants).items()
    }
    report("small arrays", start)
    frequency_M = rng.uniform(0.05, 0.95, num_variants).astype(np.float32)
    shards = {}
    for index in range(layout.num_shards):
        rows = layout.shard(index)
        dosage = random_dosage(rng, rows.stop - rows.start, frequency_M)
        shards[index] = writer.write_shard(path, index, dosage, key="k")
    writer.finalise(
        path, layout=layout, arrays=arrays, shards=shards, report={}, provenance={}, run={}
    )
    report("written", start)
    sizes = places.files(path)
    allowed = sum(sizes.values()) / 2**26 + 200
    print(f"{len(sizes)} objects, {sum(sizes.values()) / 2**20:,.1f} MiB; allowed {allowed:.0f}")
    print(f"{layout.num_shards} shards of {layout.shard_rows:,} rows, chunks {layout.chunk_rows:,}")
    start = time.perf_counter()
    verify(path)
    report("verified", start)
    assert len(sizes) <= allowed


def random_dosage(
    rng: np.random.Generator, num_rows: int, frequency_M: np.ndarray, rows_at_once: int = 4096
) -> np.ndarray:
    """Hard calls by frequency, 1 % missing, made in pieces so that little memory is needed."""
    shape = (num_rows, len(frequency_M))
    dosage = np.zeros(shape, dtype=np.int8)
    for first in range(0, num_rows, rows_at_once):
        block = dosage[first : first + rows_at_once]
        for _ in range(2):
            block += rng.random(block.shape, dtype=np.float32) < frequency_M
        block[rng.random(block.shape, dtype=np.float32) < 0.01] = -1
    return dosage


def small_arrays(
    rng: np.random.Generator, num_people: int, num_variants: int
) -> dict[str, np.ndarray]:
    """Everything but the dosages."""
    environment = np.sort(rng.integers(0, NUM_ENVIRONMENTS, num_people))
    codes = np.arange(NUM_ENVIRONMENTS)
    shares = np.ones((NUM_ENVIRONMENTS, num_variants))
    traits = {
        plural: (kind, count)
        for plural, kind, count in (
            ("exposures", "exposure", NUM_TRAITS),
            ("outcomes", "outcome", NUM_TRAITS),
            ("covariates", "covariate", NUM_COVARIATES),
        )
    }
    values = {
        kind: rng.normal(size=(num_people, count)).astype(np.float32)
        for kind, count in traits.values()
    }
    names = {
        plural: np.array([f"{kind}{i}" for i in range(n)]) for plural, (kind, n) in traits.items()
    }
    variants = [f"1:{i}:A:C" for i in range(num_variants)]
    return {
        **values,
        **names,
        "sample_id": np.array([f"{i:07d}" for i in rng.permutation(num_people)]),
        "environment": environment,
        "environment_name": np.array([f"environment-{i}" for i in codes]),
        "environment_offset": np.searchsorted(environment, codes),
        "family": np.full(num_people, -1),
        "cluster": np.full(num_people, -1),
        "fold": np.arange(num_people) % NUM_FOLDS,
        "variant_contig": np.full(num_variants, "1"),
        "variant_position": np.arange(num_variants),
        "variant_allele": np.tile(["A", "C"], (num_variants, 1)),
        "variant_id": np.array(variants),
        "variant_effect_allele": np.full(num_variants, "C"),
        "variant_allele_frequency": shares,
        "variant_call_rate": shares,
        "variant_hwe_p": shares,
    }


def report(what: str, start: float) -> None:
    """Time since ``start`` and the most memory this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{what}: {time.perf_counter() - start:.1f} s, peak memory {peak:,.0f} MiB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
