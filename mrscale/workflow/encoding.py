"""The encode stage: every encoder applied to everybody it was not trained on.

Legend: S encoders (one per fold), N people, L latents, K remainder.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from mrscale.config import Study
from mrscale.errors import RunError
from mrscale.progress import bar
from mrscale.provenance import Clock, digest
from mrscale.sampling.plan import blocks
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.stream.reduce import map_blocks
from mrscale.train.encoder import Encoder
from mrscale.workflow.latents import Encoders, encode_rows, widths
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.study_engine import study_engine
from mrscale.workflow.training import is_trained, training_digest


def encode(study: Study, *, quiet: bool = False) -> RunFolder:
    """Write ``latents.zarr``: arrays ``<method>_latent`` (S, N, L) and ``<method>_remainder``
    (S, N, K), float32, in the store's row order; NaN where encoder s was trained on the person.

    Raises
    ------
    RunError
        If the encoders are not trained, were trained with other settings, or were removed.
    """
    clock = Clock()
    store = open_store(study.store_path)
    trained = training_digest(study, store)
    if not is_trained(study, RunFolder.examine(study), trained):
        raise RunError(
            "the encoders of these settings are not there, or not trained yet; run first: mrscale "
            "train study.toml"
        )
    with RunFolder.held(study) as folder:
        _encode_in(folder, study, store, encoding_digest(trained), clock, quiet)
        return folder


def _encode_in(
    folder: RunFolder, study: Study, store: GenotypeStore, identity: str, clock: Clock, quiet: bool
) -> None:
    folder.bind(store.genotype_digest)
    if folder.done("encode") == identity:
        return
    folder.reopen("encode")
    encoders = load_encoders(study, folder)
    arrays = _create(folder, store, encoders)
    write = partial(encode_rows, store, encoders, arrays)
    cuts = blocks(store.num_samples, store.layout.chunk_rows)
    with study_engine(study, store) as client, bar("Encoding", 1, quiet=quiet) as progress:
        map_blocks(client, cuts, write, progress=progress)
    folder.finish("encode", identity, clock)


def encoding_digest(training: str) -> str:
    """Digest of what the latents depend on, given that of the trained encoders."""
    return digest(["encode", training])


def load_encoders(study: Study, folder: RunFolder) -> Encoders:
    """The trained encoders, per method and fold."""
    return {
        method: [Encoder.load(folder.encoder(method, fold)) for fold in range(study.folds)]
        for method in study.encoder.methods
    }


def _create(
    folder: RunFolder, store: GenotypeStore, encoders: Encoders
) -> dict[str, zarr.Array[Any]]:
    group = zarr.open_group(
        str(folder.latents), mode="w", attributes={"genotypes": store.genotype_digest}
    )
    return {
        name: group.create_array(
            name,
            shape=(len(trained), store.num_samples, width),
            chunks=(1, store.layout.chunk_rows, width),
            dtype="float32",
            compressors=[ZstdCodec(), Crc32cCodec()],
            fill_value=np.nan,
            dimension_names=("encoders", "samples", name.rpartition("_")[2]),
            # what is NaN throughout must be written as well: a file that is not there is a lost one
            config={"write_empty_chunks": True},
        )
        for name, (trained, width) in widths(encoders).items()
    }
