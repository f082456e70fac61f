"""How fast batches of dosages come from a store, beside its peers, and what a trainer waits.

    python tests/benchmarks/streaming.py [--people 200000] [--write docs/benchmarks.md]

Every job runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Job, in_turns, machine, peer_versions, run_one
from page import insert, markdown
from peers import BATCH
from store_objects import NUM_ENVIRONMENTS, NUM_FOLDS, NUM_VARIANTS, write_store

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
    told = machine()
    with tempfile.TemporaryDirectory(prefix="mrscale-bench-") as folder:
        path = f"{folder}/store.zarr"
        write_store(path, options.people, missing=True)
        sections = [against_peers(path), trainers(path)]
    sections.append(sizes(options.largest))
    heading = (
        "## Streaming\n\n"
        f"`python tests/benchmarks/streaming.py --people {options.people}` "
        f"({told}). A store of {options.people:,} people x {NUM_VARIANTS:,} variants, int8, 1 % "
        f"missing, {NUM_ENVIRONMENTS} environments. Training is on the CPU.\n"
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


def against_peers(path: str) -> str:
    """The first table."""
    names = ["sequential", *(f"loader {size}" for size in BATCHES)]
    peers = {
        "xbatcher": ("xbatcher: consecutive rows, batches in random order", 5),
        "annbatch": ("annbatch: runs of 512 rows in random order, its defaults", 1),
        "dask": ("dask: random rows by fancy indexing", 30),
        "zarr": ("zarr: random rows by `oindex`", 30),
    }
    versions = peer_versions(*peers)
    there = [peer for peer in peers if peer in versions]
    all_of_them = in_turns(__file__, *names, peers=there, store=path)
    found = dict(zip([*names, *there], all_of_them, strict=True))
    decoding = found["sequential"].found[0] / found["sequential"].seconds
    rows = [["decode of all chunks, one after the other", "all", f"{decoding:,.0f}", ""]]
    ours = {}
    for size in BATCHES:
        people, _, second, first = found[f"loader {size}"].found
        ours[size] = people / second
        told = f"{ours[size] / decoding:.2f} of decoding (at least 0.7); "
        told += f"{people / first / decoding:.2f} in the first epoch of a process"
        rows.append(["mrscale's loader, one epoch", f"{size:,}", f"{ours[size]:,.0f}", told])
    for name, (what, least) in peers.items():
        if name not in found:
            rows.append([what, f"{BATCH:,}", "", "not installed: needs a newer Python"])
            continue
        speed = found[name].found[0] / found[name].seconds
        told = f"the loader is {ours[BATCH] / speed:.1f} times as fast (at least {least})"
        rows.append([what, f"{BATCH:,}", f"{speed:,.0f}", told])
    names = ["batches", "rows in each", "rows / s", "ratio"]
    return (
        f"Medians of 3 runs in turns; prefetch bound {PREFETCH_MIB} MiB. The loader's batches have "
        "the same number of random people of every environment, from windows of four chunks. Peers "
        f"have an environment of their own: {', '.join(' '.join(v) for v in versions.items())}.\n\n"
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
                learn(
                    "flow",
                    blocks,
                    [2],
                    effort,
                    seed=0,
                    device="cpu",
                    dosages=source,
                    metrics=Metrics(lines),
                )
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
            (found,) = in_turns(__file__, f"loader {BATCH}", store=path)
        seconds.append(found.found[2])
        rows.append([f"{people:,}", f"{people * FEWER_VARIANTS / 2**20:,.0f}"])
        rows[-1] += [f"{found.extra:,.0f}", f"{found.found[2]:.2f}", f"{found.found[1]:.0f}"]
    slope = np.polyfit(np.log(chosen), np.log(seconds), 1)[0]
    names = ["people", "decoded MiB", "extra MiB", "epoch, s", "chunks read"]
    return (
        f"One epoch of stores of {FEWER_VARIANTS} variants, batches of {BATCH:,}, prefetch "
        f"bound {PREFETCH_MIB} MiB; extra memory is its peak above the start. Seconds "
        f"grow as people to the power of {slope:.2f}.\n\n{markdown(names, rows)}\n"
    )


JOBS: dict[str, Callable[[Any], Job]] = {
    "sequential": sequential,
    "batches alone": partial(training, "loader"),
    "mean of a batch": partial(training, "mean"),
    "flow": partial(training, "flow"),
    **{f"loader {size}": partial(loader, size) for size in BATCHES},
}


if __name__ == "__main__":
    run_one(JOBS) or main()
