"""Front ends compared: what the flow encoder is given, on genotypes and on features that outnumber
the latents.

    python tests/calibration/designs/fronts.py --page docs/calibration.md

Every front end is fitted on the people of a block and applied to all others, like the encoder.
Finished fits in the work folder are kept.
"""

from __future__ import annotations

import argparse
import json
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from estimating import recovery
from grid import Case
from scipy import special
from torch import nn

from mrscale.nn.autoencoder import Perceptron
from mrscale.sampling.plan import held_out
from mrscale.simulate.designs import redraw_traits
from mrscale.stats.moments import Floats, Moments
from mrscale.stats.subspace import add_score, count_invariant, fit_front_end, stationary_subspace
from mrscale.train.encoder import Prepared
from mrscale.train.inputs import TrainingBlock
from mrscale.train.learn import Effort, learn
from mrscale.workflow.checks import check_latents
from mrscale.workflow.cohorts import ArrayCohort, fill_of
from mrscale.workflow.designs import PairData
from mrscale.workflow.judgement import judge
from mrscale.workflow.latents import Latents
from mrscale.workflow.pair import fit_pair

insert = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "page.py"))["insert"]


class Sizes(NamedTuple):
    """Numbers of factors: of latents in truth, and by the rule of the library."""

    known: int
    rule: int


Front = Callable[[Floats, np.ndarray, np.ndarray, Sizes, int], Floats]
"""From instruments (N, M), exposure (N,), the block's rows, sizes and a seed: inputs (N, p)."""


def by_rule(x: Floats, _exposure: np.ndarray, rows: np.ndarray, p: Sizes, _seed: int) -> Floats:
    """Principal components, as many as the rule of the library says."""
    return fit_front_end(Moments.from_block(x[rows]), p.rule).scores(x)


def components(x: Floats, _exposure: np.ndarray, rows: np.ndarray, p: Sizes, _seed: int) -> Floats:
    """As many principal components as there are latents."""
    return fit_front_end(Moments.from_block(x[rows]), p.known).scores(x)


def guided(x: Floats, exposure: np.ndarray, rows: np.ndarray, p: Sizes, _seed: int) -> Floats:
    """Those by the rule, beside a first-stage score."""
    moments = Moments.from_block(np.c_[x[rows], exposure[rows]])
    front = fit_front_end(moments.select(range(x.shape[1])), p.rule)
    return add_score(front, moments).scores(x)


def binomial(x: Floats, exposure: np.ndarray, rows: np.ndarray, p: Sizes, seed: int) -> Floats:
    """Factors f of x_j ~ Binomial(2, sigmoid(a_j + f'l_j)), f ~ N(0, I), by alternating Newton
    steps from principal components."""
    factors = components(x, exposure, rows, p, seed)
    design = np.c_[np.ones(len(rows)), factors[rows]]
    loadings = np.zeros((p.known + 1, x.shape[1]))
    for _ in range(10):
        loadings = _newton(design, x[rows], loadings, 1e-3)
        new = _newton(loadings[1:].T, x[rows].T, design[:, 1:].T, 1.0, loadings[0][:, None])
        design[:, 1:] = new.T
    found = factors.T
    for _ in range(10):
        found = _newton(loadings[1:].T, x.T, found, 1.0, loadings[0][:, None])
    return found.T


def _newton(
    design: Floats, counts: Floats, weights: Floats, ridge: float, offset: Any = 0.0
) -> Floats:
    """One Newton step of many logistic regressions of counts of 2, (n, J), on a design (n, q)."""
    share = special.expit(offset + design @ weights)
    gradient = design.T @ (counts - 2 * share) - ridge * weights
    hessian = np.einsum("nq,nj,nr->jqr", design, 2 * share * (1 - share), design, optimize=True)
    hessian += ridge * np.eye(design.shape[1])
    return weights + np.linalg.solve(hessian, gradient.T[..., None])[..., 0].T


