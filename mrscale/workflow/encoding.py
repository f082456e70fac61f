"""The encode stage: every encoder applied to everybody it was not trained on.

Legend: S encoders (one per fold), N people, L latents, K remainder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from mrscale.config import Method, Study
from mrscale.errors import RunError
from mrscale.progress import bar
from mrscale.provenance import Clock, digest
from mrscale.sampling.plan import blocks
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.stream.engine import engine
from mrscale.stream.reduce import map_blocks
from mrscale.train.encoder import Encoder
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.training import training_digest


@dataclass(frozen=True)
class _Encoding:
    """Encodes one block of rows with all encoders and writes it to the latents."""

    store: GenotypeStore
    encoders: dict[Method, list[Encoder]]
    path: str

    def write(self, rows: slice) -> None:
        dosage = self.store.expected_dosage(rows)
        environment = self.store.array("environment", rows)
        fold = self.store.array("fold", rows)
        group = zarr.open_group(self.path, mode="r+")
        for method, encoders in self.encoders.items():
            for s, encoder in enumerate(encoders):
                latent, remainder = encoder.encode(dosage, environment)
                # nobody is ever given a latent by an encoder that has seen them
                latent[fold == s] = np.nan
                remainder[fold == s] = np.nan
                _array(group, f"{method}_latent")[s, rows] = latent
                _array(group, f"{method}_remainder")[s, rows] = remainder


def encode(study: Study, *, quiet: bool = False) -> RunFolder:
    """Write ``latents.zarr``: arrays ``<method>_latent`` (S, N, L) and ``<method>_remainder``
    (S, N, K), float32, in the store's row order; NaN where encoder s was trained on the person.

    Raises
    ------
    RunError
        If the encoders are not trained, or were trained with other settings.
    """
    clock = Clock()
    store = open_store(study.store_path)
    folder = RunFolder.claim(study)
    folder.bind(store.genotype_digest)
    trained = training_digest(study, store)
    if folder.done("train") != trained:
        raise RunError(
            "the encoders of these settings are not trained yet; run first: mrscale train"
        )
    identity = encoding_digest(trained)
    if folder.done("encode") == identity:
        return folder
    folder.reopen("encode")
    encoders = load_encoders(study, folder)
    _create(folder, store, encoders)
    encoding = _Encoding(store, encoders, str(folder.latents))
    cuts = blocks(store.num_samples, store.layout.chunk_rows)
    with engine(study.scheduler) as client, bar("Encoding", 1, quiet=quiet) as progress:
        map_blocks(client, cuts, encoding.write, progress=progress)
    folder.finish("encode", identity, clock)
    return folder


def encoding_digest(training: str) -> str:
    """Digest of what the latents depend on, given that of the trained encoders."""
    return digest(["encode", training])


def load_encoders(study: Study, folder: RunFolder) -> dict[Method, list[Encoder]]:
    """The trained encoders, per method and fold."""
    return {
        method: [Encoder.load(folder.encoder(method, fold)) for fold in range(study.folds)]
        for method in study.encoder.methods
    }


def _create(folder: RunFolder, store: GenotypeStore, encoders: dict[Method, list[Encoder]]) -> None:
    group = zarr.open_group(
        str(folder.latents), mode="w", attributes={"genotypes": store.genotype_digest}
    )
    for method, trained in encoders.items():
        latent_dim, factors = trained[0].latent_dim, trained[0].front.num_factors
        for kind, width in {"latent": latent_dim, "remainder": factors - latent_dim}.items():
            group.create_array(
                f"{method}_{kind}",
                shape=(len(trained), store.num_samples, width),
                chunks=(1, store.layout.chunk_rows, width),
                dtype="float32",
                fill_value=np.nan,
                dimension_names=("encoders", "samples", kind),
            )


def _array(group: zarr.Group, name: str) -> Any:
    return group[name]
