"""A rehearsal of a biobank on this machine: time, memory and bytes of every stage after extraction.

    python tests/benchmarks/rehearsal.py [--people 1000000] [--write docs/benchmarks.md]

Simulated genotypes go straight through the store's writer. Every stage runs in a process of its
own. From the figures follows what a larger study would take on a larger machine.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dask.array as da
import numpy as np
from measuring import Job, Measured, in_turns, machine, run_one
from page import insert, markdown
from store_objects import NUM_COVARIATES, NUM_ENVIRONMENTS, NUM_FOLDS, random_dosage, small_arrays

import mrscale as mr
from mrscale import places
from mrscale.config import Study
from mrscale.store import writer
from mrscale.store.reader import open_store
from mrscale.store.schema import Layout
from mrscale.stream.engine import engine
from mrscale.stream.products import dosage_moments
from mrscale.study_file import as_study
from mrscale.workflow.encoding import encode
from mrscale.workflow.estimating import estimate
from mrscale.workflow.training import train

TRAITS = 50
"""Exposures, and outcomes; the study's pair is the first of each."""
FACTORS, LATENT_DIM = 8, 2
MISSING = 0.01
"""Of the calls, as :func:`random_dosage` leaves them out."""
TARGET = {"people": 535_000, "variants": 10_000, "exposures": 3_000, "outcomes": 1_000}
CORES = 64


@dataclass(frozen=True)
class Cohort:
    """A simulated cohort in a folder: its store, its run, and its traits beside them."""

    folder: Path

    @classmethod
    def at(cls, store: str) -> Cohort:
        """That of a store."""
        return cls(Path(store).parent)

    @property
    def store(self) -> str:
        """Folder of the store."""
        return str(self.folder / "store.zarr")

    @property
    def sizes(self) -> Path:
        """File with the numbers of people and variants."""
        return self.folder / "sizes.json"

    @property
    def study(self) -> Study:
        """One pair of traits, the flow encoder on the scores."""
        encoder = {"methods": ["flow"], "factors": FACTORS, "latent_dim": LATENT_DIM}
        run = str(self.folder / "run")
        return as_study({"name": "rehearsal", "store": self.store, "run": run, "encoder": encoder})

    def write(self, num_people: int, num_variants: int) -> list[float]:
        """Draw genotypes and traits, and write the store; its bytes."""
        rng = np.random.default_rng(0)
        layout = Layout.choose(num_people, num_variants)
        ancestral = rng.uniform(0.1, 0.9, num_variants)
        drift = rng.normal(0, 0.05, (NUM_ENVIRONMENTS, num_variants))
        frequency = (ancestral + drift).clip(0.02, 0.98).astype(np.float32)
        effects = rng.normal(0, 1 / np.sqrt(num_variants), (num_variants, TRAITS))
        small = small_arrays(rng, num_people, num_variants)
        exposures = np.empty((num_people, TRAITS), dtype=np.float32)
        writer.claim(self.store, {"seed": 0})
        writer.create(self.store, layout)
        shards = {}
        for index in range(layout.num_shards):
            rows = layout.shard(index)
            there = small["environment"][rows.start : rows.stop]
            sizes = np.bincount(there, minlength=NUM_ENVIRONMENTS)
            parts = [random_dosage(rng, n, f) for n, f in zip(sizes, frequency, strict=True)]
            dosage = np.concatenate(parts)
            exposures[rows.start : rows.stop] = dosage.astype(np.float32) @ effects
            shards[index] = writer.write_shard(self.store, index, dosage, key="k")
        confounder = rng.normal(size=(num_people, 1)) + small["environment"][:, None]
        exposures += confounder + rng.normal(size=exposures.shape)
        outcomes = 0.5 * exposures + confounder + rng.normal(size=exposures.shape)
        for kind, values in (("exposure", exposures), ("outcome", outcomes.astype(np.float32))):
            np.save(self.folder / f"{kind}.npy", values)
            small[kind], small[f"{kind}s"] = values[:, :1], small[f"{kind}s"][:1]
        arrays = {n: writer.write_array(self.store, n, values) for n, values in small.items()}
        people = np.bincount(small["environment"]).tolist()
        report = {
            "people": [("analysed", num_people)],
            "environments": dict(zip(small["environment_name"].tolist(), people, strict=True)),
            "variants": {"kept": num_variants},
            "missing_rate": MISSING,
        }
        written = {"layout": layout, "arrays": arrays, "shards": shards, "report": report}
        provenance = {"settings": {"folds": NUM_FOLDS, "seed": 0}}
        writer.finalise(self.store, **written, provenance=provenance, run={})
        return [float(sum(places.files(self.store).values()))]

    def verify(self) -> list[float]:
        """Check every byte."""
        mr.verify(self.store)
        return []

    def moments(self) -> list[float]:
        """Of all variants and the study's traits, in one pass."""
        with engine() as client:
            dosage_moments(client, open_store(self.store))
        return []

    def train(self) -> list[float]:
        """Scores on principal components, then an encoder for every fold; the seconds until the
        scores were there, and the bytes of all."""
        began, folder = time.time(), train(self.study, quiet=True)
        ready = max(folder.prepared(fold).stat().st_mtime for fold in range(NUM_FOLDS))
        return [ready - began, _bytes(folder.path)]

    def encode(self) -> list[float]:
        """Latents of everybody; their bytes."""
        return [_bytes(encode(self.study, quiet=True).latents)]

    def report(self) -> list[float]:
        """All estimates of the study's pair with its checks, and the report; its bytes."""
        estimate(self.study, quiet=True)
        mr.report(self.study)
        return [float((self.folder / "run" / "report.html").stat().st_size)]

    def pairs(self) -> list[float]:
        """2SLS of every exposure on every outcome, robust errors; the number of pairs, the bytes of
        their table."""
        data = mr.open(self.store)
        rows = data["call_dosage"].data.chunks[0]
        exposures, outcomes = (
            da.from_array(np.load(self.folder / f"{kind}.npy", mmap_mode="r"), (rows, TRAITS))
            for kind in ("exposure", "outcome")
        )
        dosage = data["call_dosage"].data.clip(0)
        table = mr.iv_many(outcomes, exposures, dosage, covariates=data["covariate"].data)
        return [float(len(table)), float(table.memory_usage().sum())]


