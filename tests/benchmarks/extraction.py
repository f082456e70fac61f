"""How long extraction takes beside Hail's own pass and beside vcf2zarr, and how much memory.

``python tests/benchmarks/extraction.py [--write docs/benchmarks.md]``
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from measuring import PEERS, machine, peer_versions
from page import insert, markdown

from mrscale.config import Study
from mrscale.study_file import parse_study
from pipelines.extract import extract
from pipelines.spark import start_hail

HEAP_GIB = 3
REPEATS = 3


def main() -> None:
    """Run all parts, or one that is measured in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=50_000)
    parser.add_argument("--variants", type=int, default=4_000)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--memory", type=Path, help="only: extract this cohort under a small heap")
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(peak_memory(options.memory)))
        return
    told = machine()
    with tempfile.TemporaryDirectory(prefix="mrscale-bench-") as name:
        folder = Path(name)
        start_hail(log_dir=folder / "logs")
        make_cohort(folder / "speed", options.people, options.variants, vcf=True)
        rows = against_hail(folder / "speed") + against_vcf2zarr(folder / "speed")
        memory = [measure_memory(folder, people) for people in (25_000, 50_000, 100_000)]
    text = report(options, told, rows, memory)
    print(text)
    if options.write:
        insert(options.write, "extraction", text)


def make_cohort(folder: Path, people: int, variants: int, *, vcf: bool = False) -> None:
    """A MatrixTable of three populations (and its bgzipped VCF) and a table of people."""
    import hail as hl

    folder.mkdir(parents=True)
    mt = hl.balding_nichols_model(3, people, variants, n_partitions=8, fst=[0.05, 0.05, 0.05])
    called = hl.rand_bool(0.99)
    mt = mt.select_entries(GT=hl.or_missing(called, mt.GT)).select_rows().select_globals()
    mt = mt.key_cols_by(s="p" + hl.str(mt.sample_idx))
    mt.write(str(folder / "g.mt"))
    mt = hl.read_matrix_table(str(folder / "g.mt"))
    environment = mt.pop.collect()
    rng = np.random.default_rng(0)
    ids = rng.permutation(people)
    pd.DataFrame(
        {
            "person_id": [f"p{i}" for i in ids],
            "environment": np.array(environment)[ids],
            "x": rng.normal(size=people),
            "y": rng.normal(size=people),
        }
    ).to_csv(folder / "people.tsv", sep="\t", index=False)
    if vcf:
        import pysam

        hl.export_vcf(mt.select_cols(), str(folder / "g.vcf.bgz"))
        pysam.tabix_index(str(folder / "g.vcf.bgz"), preset="vcf", force=True)


def study(folder: Path, **genotypes: str) -> Study:
    """A study of a made-up cohort."""
    return parse_study(
        {
            "genotypes": genotypes,
            "people": {"phenotypes": str(folder / "people.tsv")},
            "traits": {"exposure": ["x"], "outcome": ["y"]},
        }
    )


def against_hail(folder: Path) -> list[tuple[str, float, str, float, str]]:
    """Extraction of a MatrixTable beside ``aggregate_entries(sum)``, alternating in one JVM."""
    import hail as hl

    mt = hl.read_matrix_table(str(folder / "g.mt"))

    def one_pass(_: int) -> None:
        mt.aggregate_entries(hl.agg.sum(mt.GT.n_alt_alleles()))

    def extraction(run: int) -> None:
        extract(study(folder, mt=str(folder / "g.mt")), str(folder / f"mt-{run}.zarr"))

    mine, theirs = alternate(extraction, one_pass)
    return [("extract, MatrixTable", mine, "Hail's pass over the entries, warm", theirs, "3")]


