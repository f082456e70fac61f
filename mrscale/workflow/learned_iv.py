"""``mrscale.learned_iv``: two-stage least squares on learned instruments, beside its rivals.

Legend: N people, M instruments, L latent instruments, S blocks of people, R restarts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

from mrscale.config import Method
from mrscale.progress import bar
from mrscale.provenance import software_versions
from mrscale.results.latent_dim import path_table
from mrscale.results.learned import LearnedIVResult
from mrscale.results.pair import RIVAL
from mrscale.sampling.plan import blocks as row_blocks
from mrscale.stream.reduce import map_blocks
from mrscale.train.encoder import Encoder
from mrscale.train.inputs import TrainingBlock
from mrscale.train.learn import Effort, Trained, learn
from mrscale.workflow.checks import check_latents
from mrscale.workflow.cohorts import Cohort, fill_of
from mrscale.workflow.designs import PairData
from mrscale.workflow.latents import Encoders, Latents, encode_rows
from mrscale.workflow.learned_data import pair_cohort
from mrscale.workflow.learned_options import LearnOptions, require_blocks
from mrscale.workflow.learning import (
    PATH_STEPS,
    LatentDim,
    choose_latent_dim,
    learn_encoders,
    require_people_to_train,
    training_blocks,
)
from mrscale.workflow.pair import estimate_pair
from mrscale.workflow.preparing import prepare


def learned_iv(
    outcome: Any,
    exposure: Any,
    instruments: Any,
    environment: Any,
    *,
    covariates: Any = None,
    clusters: Any = None,
    method: Literal["linear", "kernel", "flow", "auto"] = "auto",
    latent_dim: int | Literal["auto"] = "auto",
    factors: int | Literal["auto"] = "auto",
    front_end: Literal["components", "guided"] = "components",
    blocks: int | Literal["auto"] = "auto",
    restarts: int = 2,
    seed: int = 0,
    device: str = "auto",
    steps: int | Literal["auto"] = "auto",
    batch_size: int | Literal["auto"] = "auto",
    quiet: bool = False,
) -> LearnedIVResult:
    """Estimate an effect with instruments that are learned to be free of confounding.

    Parameters
    ----------
    outcome, exposure : array-like, shape (N,)
        numpy, dask, xarray or pandas, without missing values; in the units of the estimate.
    instruments : array-like, shape (N, M)
        Such as dosages; in any units, without missing values.
    environment : array-like, shape (N,)
        Ancestry group, site or period of each person, as numbers or text; best five or more.
    covariates : array-like, shape (N,) or (N, K), optional
        Partialled out of everything. Those named PC1, PC2, ... are used by the adjusted rival only.
    clusters : array-like, shape (N,), optional
        Family or site of each person: a cluster shares a block, and errors are clustered.
    method : {"auto", "linear", "kernel", "flow"}, default "auto"
        Auto: all three, and the headline by the rule in the user guide. Otherwise that one alone.
    latent_dim, factors, seed, device, steps, batch_size, quiet
        As for :func:`mrscale.fit_encoder`.
    front_end : {"components", "guided"}, default "components"
        What encoders see: principal components, or beside them the first-stage score of a ridge
        regression, learned in each block. Guided is for genotypes without much structure: see the
        user guide for what it gains and costs.
    blocks : int or "auto", default "auto"
        S, disjoint blocks of people. Each trains an encoder that is applied to all others. Auto:
        four.
    restarts : int, default 2
        R, of each trained encoder; the best judged one is used, the others are shown.

    Returns
    -------
    LearnedIVResult
        ``estimate``, ``std_error``, ``conf_int()``, ``trust``, ``reasons``, ``table``,
        ``diagnostics``, ``sensitivity``, ``latent_dim_path``, ``summary()``.

    Raises
    ------
    InputError
        Where :func:`mrscale.iv` raises it; if there are fewer than two environments, one is unknown
        for somebody or has 20 people or fewer for each block, fewer than two instruments vary,
        there are no more people than instruments, or ``latent_dim`` leaves nothing of ``factors``.

    Notes
    -----
    Everything that is fitted to instruments - scaling, principal components, encoder - is fitted to
    one block and applied to the others. The estimate is the mean over blocks of 2SLS with a
    quadratic basis of the latent as instruments, and environments and a cubic basis of the
    remainder as controls. Its variance is that of the mean influence values plus the variance
    between blocks over S, which holds the encoders' own error, with a t(S - 1) reference. Where
    the checks fail or the first stage is weak, the headline is 2SLS on all instruments, adjusted
    for principal components and environments.

    Warnings
    --------
    Nothing in the data shows a confounded direction that never moves between environments, or an
    exogenous one that does; see ``docs/learned-instruments.md``.

    References
    ----------
    Huang, Robinson and Locatello (2026), Addressing instrument-outcome confounding in Mendelian
    randomization through representation learning, *ICML*, arXiv 2602.19782.

    Examples
    --------
    >>> import mrscale as mr
    >>> people = mr.simulate_latent("linear", num_exogenous=1, num_confounded=1, num_people=4000)
    >>> fit = mr.learned_iv(
    ...     *(people[name] for name in ("outcome", "exposure", "x", "environment")),
    ...     method="linear",
    ... )
    >>> fit.headline, fit.trust
    ('linear_controls', 'green')
    """
    options = LearnOptions(
        method,
        latent_dim,
        factors,
        restarts,
        seed,
        device,
        steps,
        batch_size,
        front_end=front_end,
    )
    require_blocks(blocks)
    cohort = pair_cohort(
        outcome,
        exposure,
        instruments,
        environment,
        covariates,
        clusters,
        blocks=blocks,
        seed=seed,
    )
    return learned_pair(cohort, options, clustered=clusters is not None, quiet=quiet)


def learned_pair(
    cohort: Cohort, options: LearnOptions, *, clustered: bool = False, quiet: bool = False
) -> LearnedIVResult:
    """:func:`learned_iv` for the first exposure and outcome of a cohort in folds.

    Parameters
    ----------
    cohort : Cohort
        In memory, or a genotype store; its folds are the blocks.
    options : LearnOptions
    clustered : bool, default False
        As for :class:`mrscale.workflow.designs.PairData`.
    quiet : bool, default False
    """
    fill, num_blocks = fill_of(cohort), int(cohort.array("fold").max()) + 1
    with bar("Preparing", 2, quiet=quiet) as progress:
        starts = prepare(
            None,
            cohort,
            fill,
            num_blocks,
            factors=options.factors,
            guided=options.front_end == "guided",
            seed=options.seed,
            progress=progress,
        )
    trained_on = training_blocks(cohort, starts, options.seed)
    if options.method != "linear":
        require_people_to_train(cohort, trained_on, kernel=options.method != "flow")
    learning = _Learning(trained_on, options, quiet)
    chosen = learning.latent_dim()
    encoders, alternatives = learning.encoders(chosen)
    latents = Latents.unfilled(encoders, cohort.num_samples, alternatives)
    cuts = row_blocks(cohort.num_samples, cohort.layout.chunk_rows)
    with bar("Encoding", 1, quiet=quiet) as progress:
        write = partial(encode_rows, cohort, encoders, latents.arrays)
        map_blocks(None, cuts, write, progress=progress)
    data = PairData(cohort, fill, False, 0, 0, latents, None, clustered=clustered)
    with bar("Estimating", 3, quiet=quiet) as progress:
        checks = check_latents(None, cohort, latents, encoders, options.seed, progress=progress)
        pair = estimate_pair(None, data, checks, progress=progress)
    return LearnedIVResult(
        pair=pair,
        dof=math.inf if pair.headline == RIVAL else num_blocks - 1,
        latent_dim=chosen.value,
        num_factors=starts[0].front.num_factors,
        num_blocks=num_blocks,
        environments=tuple(cohort.names("environments")),
        num_clusters=data.num_clusters() if clustered else None,
        latent_dim_path=path_table(chosen.path, chosen.value),
        provenance={"settings": asdict(options), "software": software_versions()},
    )


@dataclass(frozen=True, eq=False)
class _Learning:
    """Blocks of people prepared, and how to train on them."""

    blocks: Sequence[TrainingBlock]
    options: LearnOptions
    quiet: bool

    @property
    def methods(self) -> tuple[Method, ...]:
        asked = self.options.method
        return get_args(Method) if asked == "auto" else (asked,)

    def latent_dim(self) -> LatentDim:
        options = self.options
        # flows choose for the kernel encoder as well: it has no likelihood of its own
        judged: list[Method] = ["linear" if options.method == "linear" else "flow"]
        with bar("Choosing the latent dimension", 1, quiet=self.quiet) as progress:
            return choose_latent_dim(
                options.latent_dim,
                judged,
                self.blocks,
                options.effort,
                seed=options.seed,
                device=options.device,
                progress=progress,
            )

    def encoders(self, chosen: LatentDim) -> tuple[Encoders, dict[str, str]]:
        """All encoders, and which of them are alternatives, under what names people read."""
        story = {"latent_dim_path": chosen.path}
        encoders: Encoders = {}
        alternatives: dict[str, str] = {}
        for method in self.methods:
            if method == "linear":
                encoders[method] = learn_encoders(
                    method, self.blocks, chosen.value, self.options.effort, story, seed=0
                )
                continue
            best, *others = self._restarts(method, chosen.value, self.options.effort, story)
            encoders[method] = best
            for rank, other in enumerate(others, start=2):
                encoders[f"{method}_restart_{rank}"] = other
                alternatives[f"{method}_restart_{rank}"] = f"{method}, restart {rank}"
        if "flow" in encoders and chosen.value > 1:
            (encoders["flow_smaller"],) = self._restarts("flow", chosen.value - 1, self._short, {})
            alternatives["flow_smaller"] = f"flow, latent dimension {chosen.value - 1}"
        return encoders, alternatives

    @property
    def _short(self) -> Effort:
        """Of a flow that only shows what another latent dimension would do."""
        effort = replace(self.options.effort, restarts=1)
        return replace(effort, steps=PATH_STEPS) if effort.steps == "auto" else effort

    def _restarts(
        self, method: Trained, latent_dim: int, effort: Effort, story: dict[str, Any]
    ) -> list[list[Encoder]]:
        """Encoders of every block, the best restart of each first, then the next best ones."""
        title = f"Training {method} encoders"
        with bar(title, 1, quiet=self.quiet) as progress:
            trained = learn(
                method,
                self.blocks,
                [latent_dim],
                effort,
                seed=self.options.seed,
                device=self.options.device,
                progress=progress,
            )
        return [
            [
                trained.encoder(
                    fold,
                    latent_dim,
                    block.start,
                    {**story, "fold": fold, "invariant": block.start.invariant},
                    rank,
                )
                for fold, block in enumerate(self.blocks)
            ]
            for rank in range(effort.restarts)
        ]
