"""Where a training's batches come from: scores or dosages in memory, or dosages streamed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch

from mrscale.config import Method, Study
from mrscale.sampling.plan import blocks
from mrscale.store.reader import GenotypeStore
from mrscale.stream.engine import MEMORY_LIMIT, readers
from mrscale.stream.loader import Loader
from mrscale.stream.reduce import map_blocks
from mrscale.train.dosages import DosageSource, ResidentDosages
from mrscale.train.memory import memory_suffices
from mrscale.train.ranks import best_device

RESIDENT_SHARE = 0.25
"""Of the memory of the machine and of a GPU, that dosages of all training processes on it may
take."""
Place = Literal["scores in memory", "dosages in memory", "dosages streamed"]


def place_of_batches(study: Study, store: GenotypeStore, method: Method) -> Place:
    """Where the batches of a method come from; see ``[encoder] input``."""
    settings = study.encoder
    if settings.input == "streamed":
        return "dosages streamed"
    if settings.first_layer == "fixed" or method != "kernel":
        return "scores in memory"
    resident = settings.input == "resident" or _fit_in_memory(study, store)
    return "dosages in memory" if resident else "dosages streamed"


@contextmanager
def dosages_to_train_on(
    study: Study, store: GenotypeStore
) -> Iterator[Callable[[Method], DosageSource | None]]:
    """Dosages for the encoders of a method, in a rank; None where it trains on scores."""
    places: dict[Method, Place] = {
        method: place_of_batches(study, store, method) for method in ("linear", "kernel", "flow")
    }
    wanted = {places[method] for method in ("flow", *study.encoder.methods)}
    sources: dict[Place, DosageSource] = {}
    if "dosages in memory" in wanted:
        sources["dosages in memory"] = _loaded(study, store)
    if "dosages streamed" not in wanted:
        yield lambda method: sources.get(places[method])
        return
    with readers(study.scheduler) as executor:
        sources["dosages streamed"] = Loader(
            executor, store, int(study.encoder.prefetch_mib * 2**20)
        )
        yield lambda method: sources.get(places[method])


def _fit_in_memory(study: Study, store: GenotypeStore) -> bool:
    device = best_device(study.encoder.device)
    bytes_of_all = store.num_samples * store.num_variants * np.dtype(store.dosage_dtype).itemsize
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if bytes_of_all > RESIDENT_SHARE * free:
            return False
    # those of a GPU come through the memory of the machine
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", study.encoder.ranks))
    return bytes_of_all * processes <= RESIDENT_SHARE * MEMORY_LIMIT


@memory_suffices()
def _loaded(study: Study, store: GenotypeStore) -> ResidentDosages:
    """Everybody's dosages."""
    dosage = np.empty((store.num_samples, store.num_variants), dtype=store.dosage_dtype)

    def read(rows: slice) -> None:
        dosage[rows] = store.expected_dosage(rows)

    map_blocks(None, blocks(store.num_samples, store.layout.chunk_rows), read)
    return ResidentDosages(dosage, store.layout.chunk_rows, best_device(study.encoder.device))