def against_vcf2zarr(folder: Path) -> list[tuple[str, float, str, float, str]]:
    """Extraction of a VCF beside ``vcf2zarr convert``, whole commands, as many processes."""
    cores = str(os.cpu_count())
    mrscale, vcf = Path(sys.executable).parent / "mrscale", str(folder / "g.vcf.bgz")

    def extraction(run: int) -> None:
        command = [mrscale, "extract", "--vcf", vcf, "--exposure", "x", "--outcome", "y"]
        command += ["--phenotypes", folder / "people.tsv", "--out", folder / f"vcf-{run}.zarr"]
        subprocess.run([*map(str, command), "--quiet"], check=True, stdout=subprocess.DEVNULL)

    def convert(run: int) -> None:
        command = [PEERS / "vcf2zarr", "convert", vcf, folder / f"peer-{run}.vcz", "-p", cores]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)

    mine, theirs = alternate(extraction, convert, warm_up=0, repeats=1)
    peer = f"vcf2zarr convert (bio2zarr {peer_versions('bio2zarr')['bio2zarr']})"
    return [("mrscale extract, VCF, whole command", mine, peer, theirs, "1")]


def alternate(
    mine: Callable[[int], None],
    theirs: Callable[[int], None],
    *,
    warm_up: int = 2,
    repeats: int = REPEATS,
) -> tuple[float, float]:
    """Median seconds of two jobs run in turns."""
    seconds: dict[str, list[float]] = {"mine": [], "theirs": []}
    for run in range(warm_up + repeats):
        for name, job in (("theirs", theirs), ("mine", mine)):
            start = time.perf_counter()
            job(run)
            if run >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return statistics.median(seconds["mine"]), statistics.median(seconds["theirs"])


def measure_memory(folder: Path, people: int) -> dict[str, Any]:
    """Peak memory of an extraction of 1,000 variants, in a process of its own."""
    cohort = folder / f"memory-{people}"
    make_cohort(cohort, people, 1000)
    command = [sys.executable, __file__, "--memory", str(cohort)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"people": people, **json.loads(done.stdout.splitlines()[-1])}


def peak_memory(folder: Path) -> dict[str, float]:
    """Peak MiB of this process, of the JVM and of the largest Python worker."""
    start_hail(log_dir=folder / "logs", memory_gib=HEAP_GIB)
    with sampled_memory() as peak:
        extract(study(folder, mt=str(folder / "g.mt")), str(folder / "s.zarr"))
    return peak


@contextmanager
def sampled_memory() -> Iterator[dict[str, float]]:
    """Fill a dictionary with the peaks of this process and its descendants, by kind."""
    peak: dict[str, float] = defaultdict(float)
    stop = threading.Event()
    me = psutil.Process()

    def sample() -> None:
        while not stop.wait(0.02):
            peak["driver"] = max(peak["driver"], me.memory_info().rss / 2**20)
            for child in me.children(recursive=True):
                try:
                    kind = "jvm" if "java" in child.name() else "worker"
                    peak[kind] = max(peak[kind], child.memory_info().rss / 2**20)
                except psutil.NoSuchProcess:
                    continue

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    yield peak
    stop.set()
    thread.join()


def report(
    options: argparse.Namespace, told: str, rows: list[Any], memory: list[dict[str, Any]]
) -> str:
    """Tables in Markdown."""
    genotypes = options.people * options.variants / 1e6
    times = [
        [name, f"{mine:.2f}", peer, f"{theirs:.2f}", f"{mine / theirs:.2f}", limit]
        for name, mine, peer, theirs, limit in rows
    ]
    kinds = ("driver", "jvm", "worker")
    peaks = [[f"{row['people']:,}", *(f"{row[kind]:,.0f}" for kind in kinds)] for row in memory]
    processes = ["driver (Python)", "driver and executors (JVM)", "largest Python worker"]
    return (
        f"## Extraction\n\n`python tests/benchmarks/extraction.py --people {options.people} "
        f"--variants {options.variants}` ({told}). {genotypes:,.0f} M genotypes, three "
        "environments, 1 % missing; jobs of one row ran in turns; medians.\n\n"
        f"{markdown(['job', 'seconds', 'beside', 'seconds', 'ratio', 'limit'], times)}\n\n"
        "Peak resident memory in MiB with 1,000 variants and a JVM heap of at most "
        f"{HEAP_GIB} GiB:\n\n{markdown(['people', *processes], peaks)}\n"
    )


if __name__ == "__main__":
    main()
