"""The Dask client of a study's stages."""

from __future__ import annotations

from contextlib import AbstractContextManager

from mrscale.config import Study
from mrscale.store.reader import GenotypeStore
from mrscale.stream.engine import Client, engine, threads_within


def study_engine(study: Study, store: GenotypeStore) -> AbstractContextManager[Client]:
    """Threads of this machine, as many as ``memory_gib`` has room for, or the study's scheduler."""
    block_bytes = 8 * store.layout.chunk_rows * store.num_variants
    return engine(study.scheduler, threads=threads_within(study.memory_gib, block_bytes))
