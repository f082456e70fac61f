"""How fast batches of dosages come from a store, beside its peers, and what a trainer waits.

    python tests/benchmarks/streaming.py [--people 200000] [--write docs/benchmarks.md]

Every job runs in a process of its own. xbatcher is a peer that nothing else here needs:
``pip install xbatcher``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from measuring import NUM_VARIANTS, Job, in_turns, run_one, write_store
from page import insert, markdown
from store_objects import NUM_ENVIRONMENTS, NUM_FOLDS

from mrscale.sampling.plan import Plan
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.stream.engine import readers
from mrscale.stream.loader import Loader
from mrscale.stream.products import mean_dosage
from mrscale.train.dosages import Decoder
from mrscale.train.inputs import Session
from mrscale.train.learn import Effort, learn
from mrscale.train.metrics import Metrics, Watch
from mrscale.train.ranks import Ranks, best_device, one_thread
from mrscale.workflow.learning import training_blocks
from mrscale.workflow.preparing import prepare

BATCHES = (256, 1024, 4096)
PEER_BATCH = 1024
PEER_BATCHES = 20
"""Of peers that take a random sample from all over the store for each."""
FACTORS, RESTARTS, STEPS = 8, 2, 240
SIZES = (100_000, 200_000, 500_000, 1_000_000, 2_000_000)
FEWER_VARIANTS = 200
PREFETCH_MIB = 256


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=200_000)
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="mrscale-bench-") as folder:
        path = f"{folder}/store.zarr"
        write_store(path, options.people, missing=True)
        sections = [against_peers(path), trainers(path)]
    sections.append(sizes(options.largest))
    heading = (
        "## Streaming\n\n"
        f"`python tests/benchmarks/streaming.py --people {options.people}` "
        f"({platform.machine()}, {os.cpu_count()} cores, {date.today()}; load before the run "
        f"{load:.1f}). A store of {options.people:,} people x {NUM_VARIANTS:,} variants, int8, 1 % "
        f"missing, {NUM_ENVIRONMENTS} environments. There was no GPU: training on one was not "
        "measured.\n"
    )
    text = "\n".join([heading, *sections])
    print(text)
    if options.write:
        insert(options.write, "streaming", text)


def everybody(store: GenotypeStore, batch_size: int) -> Plan:
    """A plan over all people."""
    ends = [*store.array("environment_offset").tolist(), store.num_samples]
    rows = tuple(range(a, b) for a, b in pairwise(ends))
    return Plan(rows, store.layout.chunk_rows, batch_size, seed=1)


def sequential(path: str) -> Job:
    """Decode every chunk, one after the other; rows."""
    store = open_store(path)
    cuts = [store.layout.chunk(i) for i in range(store.layout.num_chunks)]
    return lambda: [float(sum(len(store.expected_dosage(rows)) for rows in cuts))]


def loader(batch_size: int, path: str) -> Job:
    """Two epochs, each of a loader of its own that decodes every chunk; rows and chunks of one, and
    seconds of the second and the first, which gets its memory from the system."""
    store = open_store(path)
    plan = everybody(store, batch_size)

    def epoch() -> tuple[int, int, float]:
        with readers() as executor:
            source = Loader(executor, store, PREFETCH_MIB * 2**20)
            start, rows = time.perf_counter(), 0
            for dosage, _ in source.batches([plan], start=0, stop=plan.batches_per_epoch):
                rows += len(dosage)
            return rows, source.chunks_read, time.perf_counter() - start

    def job() -> list[float]:
        *_, first = epoch()
        return [*epoch(), first]

    return job


def by_xbatcher(path: str) -> Job:
    """Consecutive rows, as xbatcher cuts them, batches in random order; rows."""
    from xbatcher import BatchGenerator

    dosage = xr.open_zarr(path, consolidated=True)["call_dosage"]
    sizes = {"samples": PEER_BATCH, "variants": dosage.sizes["variants"]}
    made = BatchGenerator(dosage, input_dims=sizes)
    chosen = np.random.default_rng(0).permutation(len(made))[:PEER_BATCHES]
    return lambda: [float(sum(len(made[int(i)].to_numpy()) for i in chosen))]


def random_rows(path: str) -> list[np.ndarray]:
    """Sorted random rows of some batches."""
    rng, people = np.random.default_rng(0), open_store(path).num_samples
    return [np.sort(rng.choice(people, PEER_BATCH, False)) for _ in range(PEER_BATCHES // 4)]


def by_dask(path: str) -> Job:
    """Random batches by fancy indexing; rows."""
    dosage, wanted = da.from_zarr(zarr.open_array(f"{path}/call_dosage")), random_rows(path)
    return lambda: [float(sum(len(dosage[rows].compute()) for rows in wanted))]


def by_zarr(path: str) -> Job:
    """Random batches by orthogonal indexing; rows."""
    dosage, wanted = zarr.open_array(f"{path}/call_dosage", mode="r"), random_rows(path)
    return lambda: [float(sum(len(dosage.oindex[rows, :]) for rows in wanted))]


def against_peers(path: str) -> str:
    """The first table."""
    names = ["sequential", *(f"loader {size}" for size in BATCHES), "xbatcher", "dask", "oindex"]
    found = dict(zip(names, in_turns(__file__, *names, store=path), strict=True))
    decoding = found["sequential"].found[0] / found["sequential"].seconds
    rows = [["decode of all chunks, one after the other", "all", f"{decoding:,.0f}", ""]]
    ours = {}
    for size in BATCHES:
        people, _, second, first = found[f"loader {size}"].found
        ours[size] = people / second
        told = f"{ours[size] / decoding:.2f} of decoding (at least 0.7); "
        told += f"{people / first / decoding:.2f} in the first epoch of a process"
        rows.append(["mrscale's loader, one epoch", f"{size:,}", f"{ours[size]:,.0f}", told])
    for name, what, least in (
        ("xbatcher", "xbatcher: consecutive rows, batches in random order", 5),
        ("dask", "dask: random rows by fancy indexing", 30),
        ("oindex", "zarr: random rows by `oindex`", 30),
    ):
        speed = found[name].found[0] / found[name].seconds
        told = f"the loader is {ours[PEER_BATCH] / speed:.1f} times as fast (at least {least})"
        rows.append([what, f"{PEER_BATCH:,}", f"{speed:,.0f}", told])
    names = ["batches", "rows in each", "rows / s", "ratio"]
    return (
        f"Medians of 3 runs in turns; prefetch bound {PREFETCH_MIB} MiB. The loader's batches have "
        "the same number of random people of every environment, from windows of four chunks.\n\n"
        f"{markdown(names, rows)}\n"
    )


def training(method: str, path: str) -> Job:
    """Train the flow, or take the mean of batches; seconds for a step, share waited for input."""
    store = open_store(path)
    starts = prepare(None, store, mean_dosage(store), NUM_FOLDS, factors=FACTORS)
    blocks = training_blocks(store, starts, 0)
    effort = Effort(RESTARTS, steps=STEPS)
    people = min(len(block.environment) for block in blocks)
    size = effort.batch_of("flow", people)

    @one_thread()
    def job() -> list[float]:
        with readers() as executor, tempfile.TemporaryDirectory() as folder:
            source = Loader(executor, store, PREFETCH_MIB * 2**20)
            if method == "flow":
                lines = Path(folder) / "metrics.jsonl"
                learn("flow", blocks, [2], effort, seed=0, dosages=source, metrics=Metrics(lines))
                read = [json.loads(line) for line in lines.read_text().splitlines()]
                seconds = sum(line["seconds"] for line in read)
                waited = sum(line["seconds"] * line["input_wait_share"] for line in read)
                return [seconds / STEPS, waited / seconds, float(size)]
            session = Session(blocks, RESTARTS, STEPS, size, 0, Ranks(), best_device("cpu"))
            plans = session.of_dosages(source, project=True).plans
            decoder = Decoder(starts, RESTARTS, project=True, device=best_device("cpu"))
            watch = Watch()
            if method == "loader":
                given = source.batches(plans, start=0, stop=STEPS)
                total = sum(1 for _ in watch.over(given))
            else:
                given = decoder.batches(source, plans, 0, STEPS, Ranks())
                total = sum(float(batch.mean()) for batch in watch.over(given))
            seconds, waited = watch.look()
            assert np.isfinite(total)
            return [seconds / STEPS, waited / seconds, float(size)]

    return job


def trainers(path: str) -> str:
    """The second table."""
    names = ["batches alone", "mean of a batch", "flow"]
    found = in_turns(__file__, *names, store=path, rounds=1)
    rows = []
    for name, what in zip(names, found, strict=True):
        step, waited, size = what.found
        limit = " (at most 10 %)" if name == "flow" else ""
        rows.append([name, f"{1000 * step:.1f}", f"{1000 * step * waited:.1f}"])
        rows[-1].append(f"{100 * waited:.1f} %{limit}")
    return (
        f"Steps of {NUM_FOLDS} blocks x {RESTARTS} restarts side by side, {size:,.0f} people of "
        f"each block in a batch, {FACTORS} factors, dosages streamed; {STEPS} steps from a cold "
        "start, the looks at people held out among them. Mean of a batch: of its scores.\n\n"
        f"{markdown(['trainer', 'step, ms', 'waiting for input, ms', 'share'], rows)}\n"
    )


def sizes(largest: int) -> str:
    """The third table."""
    rows, seconds = [], []
    chosen = [size for size in SIZES if size <= largest]
    for people in chosen:
        with tempfile.TemporaryDirectory(prefix="mrscale-bench-") as folder:
            path = f"{folder}/store.zarr"
            write_store(path, people, missing=True, variants=FEWER_VARIANTS)
            (found,) = in_turns(__file__, f"loader {PEER_BATCH}", store=path)
        seconds.append(found.found[2])
        rows.append([f"{people:,}", f"{people * FEWER_VARIANTS / 2**20:,.0f}"])
        rows[-1] += [f"{found.extra:,.0f}", f"{found.found[2]:.2f}", f"{found.found[1]:.0f}"]
    slope = np.polyfit(np.log(chosen), np.log(seconds), 1)[0]
    names = ["people", "decoded MiB", "extra MiB", "epoch, s", "chunks read"]
    return (
        f"One epoch of stores of {FEWER_VARIANTS} variants, batches of {PEER_BATCH:,}, prefetch "
        f"bound {PREFETCH_MIB} MiB; extra memory is its peak above the start. Seconds "
        f"grow as people to the power of {slope:.2f}.\n\n{markdown(names, rows)}\n"
    )


JOBS: dict[str, Callable[[Any], Job]] = {
    "sequential": sequential,
    "xbatcher": by_xbatcher,
    "dask": by_dask,
    "oindex": by_zarr,
    "batches alone": partial(training, "loader"),
    "mean of a batch": partial(training, "mean"),
    "flow": partial(training, "flow"),
    **{f"loader {size}": partial(loader, size) for size in BATCHES},
}


if __name__ == "__main__":
    run_one(JOBS) or main()
