"""How many objects a store of a biobank's size has.

    python tests/benchmarks/store_objects.py [--write docs/benchmarks.md]

Writes random genotypes straight through the writer, counts objects and bytes, verifies, and fails
if there are more than one object in 64 MiB and 200 beside.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import machine
from page import insert, markdown

from mrscale import places
from mrscale.store import writer
from mrscale.store.schema import Layout
from mrscale.store.verify import verify

NUM_VARIANTS, NUM_ENVIRONMENTS, NUM_TRAITS, NUM_COVARIATES, NUM_FOLDS = 1_000, 5, 20, 20, 4


def main() -> None:
    """Measure in a temporary folder, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=500_000)
    parser.add_argument("--variants", type=int, default=NUM_VARIANTS)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mrscale-bench-") as folder:
        text = measure(f"{folder}/store.zarr", options.people, options.variants)
    print(text)
    if options.write:
        insert(options.write, "store objects", text)


def measure(path: str, num_people: int, num_variants: int) -> str:
    """Write, count, verify; a table in Markdown."""
    told, start = machine(), time.perf_counter()
    write_store(path, num_people, missing=True, variants=num_variants)
    written = time.perf_counter() - start
    sizes = places.files(path)
    allowed = sum(sizes.values()) / 2**26 + 200
    assert len(sizes) <= allowed
    start = time.perf_counter()
    verify(path)
    verified = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    names = ["objects", "limit (one in 64 MiB, and 200)", "MiB", "written in s", "verified in s"]
    row = [f"{len(sizes)}", f"{allowed:.0f}", f"{sum(sizes.values()) / 2**20:,.0f}"]
    row += [f"{written:.1f}", f"{verified:.1f}", f"{peak:,.0f}"]
    return (
        f"## Objects of a store\n\n`python tests/benchmarks/store_objects.py` ({told}). "
        f"{num_people:,} people, {num_variants:,} variants, {NUM_TRAITS} exposures and outcomes, "
        f"random genotypes.\n\n{markdown([*names, 'peak memory, MiB'], [row])}\n"
    )


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


def write_store(path: str, people: int, *, missing: bool, variants: int = NUM_VARIANTS) -> None:
    """Random hard calls, 1 % of them missing or none."""
    rng = np.random.default_rng(0)
    layout = Layout.choose(people, variants)
    frequency = rng.uniform(0.05, 0.95, variants).astype(np.float32)
    writer.create(path, layout)
    small = small_arrays(rng, people, variants)
    arrays = {name: writer.write_array(path, name, values) for name, values in small.items()}
    shards = {}
    for index in range(layout.num_shards):
        rows = layout.shard(index)
        dosage = random_dosage(rng, rows.stop - rows.start, frequency).clip(-1 if missing else 0)
        shards[index] = writer.write_shard(path, index, dosage, key="k")
    writer.finalise(
        path, layout=layout, arrays=arrays, shards=shards, report={}, provenance={}, run={}
    )


if __name__ == "__main__":
    main()
