"""The train stage: linear front ends from moments, then one encoder per method and fold.

Legend: M variants, P factors, E environments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrscale import config
from mrscale.config import Study
from mrscale.errors import InputError
from mrscale.nn.flow import Flow
from mrscale.progress import bar
from mrscale.provenance import Clock, digest
from mrscale.sampling.plan import Plan, blocks, held_out, split_by_environment
from mrscale.stats.design import fill_missing
from mrscale.stats.moments import Floats, Moments, combine_keyed, pool
from mrscale.stats.subspace import FrontEnd, count_invariant, fit_front_end, stationary_subspace
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.stream.engine import Client, engine
from mrscale.stream.loader import batches
from mrscale.stream.products import mean_dosage
from mrscale.stream.reduce import map_blocks, reduce_blocks
from mrscale.train import checkpoint
from mrscale.train.encoder import Encoder, Prepared, finish, keep_restart, start_flow
from mrscale.train.loop import Batch, Progressed, fit_flow
from mrscale.train.ranks import joined, launch
from mrscale.workflow.runfolder import RunFolder

FoldEnvironment = tuple[int, int]


def train(study: Study, *, quiet: bool = False) -> RunFolder:
    """Train every encoder of a study, each on one fold of people.

    Finished encoders are kept, an interrupted one continues from its last checkpoint.

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
    store = open_store(study.store_path)
    require_more_people_than_instruments(store)
    _require_folds(study, store)
    folder = RunFolder.claim(study)
    folder.bind(store.genotype_digest)
    identity = training_digest(study, store)
    if folder.done("train") == identity:
        return folder
    folder.reopen("train")
    prepared, latent_dim = _prepare(study, store, folder, identity, quiet)
    if "linear" in study.encoder.methods:
        for fold, start in enumerate(prepared):
            story = {"identity": identity, "fold": fold, "invariant": start.invariant}
            finish("linear", latent_dim, start, None, story).save(folder.encoder("linear", fold))
    if "flow" in study.encoder.methods:
        for fold in range(study.folds):
            if _identity_of(folder.encoder("flow", fold)) != identity:
                ranks = study.encoder.ranks
                launch(ranks, _train_flow, study, fold, latent_dim, identity, quiet)
    folder.finish("train", identity, clock)
    return folder


def training_digest(study: Study, store: GenotypeStore) -> str:
    """Digest of everything that trained encoders depend on (not of the number of ranks)."""
    settings = study.encoder.model_dump(mode="json", exclude={"ranks"})
    return digest([store.genotype_digest, study.genotypes.missing, study.seed, settings])


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


