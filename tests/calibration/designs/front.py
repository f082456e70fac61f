"""Front ends compared: the same encoders behind each, on the same data sets.

A front end is fitted on the people of a block, who also train the encoder, and is applied to
everybody; the encoder is judged and used on people of other blocks.

Legend: N people, M instruments, S blocks, p inputs of the encoder, R pairs of traits.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from estimating import JUDGED, r2
from grid import Case
from threadpoolctl import threadpool_limits
from writing import clustered, insert, markdown, number, percent

from mrscale.simulate.designs import redraw_traits
from mrscale.stats.moments import Floats, Moments
from mrscale.stats.subspace import count_invariant, fit_front_end, stationary_subspace
from mrscale.train.encoder import Prepared, finish
from mrscale.train.learn import Effort, TrainingBlock, learn
from mrscale.workflow.checks import check_latents
from mrscale.workflow.cohorts import ArrayCohort, fill_of
from mrscale.workflow.designs import PairData
from mrscale.workflow.judgement import judge
from mrscale.workflow.latents import Encoders, Latents
from mrscale.workflow.learning import training_blocks
from mrscale.workflow.pair import PairFits, fit_pair

EFFORT = Effort(restarts=1)
REDRAWS = 2
RIVALS = {"tsls": "naive", "tsls_pc": "adjusted", "oracle": "oracle"}
METHODS = ("linear", "flow")


@dataclass(frozen=True, eq=False)
class People:
    """What a front end may see.

    Attributes
    ----------
    x : ndarray, shape (N, M)
    exposure : ndarray, shape (N,)
    rows : list of S ndarray
        Who is in each block.
    by_rule : int
        Principal components that the library would keep, the same in all blocks.
    latents : int
        True number of latents, exogenous and confounded.
    seed : int
    """

    x: Floats
    exposure: Floats
    rows: list[np.ndarray]
    by_rule: int
    latents: int
    seed: int


@dataclass(frozen=True)
class Front:
    """A front end: its name in tables, inputs (N, p) per block, and whether it sees the exposure,
    so that it has to be fitted again for every pair of traits."""

    name: str
    inputs: Callable[[People], list[Floats]]
    guided: bool = False


def components(people: People, number: int) -> list[Floats]:
    """Whitened principal components of every block, for everybody."""
    x = people.x
    return [fit_front_end(Moments.from_block(x[r]), number).scores(x) for r in people.rows]


PCA_BY_RULE = Front("PCA, p by the rule", lambda people: components(people, people.by_rule))


def measure(case: Case, fronts: Sequence[Front], num_components: int) -> dict[str, Any]:
    """One data set behind all front ends.

    Parameters
    ----------
    case : Case
    fronts : sequence of Front
    num_components : int
        Principal components of everybody that the adjusted 2SLS has as covariates.
    """
    began = time.process_time()
    data = case.draw()
    cohort = _with_components(case.cohort(data, *redraw_traits(data, 0, REDRAWS)), num_components)
    tasks = []
    for front in fronts:
        for redraws in [[r] for r in range(REDRAWS)] if front.guided else [list(range(REDRAWS))]:
            given = front.inputs(_people(case, data, cohort, redraws[0]))
            tasks.append((front, redraws, given, _starts(case, cohort, given)))
    trained = _train(case, cohort, [starts for *_, starts in tasks])
    rows = [
        row
        for (front, redraws, given, _), encoders in zip(tasks, trained, strict=True)
        for row in _estimates(case, data, cohort, front.name, redraws, given, encoders)
    ]
    return {"rows": rows, "seconds": time.process_time() - began}


def _with_components(cohort: ArrayCohort, number: int) -> ArrayCohort:
    if not number:
        return cohort
    x = cohort.instruments
    scores = fit_front_end(Moments.from_block(x), number).scores(x)
    names = [f"PC{i + 1}" for i in range(number)]
    arrays, named = cohort.arrays | {"covariate": scores}, cohort.named | {"covariates": names}
    return replace(cohort, arrays=arrays, named=named)


def _people(case: Case, data: xr.Dataset, cohort: ArrayCohort, redraw: int) -> People:
    x, fold = cohort.instruments, cohort.arrays["fold"]
    rows = [np.flatnonzero(fold == s) for s in range(int(fold.max()) + 1)]
    found = sorted(fit_front_end(Moments.from_block(x[r])).num_factors for r in rows)
    dims = case.latent_dim + data.sizes["confounded"]
    exposure = cohort.arrays["exposure"][:, redraw]
    return People(x, exposure, rows, found[len(found) // 2], dims, case.seed)


def _starts(case: Case, cohort: ArrayCohort, given: list[Floats]) -> list[Prepared]:
    """Whitening and linear start of every block, from its inputs as if they were instruments."""
    environment, fold = cohort.arrays["environment"], cohort.arrays["fold"]
    found = []
    for s, inputs in enumerate(given):
        rows = np.flatnonzero(fold == s)
        whiten = fit_front_end(Moments.from_block(inputs[rows]), inputs.shape[1])
        scores, codes = whiten.scores(inputs[rows]), environment[rows]
        places = range(len(cohort.named["environments"]))
        subspace = stationary_subspace([Moments.from_block(scores[codes == e]) for e in places])
        invariant = count_invariant(scores, codes, np.random.default_rng([case.seed, s]))
        fill = np.zeros((len(places), inputs.shape[1]))
        found.append(Prepared(whiten, fill, subspace, rows, scores.astype(np.float32), invariant))
    return found


def _train(case: Case, cohort: ArrayCohort, tasks: list[list[Prepared]]) -> list[Encoders]:
    """Linear and flow encoders of all tasks; flows of as many inputs side by side."""
    found: list[Encoders] = [{method: [] for method in METHODS} for _ in tasks]
    sizes = [starts[0].front.num_factors for starts in tasks]
    for p in sorted(set(sizes)):
        dim = min(case.latent_dim, p - 1)
        chosen = [i for i, size in enumerate(sizes) if size == p]
        together: list[tuple[int, TrainingBlock]] = [
            (i, block) for i in chosen for block in training_blocks(cohort, tasks[i], case.seed)
        ]
        blocks = [block for _, block in together]
        flows = learn("flow", blocks, [dim], EFFORT, seed=case.seed, device="cpu")
        for index, (i, block) in enumerate(together):
            story = {"invariant": block.start.invariant}
            found[i]["linear"].append(finish("linear", dim, block.start, None, story))
            found[i]["flow"].append(flows.encoder(index, dim, block.start, story))
    return found


def _encode(cohort: ArrayCohort, given: list[Floats], encoders: Encoders) -> Latents:
    """Latents of everybody whom an encoder has not seen."""
    latents = Latents.unfilled(encoders, cohort.num_samples, {})
    environment, fold = cohort.arrays["environment"], cohort.arrays["fold"]
    for method, trained in encoders.items():
        for s, (encoder, inputs) in enumerate(zip(trained, given, strict=True)):
            latent, remainder = encoder.encode(inputs, environment)
            latents.arrays[f"{method}_latent"][s, fold != s] = latent[fold != s]
            latents.arrays[f"{method}_remainder"][s, fold != s] = remainder[fold != s]
    return latents


def _estimates(
    case: Case,
    data: xr.Dataset,
    cohort: ArrayCohort,
    front: str,
    redraws: Sequence[int],
    given: list[Floats],
    encoders: Encoders,
) -> Iterator[dict[str, Any]]:
    """A row per pair of traits and estimator; rivals have no front end."""
    latents = _encode(cohort, given, encoders)
    recovered = {method: _recovery(data, cohort, latents, method) for method in METHODS}
    checks = check_latents(None, cohort, latents, encoders, case.seed)
    truth = data["z_exogenous"].to_numpy()
    for r in redraws:
        pair = PairData(cohort, fill_of(cohort), False, r, r, latents, truth)
        fits = fit_pair(None, pair, checks)
        about = {"name": case.name, "seed": case.seed, "redraw": r}
        for key, rival in RIVALS.items():
            yield {**about, "front": rival, "method": "", **_figures(fits, key, data)}
        for one in fits.learned:
            method = one.check.method
            own, other = recovered[method]
            yield {
                **about,
                "front": front,
                "method": method,
                **_figures(fits, f"{method}_controls", data),
                "factors": given[0].shape[1],
                "r2_own": own,
                "r2_other": other,
                "trust": judge([one]).trust,
            }


def _recovery(
    data: xr.Dataset, cohort: ArrayCohort, latents: Latents, method: str
) -> tuple[float, float]:
    """R2 of the true z_I and z_C given the latent, the mean over encoders."""
    fold, found = cohort.arrays["fold"], []
    for s, (latent, _) in enumerate(latents.of(method, slice(None))):
        rows = np.flatnonzero(fold != s)[:JUDGED]
        truths = (data[name].to_numpy()[rows] for name in ("z_exogenous", "z_confounded"))
        found.append([r2(latent[rows], truth) for truth in truths])
    own, other = np.mean(found, axis=0)
    return float(own), float(other)


def _figures(fits: PairFits, key: str, data: xr.Dataset) -> dict[str, float]:
    one, effect = next(e for e in fits.estimates if e.key == key), data.attrs["effect"]
    return {
        "error": one.estimate - effect,
        "covered": float(one.ci_lower <= effect <= one.ci_upper),
        "first_stage_f": one.first_stage_f,
    }


@dataclass(frozen=True)
class Comparison:
    """A script: what it compares, and the section of the page it writes.

    Attributes
    ----------
    part : str
        Marks the section.
    designs : dict of str to (dict, sequence of Front)
        Arguments of :func:`mrscale.simulate.designs.simulate_latent`, and what is compared.
    num_components : int
        As for :func:`measure`.
    introduction : str
        With ``{sets}``, ``{machine}`` and ``{hours}``.
    conclusion : str
    """

    part: str
    designs: dict[str, tuple[dict[str, Any], Sequence[Front]]]
    num_components: int
    introduction: str
    conclusion: str

    def main(self) -> None:
        """Measure what is not there yet, and show or write the section."""
        parser = argparse.ArgumentParser(description=self.part)
        parser.add_argument("--work", type=Path, required=True, help="keeps finished data sets")
        parser.add_argument("--seeds", nargs=2, type=int, default=(42, 47), metavar=("FROM", "END"))
        parser.add_argument("--write", type=Path, help="page for the section")
        options = parser.parse_args()
        torch.set_num_threads(1)
        options.work.mkdir(parents=True, exist_ok=True)
        cases = [
            Case(name, design, seed)
            for seed in range(*options.seeds)
            for name, (design, _) in self.designs.items()
        ]
        with threadpool_limits(1):
            text = self.report([self._measured(case, options.work) for case in cases])
        print(text)
        if options.write:
            insert(options.write, self.part, text)

    def _measured(self, case: Case, work: Path) -> dict[str, Any]:
        path = work / f"{case.key}.json"
        if not path.exists():
            partial = path.with_suffix(".partial")
            found = measure(case, self.designs[case.name][1], self.num_components)
            partial.write_text(json.dumps(found))
            partial.rename(path)
        return json.loads(path.read_text())

    def report(self, found: list[dict[str, Any]]) -> str:
        """The section in Markdown."""
        runs = pd.DataFrame([row for one in found for row in one["rows"]])
        runs = runs.drop_duplicates(["name", "seed", "redraw", "front", "method"])
        introduction = self.introduction.format(
            sets=runs["seed"].nunique(),
            machine=f"{platform.machine()}, {os.cpu_count()} cores, {date.today()}",
            hours=sum(one["seconds"] for one in found) / 3600,
        )
        lines = (
            line
            for name, (_, fronts) in self.designs.items()
            for line in _lines(runs[runs["name"] == name], name, fronts)
        )
        table = markdown(COLUMNS, list(lines))
        return f"{introduction}\n\n{table}\n\n{self.conclusion}\n"


COLUMNS = ["design", "front end", "encoder", "p", "R2 of z_I", "R2 of z_C"]
COLUMNS += ["F", "bias", "RMSE", "covered", "green"]


def _lines(runs: pd.DataFrame, name: str, fronts: Sequence[Front]) -> Iterator[list[str]]:
    """A line per rival, then one per front end and encoder, of one design."""
    for front in [*RIVALS.values(), *(front.name for front in fronts)]:
        for method in ("", *METHODS):
            group = runs[(runs["front"] == front) & (runs["method"] == method)]
            if len(group):
                yield [name, front, method, *_cells(group, bool(method))]


def _cells(group: pd.DataFrame, learned: bool) -> list[str]:
    middle = group[["factors", "r2_own", "r2_other", "first_stage_f"]].median()
    green = clustered(group.assign(green=(group["trust"] == "green").astype(float)), "green")
    return [
        f"{middle['factors']:.0f}" if learned else "",
        f"{max(middle['r2_own'], 0):.2f}" if learned else "",
        f"{max(middle['r2_other'], 0):.2f}" if learned else "",
        f"{middle['first_stage_f']:.0f}",
        number(*clustered(group, "error")),
        f"{(group['error'] ** 2).mean() ** 0.5:.3f}",
        percent(*clustered(group, "covered")),
        percent(*green) if learned else "",
    ]