def _bytes(folder: Path) -> float:
    return float(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))


def stage(work: Callable[[Cohort], list[float]]) -> Callable[[str], Job]:
    """A stage as a job on the path of a store."""
    return lambda store: partial(work, Cohort.at(store))


STAGES = {
    "verify": Cohort.verify,
    "moments": Cohort.moments,
    "train": Cohort.train,
    "encode": Cohort.encode,
    "report": Cohort.report,
    "pairs": Cohort.pairs,
}
SAID = {
    "write": "simulate and write the store",
    "verify": "verify every byte",
    "moments": "moments of all variants and one pair's traits",
    "train": f"scores on principal components, {NUM_FOLDS} flow encoders",
    "encode": "encode everybody",
    "report": "estimates and checks of one pair, report",
    "pairs": f"{TRAITS} x {TRAITS} pairs, robust errors",
}


def measure(folder: Path, num_people: int, num_variants: int) -> str:
    """Run the stages; a table in Markdown, and what follows from it."""
    cohort = Cohort(folder)
    cohort.sizes.write_text(json.dumps([num_people, num_variants]))
    told, found = machine(), {}
    for name in SAID:
        (found[name],) = in_turns(__file__, name, store=cohort.store, rounds=1)
        print(name, found[name], flush=True)
    rows = [
        (SAID[name], f"{one.seconds:,.0f}", f"{one.extra:,.0f}", _size(name, one))
        for name, one in found.items()
    ]
    return "\n".join(
        [
            f"## A rehearsal: {num_people:,} people, {num_variants:,} variants\n",
            f"`python tests/benchmarks/rehearsal.py --people {num_people} --variants "
            f"{num_variants}` ({told}). {NUM_ENVIRONMENTS} environments, {NUM_COVARIATES} "
            "covariates, 1 % of calls missing, every stage once in a process of its own.\n",
            markdown(["stage", "seconds", "extra MiB at the peak", "writes, MB"], rows),
            "",
            estimate_of_target(found, num_people, num_variants),
        ]
    )


def _size(name: str, one: Measured) -> str:
    return f"{one.found[-1] / 1e6:,.1f}" if one.found else ""


def estimate_of_target(found: dict[str, Measured], num_people: int, num_variants: int) -> str:
    """What the target would take, by how the work of each stage grows."""
    n = TARGET["people"] / num_people
    m = TARGET["variants"] / num_variants
    traits = (TARGET["exposures"] + TARGET["outcomes"]) / (2 * TRAITS)
    pairs = TARGET["exposures"] * TARGET["outcomes"] / TRAITS**2
    growth = {
        "verify": ("N M", n * m),
        "moments": ("N M^2", n * m**2),
        "scores": ("N M^2", n * m**2),
        "encoders": ("1 (steps of training)", 1),
        "encode": ("N M", n * m),
        "report": ("N M^2", n * m**2),
        "pairs": ("N (M^2 + M T + P Q)", n * max(m**2, m * traits, pairs)),
    }
    cores = (os.cpu_count() or 1) / CORES
    seconds = {name: one.seconds for name, one in found.items()}
    seconds["scores"] = found["train"].found[0]
    seconds["encoders"] = seconds.pop("train") - seconds["scores"]
    said = SAID | {"scores": "scores on principal components", "encoders": "flow encoders on them"}
    rows = [
        (said[name], how, f"{seconds[name] * times / 3600:,.2f}",
         f"{seconds[name] * times * cores / 3600:,.2f}")
        for name, (how, times) in growth.items()
    ]  # fmt: skip
    size = found["write"].found[0] * n * m / 1e9
    words = ", ".join(f"{count:,} {what}" for what, count in TARGET.items())
    return "\n".join(
        [
            f"What follows on paper for {words}: a store of {size:,.1f} GB, and",
            "",
            markdown(
                ["stage", "work grows as", "hours on this machine", f"hours on {CORES} cores"], rows
            ),
            "",
            f"Assumed: every stage grows as the largest of its terms (the last by its largest "
            f"ratio), and {CORES} cores of the same kind share it without loss; both were not "
            "measured. The moments of 10,000 variants are 0.8 GB for each group of people that "
            "they are kept of, and blocks of people must be that much shorter. Extraction is "
            "another matter, and is not in the table.",
            "",
        ]
    )


def main() -> None:
    """Measure in a temporary folder, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--variants", type=int, default=1_000)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mrscale-bench-") as folder:
        text = measure(Path(folder), options.people, options.variants)
    print(text)
    if options.write:
        insert(options.write, "rehearsal", text)


def write(store: str) -> Job:
    """The first stage as a job; its sizes are in the folder."""
    cohort = Cohort.at(store)
    return partial(cohort.write, *json.loads(cohort.sizes.read_text()))


if __name__ == "__main__" and not run_one(
    {"write": write} | {name: stage(work) for name, work in STAGES.items()}
):
    main()
