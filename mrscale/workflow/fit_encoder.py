"""``mrscale.fit_encoder``: one encoder, trained on all the people given.

Legend: N people, M instruments, L latent instruments, K remainder, E environments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from mrscale.config import Method
from mrscale.progress import bar
from mrscale.provenance import software_versions
from mrscale.store.reader import GenotypeStore
from mrscale.train.encoder import Encoder
from mrscale.train.inputs import TrainingBlock
from mrscale.workflow.cohorts import Cohort, fill_of, require_environments
from mrscale.workflow.encoder_checks import EncoderChecks, check_encoder, diagnostics
from mrscale.workflow.learned_data import instruments_of
from mrscale.workflow.learned_encoder import LearnedEncoder
from mrscale.workflow.learned_options import LearnOptions
from mrscale.workflow.learning import (
    LatentDim,
    choose_latent_dim,
    learn_encoders,
    require_people_to_train,
    training_blocks,
)
from mrscale.workflow.preparing import prepare


def fit_encoder(
    data: Any,
    environment: Any = None,
    *,
    method: Literal["linear", "kernel", "flow", "auto"] = "auto",
    latent_dim: int | Literal["auto"] = "auto",
    factors: int | Literal["auto"] = "auto",
    restarts: int = 3,
    seed: int = 0,
    device: str = "auto",
    steps: int | Literal["auto"] = "auto",
    batch_size: int | Literal["auto"] = "auto",
    invariance: Literal["target", "pairwise"] = "target",
    quiet: bool = False,
) -> LearnedEncoder:
    """Learn latent instruments from instruments and environments; traits are not needed.

    To estimate an effect use :func:`mrscale.learned_iv`, which trains several encoders and applies
    each to people that it has not seen. This one is for looking at a latent, and for people other
    than those it is trained on.

    Parameters
    ----------
    data : str, Path, GenotypeStore, xarray.Dataset or array-like, shape (N, M)
        A genotype store or its path; a dataset of :func:`mrscale.open`, or one with ``x`` and
        ``environment`` such as those of :func:`mrscale.simulate_latent`; or instruments in any
        units (numpy, dask, xarray or pandas), without missing values.
    environment : array-like, shape (N,), optional
        For an array: ancestry group, site or period of each person, as numbers or text.
    method : {"auto", "linear", "kernel", "flow"}, default "auto"
        ``"linear"`` is stationary subspace analysis, ``"kernel"`` the autoencoder of Huang et al.,
        ``"flow"`` an invertible map by maximum likelihood. Auto: linear if the permutation test
        finds at least L invariant directions and the misfit checks pass, otherwise flow.
    latent_dim : int or "auto", default "auto"
        L. Auto: the largest whose held-out likelihood is as good as the best, of flows that are
        trained for each; with ``method="linear"`` the permutation test.
    factors : int or "auto", default "auto"
        L + K: principal components of the instruments that the encoder sees. Auto: by
        eigenvalues, see :func:`mrscale.stats.subspace.count_factors`.
    restarts : int, default 3
        Trained side by side; the best judged one is kept.
    seed : int, default 0
        Equal data and arguments give an equal encoder on one type of machine.
    device : str, default "auto"
        As torch names it; auto takes a GPU if there is one.
    steps, batch_size : int or "auto", default "auto"
        Of the optimiser; auto by method and number of people.
    invariance : {"target", "pairwise"}, default "target"
        Of the kernel encoder. Target: distance from a standard normal in every environment.
        Pairwise: as the paper writes it, distances between environments and an entropy term, with
        exact kernels; slow. See :class:`mrscale.train.objectives.KernelLoss`.
    quiet : bool, default False
        Show no progress even on a terminal.

    Returns
    -------
    LearnedEncoder
        ``transform(x)``, ``rest(x)``, ``bounded(x)``, ``diagnostics``, ``reason``, ``save(path)``.

    Raises
    ------
    InputError
        If there are fewer than two environments, one is unknown for somebody or has 20 people or
        fewer, a value is not finite, fewer than two instruments vary, there are no more people
        than instruments, or ``latent_dim`` leaves nothing of ``factors``.

    Notes
    -----
    15 % of the people do not train, but judge (10,000 of them at most): they decide which state of
    which restart is kept, and the diagnostics are theirs.

    Warnings
    --------
    Nothing in the data shows a confounded direction that never moves, or an exogenous one that
    does; see ``docs/learned-instruments.md``.

    References
    ----------
    Huang, Robinson and Locatello (2026), *ICML*, arXiv 2602.19782 (kernel). Hara et al. (2012),
    *Neural Networks* 33 (linear).

    Examples
    --------
    >>> import mrscale as mr
    >>> people = mr.simulate_latent("linear", num_exogenous=1, num_confounded=1, num_people=2000)
    >>> encoder = mr.fit_encoder(people, method="linear")
    >>> encoder.transform(people).shape, encoder.rest(people).shape
    ((2000, 1), (2000, 1))
    """
    options = LearnOptions(
        method, latent_dim, factors, restarts, seed, device, steps, batch_size, invariance
    )
    cohort, names = instruments_of(data, environment)
    require_environments(len(cohort.names("environments")))
    with bar("Preparing", 2, quiet=quiet) as progress:
        (start,) = prepare(
            None, cohort, fill_of(cohort), 1, factors=factors, seed=seed, progress=progress
        )
    blocks = training_blocks(cohort, [start], seed)
    if method != "linear":
        require_people_to_train(cohort, blocks, kernel=method != "flow")
    fitting = _Fitting(cohort, blocks, options, quiet)
    chosen = fitting.latent_dim()
    if method == "auto":
        encoder, checks, reason = fitting.best(chosen)
    else:
        encoder, checks = fitting.fit(method, chosen)
        reason = f"{method}: as asked for"
    places = cohort.names("environments")
    return LearnedEncoder(
        encoder=encoder,
        reason=reason,
        instruments=tuple(names),
        environments=tuple(places),
        diagnostics=diagnostics(checks, places),
        provenance={
            "settings": asdict(options),
            "data": _digest(cohort),
            "software": software_versions(),
        },
    )


@dataclass(frozen=True, eq=False)
class _Fitting:
    """People prepared, and how to train on them."""

    cohort: Cohort
    blocks: Sequence[TrainingBlock]
    options: LearnOptions
    quiet: bool

    def latent_dim(self) -> LatentDim:
        methods: list[Method] = ["linear" if self.options.method == "linear" else "flow"]
        with bar("Choosing the latent dimension", 1, quiet=self.quiet) as progress:
            return choose_latent_dim(
                self.options.latent_dim,
                methods,
                self.blocks,
                self.options.effort,
                seed=self.options.seed,
                device=self.options.device,
                progress=progress,
            )

    def fit(self, method: Method, chosen: LatentDim) -> tuple[Encoder, EncoderChecks]:
        with bar(f"Training the {method} encoder", 1, quiet=self.quiet) as progress:
            (encoder,) = learn_encoders(
                method,
                self.blocks,
                chosen.value,
                self.options.effort,
                {"latent_dim_path": chosen.path},
                seed=self.options.seed,
                device=self.options.device,
                progress=progress,
            )
        return encoder, check_encoder(self.cohort, self.blocks[0], encoder, self.options.seed)

    def best(self, chosen: LatentDim) -> tuple[Encoder, EncoderChecks, str]:
        """Linear if that suffices, otherwise flow."""
        encoder, checks = self.fit("linear", chosen)
        invariant, needed = checks.check.invariant, chosen.value
        seen = f"{invariant} of the linear directions {'is' if invariant == 1 else 'are'} invariant"
        if checks.check.linear_suffices:
            why = f"{seen} by the permutation test, {needed} needed, and the misfit checks pass"
            return encoder, checks, f"linear: {why}"
        if invariant < needed:
            why = f"{seen} by the permutation test, {needed} needed"
        else:
            why = "the linear latent can be predicted from the remainder and the environment"
        return *self.fit("flow", chosen), f"flow: {why}"


def _digest(cohort: Cohort) -> str:
    """SHA-256 (hex) of what the encoder was trained on."""
    if isinstance(cohort, GenotypeStore):
        return cohort.genotype_digest
    sha = hashlib.sha256()
    for values in (cohort.instruments, cohort.array("environment")):
        sha.update(np.ascontiguousarray(values).data)
    return sha.hexdigest()
