"""The train stage: linear starts of every fold, then its encoders, kept and resumed in files."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mrscale.config import Method, Study
from mrscale.errors import EngineError, InputError
from mrscale.progress import bar
from mrscale.provenance import Clock, digest, write_json
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.stream.products import mean_dosage
from mrscale.train import checkpoint
from mrscale.train.encoder import Encoder, Prepared
from mrscale.train.learn import Effort
from mrscale.train.metrics import Metrics
from mrscale.train.ranks import SILENCE, Ranks, joined, launch, leads_here
from mrscale.workflow.inputs import Place, dosages_to_train_on, place_of_batches
from mrscale.workflow.learned_options import require_device
from mrscale.workflow.learning import (
    LatentDim,
    choose_latent_dim,
    learn_encoders,
    require_latent_dim,
    require_people_to_train,
    training_blocks,
)
from mrscale.workflow.lock import RunLock
from mrscale.workflow.preparing import prepare
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.study_engine import study_engine

_HOW = ("ranks", "input", "prefetch_mib", "device", "tensorboard")
"""Settings of how encoders are trained that do not change what is learned."""


def train(study: Study, *, quiet: bool = False) -> RunFolder:
    """Train every encoder of a study, each on one fold of people.

    Finished encoders are kept, an interrupted training continues from its last checkpoint.

    Raises
    ------
    StoreError
        If the genotype store is unfinished.
    RunError
        If the run folder is another study's.
    InputError
        If there are too few people or environments for what is asked, or the store has another
        number of folds.
    """
    clock = Clock()
    require_device(study.encoder.device)
    store = open_store(study.store_path)
    require_more_people_than_instruments(store)
    _require_folds(study, store)
    identity = training_digest(study, store)
    if not leads_here():  # the leading rank holds the run for all
        folder = RunFolder(Path(study.run))
        if not is_trained(study, folder, identity):
            _wait_until_prepared(study, folder, identity)
            launch(study.encoder.ranks, _train_in_rank, study, identity, quiet)
        return folder
    with RunFolder.held(study) as folder:
        folder.bind(store.genotype_digest)
        if not is_trained(study, folder, identity):
            folder.reopen("train")
            folder.reopen("encode")  # what the encoders that were there have made
            _prepare(study, store, folder, identity, quiet)
            launch(study.encoder.ranks, _train_in_rank, study, identity, quiet)
            folder.finish("train", identity, clock)
        return folder


def is_trained(study: Study, folder: RunFolder, identity: str) -> bool:
    """Whether the train stage is done for a digest, and no encoder was removed since."""
    kept = (
        folder.encoder(method, fold).is_file()
        for method in study.encoder.methods
        for fold in range(study.folds)
    )
    return folder.done("train") == identity and all(kept)


def trained_on(study: Study) -> dict[Method, Place]:
    """Where the batches of each method come from on this machine."""
    store = open_store(study.store_path)
    return {method: place_of_batches(study, store, method) for method in study.encoder.methods}


def training_digest(study: Study, store: GenotypeStore) -> str:
    """Digest of everything that trained encoders depend on."""
    return digest([store.genotype_digest, study.genotypes.missing, study.seed, settings_of(study)])


def settings_of(study: Study) -> dict[str, Any]:
    """What is set of encoders that changes what they learn: not the number of ranks, nor where they
    run; but people are shuffled in another way where dosages are streamed."""
    settings = study.encoder.model_dump(mode="json", exclude=set(_HOW))
    return settings | {"streamed": study.encoder.input == "streamed"}


def require_more_people_than_instruments(store: GenotypeStore) -> None:
    """Refuse a store on which two-stage least squares would be plain OLS."""
    if store.num_variants >= store.num_samples:
        raise InputError(
            f"an estimate needs more people than instruments; found {store.num_variants:,} "
            f"instruments for {store.num_samples:,} people; extract again with a shorter list of "
            "instruments: --instruments FILE"
        )


def _require_folds(study: Study, store: GenotypeStore) -> None:
    found = int(store.array("fold").max()) + 1
    if found != study.folds:
        raise InputError(
            f"the people of this store are in {found} folds, the study asks for {study.folds}; "
            f"set folds = {found} in the study file, or extract again into another store"
        )


def _prepare(
    study: Study, store: GenotypeStore, folder: RunFolder, identity: str, quiet: bool
) -> None:
    """Write what the encoders of every fold start from, unless it is there."""
    files = [folder.prepared(fold) for fold in range(study.folds)]
    if _all_of(files, identity):
        return
    with study_engine(study, store) as client, bar("Preparing", 2, quiet=quiet) as progress:
        starts = prepare(
            client,
            store,
            mean_dosage(store),
            study.folds,
            factors=study.encoder.factors,
            drop_missing=study.genotypes.missing == "drop",
            seed=study.seed,
            progress=progress,
        )
    require_latent_dim(study.encoder.latent_dim, starts[0].front.num_factors)
    methods = study.encoder.methods
    if set(methods) - {"linear"}:
        blocks = training_blocks(store, starts, study.seed)
        require_people_to_train(store, blocks, kernel="kernel" in methods)
    for start, file in zip(starts, files, strict=True):
        start.save(file, {"identity": identity})


def _wait_until_prepared(study: Study, folder: RunFolder, identity: str) -> None:
    """Wait, under torchrun, for the leading rank, which holds the run folder meanwhile.

    Raises
    ------
    EngineError
        If nobody has held the folder for ``SILENCE``: the leading rank's host may be cut off.
    """
    files, lock = [folder.prepared(fold) for fold in range(study.folds)], RunLock(folder.path)
    heard = time.monotonic()
    while not _all_of(files, identity):
        if lock.is_held():
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE.total_seconds():
            raise EngineError(
                f"the leading rank of this training does not work on {folder.path}; see what it "
                "says and whether its machine can be reached, then start all ranks again"
            )
        time.sleep(0.5)


def _train_in_rank(study: Study, identity: str, quiet: bool) -> None:
    """Train what is not there yet; runs in every rank, and the leading one writes."""
    folder, store = RunFolder(Path(study.run)), open_store(study.store_path)
    settings = study.encoder
    starts = [Prepared.load(folder.prepared(fold)) for fold in range(study.folds)]
    blocks = training_blocks(store, starts, study.seed)
    effort = Effort(
        settings.restarts, settings.steps, settings.batch_size, first_layer=settings.first_layer
    )
    # joined when it has read: from then on no rank waits long for another
    with dosages_to_train_on(study, store) as dosages, joined() as ranks:
        shared: dict[str, Any] = {
            "seed": study.seed,
            "ranks": ranks,
            "identity": identity,
            "device": settings.device,
        }
        shown = partial(bar, total=1, quiet=quiet or not ranks.leads)

        def metrics(what: str) -> Metrics | None:
            board = settings.tensorboard
            return Metrics(folder.metrics(what), tensorboard=board) if ranks.leads else None

        chosen = _as_leading(ranks, _known_latent_dim(folder, identity))
        if chosen is None:
            resume = folder.checkpoint("path")
            with shown("Choosing the latent dimension") as progress:
                chosen = choose_latent_dim(
                    settings.latent_dim,
                    settings.methods,
                    blocks,
                    effort,
                    dosages=dosages("flow"),
                    metrics=metrics("path"),
                    resume=resume,
                    progress=progress,
                    **shared,
                )
            _settle(ranks, partial(_keep_latent_dim, folder, identity, chosen), resume)
        story = {"identity": identity, "latent_dim_path": chosen.path}
        for method in settings.methods:
            files = [folder.encoder(method, fold) for fold in range(study.folds)]
            if ranks.as_leading(_all_of(files, identity)):
                continue
            resume = folder.checkpoint(method)
            with shown(f"Training {method} encoders") as progress:
                encoders = learn_encoders(
                    method,
                    blocks,
                    chosen.value,
                    effort,
                    story,
                    dosages=dosages(method),
                    metrics=metrics(method),
                    resume=resume,
                    progress=progress,
                    **shared,
                )
            _settle(ranks, partial(_save_all, encoders, files), resume)


def _save_all(encoders: Sequence[Encoder], files: Sequence[Path]) -> None:
    for encoder, file in zip(encoders, files, strict=True):
        encoder.save(file)


def _settle(ranks: Ranks, save: Any, resume: Path) -> None:
    """The leading rank writes a result and drops its checkpoint; nobody goes on before that."""
    if ranks.leads:
        save()
        resume.unlink(missing_ok=True)
    ranks.wait()


def _keep_latent_dim(folder: RunFolder, identity: str, chosen: LatentDim) -> None:
    content = {"identity": identity, "latent_dim": chosen.value, "path": chosen.path}
    write_json(folder.latent_dim, content)


def _known_latent_dim(folder: RunFolder, identity: str) -> LatentDim | None:
    """The latent dimension, if it was chosen before for the same training."""
    if not folder.latent_dim.is_file():
        return None
    with checkpoint.sound(folder.latent_dim):
        content = json.loads(folder.latent_dim.read_text())
        if content["identity"] != identity:
            return None
        return LatentDim(int(content["latent_dim"]), content["path"])


def _as_leading(ranks: Ranks, known: LatentDim | None) -> LatentDim | None:
    """The latent dimension, if the leading rank knows it; a shared disk may show others its file
    late. It is at least 1."""
    value = ranks.as_leading(known.value if known else 0)
    return LatentDim(value, known.path if known else {}) if value else None


def _all_of(files: Sequence[Path], identity: str) -> bool:
    return all(_identity_of(file) == identity for file in files)


def _identity_of(file: Path) -> str | None:
    return checkpoint.load_story(file).get("identity") if file.is_file() else None