def manifold(noise: float) -> Front:
    """The code of an autoencoder that starts at principal components, trained by reconstruction on
    instruments with added noise: the first phase of an injective flow (Brehmer and Cranmer 2020,
    *Flows for simultaneous manifold learning and density estimation*)."""

    def code(x: Floats, _exposure: np.ndarray, rows: np.ndarray, p: Sizes, seed: int) -> Floats:
        generator = torch.Generator().manual_seed(seed)
        front = fit_front_end(Moments.from_block(x[rows]), p.known)
        scale = x[rows].std(0)
        into = torch.tensor(front.projection * scale[:, None]).float()
        standard = torch.tensor((x - front.origin) / scale).float()[None]
        back = torch.linalg.pinv(into)
        widths = (x.shape[1], 64, 64, p.known)
        encoder, decoder = Perceptron(1, widths, generator), Perceptron(1, widths[::-1], generator)
        for net in (encoder, decoder):
            nn.init.zeros_(net.weights[-1])
            nn.init.zeros_(net.biases[-1])
        optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1000)
        train = standard[:, rows]
        for _ in range(1000):
            batch = train[:, torch.randint(len(rows), (256,), generator=generator)]
            seen = batch + noise * torch.randn(batch.shape, generator=generator)
            z = seen @ into + encoder(seen)
            loss = (z @ back + decoder(z) - batch).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            return (standard @ into + encoder(standard))[0].double().numpy()

    return code


GENOTYPE_FRONTS: dict[str, Front] = {
    "components, by the rule": by_rule,
    "components, p known": components,
    "components and a first-stage score": guided,
    "binomial factors, p known": binomial,
}
FEATURE_FRONTS: dict[str, Front] = {
    "components, by the rule": by_rule,
    "components, p known": components,
    "autoencoder, p known": manifold(0.0),
    "denoising autoencoder, p known": manifold(0.2),
}
DESIGNS: dict[str, tuple[dict[str, Any], dict[str, Front]]] = {
    "factor": ({"mixing": "factor"}, GENOTYPE_FRONTS),
    "mendelian": ({"mixing": "mendelian"}, GENOTYPE_FRONTS),
    "mendelian, linked": ({"mixing": "mendelian", "linkage": 0.8}, GENOTYPE_FRONTS),
    **{
        f"{mixing}, 8 features": ({"mixing": mixing, "num_features": 8}, FEATURE_FRONTS)
        for mixing in ("mlp", "fold", "maxpool", "dropout")
    },
}


INTRODUCTION = """## Front ends

`python tests/calibration/designs/fronts.py`; data sets of 10,000 people per design: {sets};
{hours:.1f} core-hours. Flow with controls, one restart, true latent dimension, 4 blocks, one pair
of traits per data set, true effect 1. Monte Carlo errors of the bias in brackets, where there are
several data sets. Rival: RMSE of 2SLS adjusted for environments.
"""


def measure(case: Case, front: Front) -> dict[str, float]:
    """One data set behind one front end: flow with controls, one pair of traits."""
    began = time.process_time()
    data = case.draw()
    cohort = case.cohort(data, *redraw_traits(data, num_redraws=1))
    starts, inputs = _prepared(case, data, cohort, front)
    environment = cohort.array("environment")
    blocks = [
        TrainingBlock(s, environment[s.rows], held_out(cohort.array("family")[s.rows], case.seed))
        for s in starts
    ]
    dim = min(case.latent_dim, starts[0].front.num_factors - 1)
    trained = learn("flow", blocks, [dim], Effort(1), seed=case.seed, device="cpu")
    encoders = [
        trained.encoder(s, dim, start, {"invariant": start.invariant})
        for s, start in enumerate(starts)
    ]
    latents = Latents.unfilled({"flow": encoders}, cohort.num_samples, {})
    recovered = []
    for s, (encoder, given) in enumerate(zip(encoders, inputs, strict=True)):
        latent, remainder = encoder.encode(given, environment)
        unseen = cohort.array("fold") != s
        latents.arrays["flow_latent"][s, unseen] = latent[unseen]
        latents.arrays["flow_remainder"][s, unseen] = remainder[unseen]
        recovered.append(recovery(latent[unseen].astype(float), data.isel(samples=unseen)))
    checks = check_latents(None, cohort, latents, {"flow": encoders}, case.seed)
    oracle = data["z_exogenous"].to_numpy()
    fits = fit_pair(None, PairData(cohort, fill_of(cohort), False, 0, 0, latents, oracle), checks)
    by_key = {estimate.key: estimate.estimate - data.attrs["effect"] for estimate in fits.estimates}
    return {
        "factors": float(starts[0].front.num_factors),
        "own": float(np.mean(recovered, axis=0)[0]),
        "other": float(np.mean(recovered, axis=0)[1]),
        "first_stage_f": fits.learned[0].first_stage_f,
        "error": by_key["flow_controls"],
        "rival": by_key["tsls_pc"],
        "green": float(judge(fits.learned).trust == "green"),
        "seconds": time.process_time() - began,
    }