@dataclass(frozen=True)
class _FoldBlocks:
    """Block functions over the rows of a store, grouped by fold and environment."""

    store: GenotypeStore
    fill: Floats
    drop_missing: bool

    def _read(
        self, rows: slice
    ) -> tuple[NDArray[np.intp], Floats, NDArray[np.int16], NDArray[np.int8]]:
        """Row numbers, dosages, environments and folds of the people to train on."""
        dosage = self.store.expected_dosage(rows)
        kept = (dosage >= 0).all(axis=1) if self.drop_missing else np.ones(len(dosage), bool)
        environment = self.store.array("environment", rows)[kept]
        filled = fill_missing(dosage[kept], environment, self.fill)
        numbers = rows.start + np.flatnonzero(kept)
        return numbers, filled, environment, self.store.array("fold", rows)[kept]

    def moments(self, rows: slice) -> dict[FoldEnvironment, Moments]:
        _, filled, environment, fold = self._read(rows)
        pairs = sorted(set(zip(fold.tolist(), environment.tolist(), strict=True)))
        return {
            (f, e): Moments.from_block(filled[(fold == f) & (environment == e)]) for f, e in pairs
        }

    def scores(
        self, rows: slice, fronts: list[FrontEnd]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        numbers, filled, _, fold = self._read(rows)
        inside = [np.flatnonzero(fold == f) for f in range(len(fronts))]
        return [
            (numbers[index], front.scores(filled[index]).astype(np.float32))
            for index, front in zip(inside, fronts, strict=True)
        ]


def _prepare(
    study: Study, store: GenotypeStore, folder: RunFolder, identity: str, quiet: bool
) -> tuple[list[Prepared], int]:
    """Front ends, scores and stationary subspaces of all folds, and the latent dimension."""
    files = [folder.prepared(fold) for fold in range(study.folds)]
    if any(_identity_of(file) != identity for file in files):
        with engine(study.scheduler) as client, bar("Preparing", 2, quiet=quiet) as progress:
            source = _FoldBlocks(store, mean_dosage(store), study.genotypes.missing == "drop")
            cuts = blocks(store.num_samples, store.layout.chunk_rows)
            groups = reduce_blocks(client, cuts, source.moments, combine_keyed, progress=progress)
            fronts = _front_ends(groups, study)
            parts = map_blocks(
                client, cuts, lambda rows: source.scores(rows, fronts), progress=progress
            )
        environment = store.array("environment")
        for fold, front in enumerate(fronts):
            rows, scores = (np.concatenate(a) for a in zip(*(p[fold] for p in parts), strict=True))
            start = _start(fold, front, rows, scores, groups, environment[rows], source, study)
            start.save(files[fold], {"identity": identity})
    # always from the files: the memory order of a fresh matrix would change last bits later on
    prepared = [Prepared.load(file) for file in files]
    return prepared, _latent_dim(study.encoder, prepared)


def _front_ends(groups: dict[FoldEnvironment, Moments], study: Study) -> list[FrontEnd]:
    """One front end per fold, all with the same number of factors."""
    settings = study.encoder
    folds = [pool([m for (f, _), m in groups.items() if f == fold]) for fold in range(study.folds)]
    if settings.factors != "auto":
        return [fit_front_end(fold, settings.factors) for fold in folds]
    fronts = [fit_front_end(fold) for fold in folds]
    factors = sorted(front.num_factors for front in fronts)[len(fronts) // 2]
    return [
        front if front.num_factors == factors else fit_front_end(fold, factors)
        for fold, front in zip(folds, fronts, strict=True)
    ]


def _start(
    fold: int,
    front: FrontEnd,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    groups: dict[FoldEnvironment, Moments],
    environment: NDArray[np.int16],
    source: _FoldBlocks,
    study: Study,
) -> Prepared:
    moments = [m for (f, _), m in sorted(groups.items(), key=lambda item: item[0]) if f == fold]
    subspace = stationary_subspace([m.transform(front.projection, front.origin) for m in moments])
    rng = np.random.default_rng([study.seed, fold])
    invariant = count_invariant(scores.astype(np.float64), environment, rng)
    return Prepared(front, source.fill, subspace, rows, scores, invariant)


def _latent_dim(settings: config.Encoder, prepared: list[Prepared]) -> int:
    factors = prepared[0].front.num_factors
    if settings.latent_dim == "auto":
        invariant = typical_invariant([start.invariant for start in prepared])
        return min(max(invariant, 1), factors - 1)
    if settings.latent_dim >= factors:
        raise InputError(
            f"[encoder] latent_dim must be below the number of factors, {factors}, so that "
            f"something is left to absorb confounding; found {settings.latent_dim}"
        )
    return settings.latent_dim


def typical_invariant(counts: list[int]) -> int:
    """Number of invariant directions that the folds agree on: their lower median."""
    return sorted(counts)[(len(counts) - 1) // 2]


def _train_flow(study: Study, fold: int, latent_dim: int, identity: str, quiet: bool) -> None:
    """Train one fold's flow encoder; runs in every rank."""
    folder, store = RunFolder(Path(study.run)), open_store(study.store_path)
    start = Prepared.load(folder.prepared(fold))
    environments = len(store.names("environments"))
    environment = store.array("environment")[start.rows]
    aside = held_out(store.array("family")[start.rows], study.seed)
    plan = _plan(study, fold, store, start.rows[~aside])
    z = start.scores.astype(np.float64) @ start.subspace.directions
    flow = start_flow(
        start.subspace.directions,
        [z[environment == e] for e in range(environments)],
        latent_dim,
        environments,
        restarts=study.encoder.restarts,
        seed=plan.seed,
    )
    title = f"Training flow {fold + 1} of {study.folds}"
    with joined() as ranks, engine(study.scheduler) as client:
        mine = slice(ranks.rank, None, ranks.world)
        judge = (
            torch.from_numpy(start.scores[aside][mine]),
            torch.from_numpy(environment[aside][mine].astype(np.int64)),
        )

        def batches_from(step: int) -> Iterator[Batch]:
            return _score_batches(
                client, store, start, plan, step, study.encoder.steps, ranks.rank, ranks.world
            )

        with bar(title, 1, quiet=quiet or not ranks.leads) as progress:
            done = fit_flow(
                flow,
                batches_from,
                judge,
                steps=study.encoder.steps,
                ranks=ranks,
                resume=folder.checkpoint(fold),
                identity=identity,
                progress=progress,
            )
        if ranks.leads:
            story = {
                "identity": identity,
                "fold": fold,
                "invariant": start.invariant,
                "wraps": plan.wraps,
            }
            _best_restart(flow, done, start, story).save(folder.encoder("flow", fold))
            folder.checkpoint(fold).unlink(missing_ok=True)
        # nobody may go on, and call the stage finished, before the encoder is on disk
        ranks.wait()


def _best_restart(flow: Flow, done: Progressed, start: Prepared, story: dict[str, Any]) -> Encoder:
    """The encoder of the restart with the best held-out likelihood."""
    winner = int(np.argmax(done.best_held_out))
    story = {
        **story,
        "best_step": done.best_step[winner],
        "held_out_log_likelihood": done.best_held_out[winner],
        "restarts": done.best_held_out,
        "history": done.history,
    }
    directions, environments = start.subspace.directions, len(start.mean_dosage)
    single = start_flow(directions, [], flow.latent_dim, environments)
    best = keep_restart(flow, single, winner)
    return finish("flow", flow.latent_dim, start, best, story)


def _plan(study: Study, fold: int, store: GenotypeStore, rows: NDArray[np.int64]) -> Plan:
    names = store.names("environments")
    parts = split_by_environment(rows, store.array("environment"), len(names))
    if empty := [name for name, part in zip(names, parts, strict=True) if not len(part)]:
        raise InputError(
            f"every fold needs people of every environment to train on; environment {empty[0]!r} "
            "has too few for this many folds; lower folds, or merge the environment with another"
        )
    seed = study.seed * 1000 + fold
    return Plan(parts, store.layout.chunk_rows, study.encoder.batch_size, seed)


def _score_batches(
    client: Client,
    store: GenotypeStore,
    start: Prepared,
    plan: Plan,
    step: int,
    stop: int,
    rank: int,
    world: int,
) -> Iterator[Batch]:
    """Batches of scores, projected from streamed dosages."""
    stream = batches(client, store, plan, start=step, stop=stop, rank=rank, world=world)
    for dosage, environment in stream:
        scores = start.front.scores(fill_missing(dosage, environment, start.mean_dosage))
        yield (
            torch.from_numpy(scores.astype(np.float32)),
            torch.from_numpy(environment.astype(np.int64)),
        )


def _identity_of(file: Path) -> str | None:
    return checkpoint.load_story(file).get("identity") if file.is_file() else None