def _prepared(
    case: Case, data: Any, cohort: ArrayCohort, front: Front
) -> tuple[list[Prepared], list[Floats]]:
    """The start of every block behind its own front end, and everybody's inputs to it."""
    x = cohort.expected_dosage(slice(None)).astype(float)
    environment, fold = cohort.array("environment"), cohort.array("fold")
    blocks = [np.flatnonzero(fold == block) for block in range(int(fold.max()) + 1)]
    by_block = [fit_front_end(Moments.from_block(x[rows])).num_factors for rows in blocks]
    sizes = Sizes(case.latent_dim + data.sizes["confounded"], sorted(by_block)[len(blocks) // 2])
    exposure = cohort.array("exposure")[:, 0]
    starts, inputs = [], []
    for block, rows in enumerate(blocks):
        given = front(x, exposure, rows, sizes, case.seed)
        whiten = fit_front_end(Moments.from_block(given[rows]), given.shape[1])
        scores, codes = whiten.scores(given[rows]), environment[rows]
        subspace = stationary_subspace([Moments.from_block(scores[codes == e]) for e in set(codes)])
        invariant = count_invariant(scores, codes, np.random.default_rng([case.seed, block]))
        fill = np.zeros((int(environment.max()) + 1, given.shape[1]))
        starts.append(Prepared(whiten, fill, subspace, rows, scores.astype(np.float32), invariant))
        inputs.append(given)
    return starts, inputs


def report(runs: pd.DataFrame) -> str:
    """The table, and how it was made."""
    sets, hours = runs["seed"].nunique(), runs["seconds"].sum() / 3600
    names = ["design", "front end", "factors", "R2 of z_I", "R2 of z_C", "F", "bias", "RMSE"]
    names += ["rival", "green"]
    lines = [
        INTRODUCTION.format(sets=sets, hours=hours),
        f"| {' | '.join(names)} |",
        "|" + "---|" * len(names),
    ]
    for (design, front), group in runs.groupby(["design", "front"], sort=False):
        bias = f"{group['error'].mean():.3f}"
        if len(group) > 1:
            bias += f" ({group['error'].std() / len(group) ** 0.5:.3f})"
        rmse, rival = ((group[name] ** 2).mean() ** 0.5 for name in ("error", "rival"))
        middle = group[["factors", "own", "other", "first_stage_f"]].median()
        lines.append(
            f"| {design} | {front} | {middle['factors']:.0f} | {middle['own']:.2f} | "
            f"{max(middle['other'], 0):.2f} | {middle['first_stage_f']:.0f} | {bias} | "
            f"{rmse:.3f} | {rival:.3f} | {100 * group['green'].mean():.0f} % |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("run/fronts"))
    parser.add_argument("--seeds", nargs=2, type=int, default=(42, 46), metavar=("FIRST", "END"))
    parser.add_argument("--page", type=Path, help="where the table is written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(*options.seeds):
        for name, (design, fronts) in DESIGNS.items():
            for number, (front, function) in enumerate(fronts.items()):
                path = options.work / f"{name.replace(' ', '_')}-{number}-{seed}.json"
                if not path.exists():
                    path.write_text(json.dumps(measure(Case(name, design, seed), function)))
                found = json.loads(path.read_text())
                rows.append({"design": name, "front": front, "seed": seed, **found})
    text = report(pd.DataFrame(rows).sort_values(["design", "front"], kind="stable"))
    if options.page:
        insert(options.page, "front ends", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
