"""Tables for people from what was measured."""

from __future__ import annotations

import math
import os
import platform
import runpy
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from grid import MIXINGS, VIOLATIONS, grids
from results import load

insert = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "page.py"))["insert"]

PART = "designs"
FAR = 0.2
"""Absolute error, as a share of the bias of naive 2SLS, that a green estimate should not have."""
RIVALS = {
    "ols": "OLS",
    "tsls": "naive 2SLS",
    "tsls_pc": "environments",
    "linear_controls": "linear",
    "flow_controls": "flow",
    "oracle": "oracle",
}
Rows = list[list[str]]


def write(work: Path, page: Path | None) -> None:
    """Write the tables of all grids into the page, or show them."""
    found = {name: load(work / name, grid.cases) for name, grid in grids().items()}
    text = "\n\n".join(_sections({name: pair for name, pair in found.items() if len(pair[0])}))
    if page:
        insert(page, PART, text + "\n")
    else:
        print(text)


def _sections(found: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Iterable[str]:
    everything = pd.concat([table for table, _ in found.values()])
    once = everything.drop_duplicates(["name", "seed", "seconds"])
    gpu = "a GPU" if torch.cuda.is_available() else "no GPU"
    yield INTRODUCTION.format(
        hours=once["seconds"].sum() / 3600,
        sets=len(once),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {gpu}, {date.today()}",
    )
    table, said = found["table"]
    yield ONE_FACTOR + markdown(
        ["design", "sets", *FIGURES, "green"], _by_design(table, said, "flow_controls")
    )
    yield BESIDE + markdown(["design", *RIVALS.values()], _beside(table))
    yield SIZES + markdown(
        ["mixing", "people", "sets", "RMSE", "RMSE, oracle", "excess"], _by_size(table)
    )
    if "kernel" in found:
        kernel, verdicts = found["kernel"]
        yield KERNEL + markdown(
            ["design", "sets", *FIGURES], _by_design(kernel, verdicts, "kernel_controls")
        )
    if "choice" in found:
        yield CHOICE + markdown(
            ["design", "sets", "d chosen (times)", "green", *HEADLINE], _choice(*found["choice"])
        )
    yield TRUST + markdown(
        ["which fits", "fits", "green", "green and far", "error of green, 99 %"], _trust(found)
    )
    if "blocks" in found:
        yield BLOCKS + markdown(
            ["design", "sets", *FIGURES, "green"],
            _by_design(*found["blocks"], "flow_controls"),
        )
    yield BARS + "\n".join(f"- {line}" for line in _bars(found))


FIGURES = [
    "R2 of z_I",
    "R2 of z_C",
    "F",
    "bias",
    "sd, data",
    "sd, traits",
    "error",
    "q90",
    "covered",
]
HEADLINE = ["error", "q90", "covered"]


def _by_design(table: pd.DataFrame, said: pd.DataFrame, key: str) -> Rows:
    green = said.assign(green=said["trust"] == "green").groupby("name")["green"].mean()
    rows = []
    for name, group in table[table["key"] == key].groupby("name", sort=False):
        row = [name, str(group["seed"].nunique()), *_figures(group)]
        rows.append(row + ([percent(green[name])] if key == "flow_controls" else []))
    width = len(FIGURES) + 2 + (key == "flow_controls")
    return [row[:width] for row in rows]


def _figures(group: pd.DataFrame) -> list[str]:
    data = group.groupby("seed").agg(
        r2_own=("r2_own", "first"),
        r2_other=("r2_other", "first"),
        bias=("error", "mean"),
        spread=("error", "var"),
        redraws=("error", "size"),
    )
    within = data["spread"].mean()
    between = np.maximum(data["bias"].var() - within / data["redraws"].mean(), 0)
    return [
        f"{data['r2_own'].median():.3f}",
        f"{max(data['r2_other'].median(), 0):.3f}",
        f"{group['first_stage_f'].median():.0f}",
        number(*clustered(group, "error")),
        "" if math.isnan(between) else f"{math.sqrt(between):.3f}",
        f"{math.sqrt(within):.3f}",
        *_headline(group),
    ]


def _headline(group: pd.DataFrame) -> list[str]:
    share = group["share"]
    covered = clustered(group, "covered")
    return [f"{share.median():.3f}", f"{share.quantile(0.9):.3f}", percent(*covered)]


def _beside(table: pd.DataFrame) -> Rows:
    small = table[table["people"] == 10_000]
    rows = []
    for name, group in small.groupby("name", sort=False):
        cells = [group[group["key"] == key] for key in RIVALS]
        rows.append([name, *(number(*clustered(cell, "error")) for cell in cells)])
    return rows


def _by_size(table: pd.DataFrame) -> Rows:
    rows = []
    for mixing in MIXINGS:
        for people, group in table[table["name"].str.split().str[0] == mixing].groupby("people"):
            flow, oracle = (_rmse(group, key) for key in ("flow_controls", "oracle"))
            excess = math.sqrt(max(flow**2 - oracle**2, 0))
            sets = str(group["seed"].nunique())
            figures = (f"{value:.4f}" for value in (flow, oracle, excess))
            rows.append([mixing, f"{people:,}", sets, *figures])
    return rows


def _rmse(table: pd.DataFrame, key: str) -> float:
    return math.sqrt((table.loc[table["key"] == key, "error"] ** 2).mean())


def _choice(table: pd.DataFrame, said: pd.DataFrame) -> Rows:
    rows = []
    for name, group in said.groupby("name", sort=False):
        once = table[table["name"] == name].drop_duplicates("seed")
        dims = once["latent_dim"].value_counts().sort_index()
        chosen = ", ".join(f"{dim} ({times})" for dim, times in dims.items())
        green = percent((group["trust"] == "green").mean())
        rows.append([name, str(len(once)), chosen, green, *_headline(group)])
    return rows


def _trust(found: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Rows:
    def line(title: str, said: pd.DataFrame) -> list[str]:
        green = said[said["trust"] == "green"]
        far = percent((green["share"] > FAR).mean()) if len(green) else ""
        worst = f"{green['share'].quantile(0.99):.2f}" if len(green) else ""
        return [title, str(len(said)), percent(*green_share(said)), far, worst]

    rows = []
    for title, name in (("rule fitted", "rule"), ("validated", "table"), ("d chosen", "choice")):
        if name in found:
            said = found[name][1]
            groups: list[tuple[str, Callable[[pd.DataFrame], pd.Series]]] = [
                ("identified, F > 30", lambda s: s["identified"] & (s["first_stage_f"] > 30)),
                ("E = 2", lambda s: s["name"] == "E 2"),
                ("Mendelian", lambda s: s["name"] == "mendelian"),
                ("too few environments", lambda s: s["name"].isin(["E 3", "dims 2+4"])),
                ("not invertible", lambda s: s["name"].isin(["fold", "maxpool", "dropout"])),
                *((v, lambda s, v=v: s["name"] == v) for v in VIOLATIONS),
            ]
            for group, chosen in groups:
                some = said[chosen(said)]
                if len(some):
                    rows.append(line(f"{title}: {group}", some))
    return rows


def _bars(found: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Iterable[str]:
    table, said = found["table"]
    flow = table[table["identified"] & (table["key"] == "flow_controls")]
    at_20k = flow[flow["people"] == 20_000]
    if len(at_20k):
        yield _recovery("flow with controls, n = 20,000", at_20k, (0.97, 0.03, 0.06, 0.15))
    if "kernel" in found:
        kernel = found["kernel"][0]
        kernel = kernel[kernel["key"] == "kernel_controls"]
        yield _recovery("kernel with controls, n = 20,000", kernel, (0.85, None, 0.1, 0.3))
    small = table[(table["key"] == "linear_controls") & (table["name"] == "linear")]
    worst = small["r2_own"].min()
    yield verdict(worst >= 0.99, f"linear encoder on linear mixing, R2 of z_I {worst:.4f} >= 0.99")
    headline = said[said["identified"]]
    share, error = clustered(headline, "covered")
    ok = 0.92 <= share <= 0.97
    yield verdict(
        ok,
        f"headline intervals of identified designs cover {percent(share, error)}, in 92 to 97 %",
    )
    for mixing in MIXINGS:
        one = headline[headline["name"].str.split().str[0] == mixing]
        share, error = clustered(one, "covered")
        yield verdict(share + 2 * error >= 0.9, f"{mixing}: {percent(share, error)}, reaches 90 %")
    strong = headline[headline["first_stage_f"] > 30]
    share, _ = green_share(strong)
    yield verdict(
        share >= 0.5, f"green in {percent(share)} of identified fits with F > 30, at least half"
    )
    green = said[said["identified"] & (said["trust"] == "green")]
    far = (green["share"] > FAR).mean()
    yield verdict(
        far <= 0.02,
        f"{percent(far)} of those green are off by more than {FAR} of the naive bias, at most 2 %",
    )
    for name in ("E 2", "mendelian"):
        share, _ = green_share(said[said["name"] == name])
        yield verdict(share <= 0.05, f"{name}: green in {percent(share)}, at most 5 %")


def _recovery(
    title: str, group: pd.DataFrame, bars: tuple[float, float | None, float, float]
) -> str:
    data = group.drop_duplicates(["name", "seed"])
    own, other = data["r2_own"].median(), data["r2_other"].median()
    median, high = group["share"].median(), group["share"].quantile(0.9)
    ok = own >= bars[0] and median <= bars[2] and high <= bars[3]
    limits = f"at least {bars[0]}"
    text = f"{title}: median R2 of z_I {own:.3f} ({limits}), of z_C {max(other, 0):.3f}"
    if bars[1] is not None:
        ok = ok and other <= bars[1]
        text += f" (at most {bars[1]})"
    return verdict(
        ok,
        f"{text}; error {median:.3f} in the median (at most {bars[2]}), {high:.3f} at the 90th "
        f"percentile (at most {bars[3]}) of the naive bias",
    )


def clustered(group: pd.DataFrame, column: str) -> tuple[float, float]:
    """Mean and its Monte Carlo error; redraws of one data set are not independent."""
    means = group.groupby(["name", "seed"])[column].mean()
    error = means.std() / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return float(group[column].mean()), float(error)


def green_share(said: pd.DataFrame) -> tuple[float, float]:
    """Share of green, and its Monte Carlo error."""
    return clustered(said.assign(green=(said["trust"] == "green").astype(float)), "green")


def number(value: float, error: float = math.nan) -> str:
    """With its Monte Carlo error in brackets."""
    return f"{value:.3f}" + ("" if math.isnan(error) else f" ({error:.3f})")


def percent(share: float, error: float = math.nan) -> str:
    """The same for a share, in per cent."""
    if math.isnan(share):
        return ""
    return f"{100 * share:.1f} %" + ("" if math.isnan(error) else f" ({100 * error:.1f})")


def verdict(met: bool | np.bool_, text: str) -> str:
    """A bar, and whether it was met."""
    return f"{'met' if met else '**not met**'}: {text}"


def markdown(names: Sequence[str], rows: Rows) -> str:
    """A table."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


INTRODUCTION = """## Learned instruments on simulated designs

`python tests/calibration/designs train --grid G` and `estimate --grid G` for every grid, then
`write --page docs/calibration.md` (`make calibrate`, which goes on with what is in `run/`); {sets}
data sets, {hours:.1f} core-hours ({machine}). Designs start from `mlp` mixing, 5 environments, 2 +
2 latents (exogenous + confounded), 10,000 people, 4 blocks, two restarts of flows, true effect 1,
and vary one factor; `mr.simulate_latent` says what each is. Seeds 42 to 61 unless fewer sets are
shown; settings and the rule of trust were chosen on seeds from 142 on, with one restart. Encoders
see instruments and environments only, so six pairs of traits are drawn for each data set. The
random starts of an encoder depend on what is trained beside it, so that a run that was interrupted
gives other encoders of the same kind. Monte Carlo errors in brackets; they treat data sets, not
redraws, as independent."""
ONE_FACTOR = """### Flow with controls, one factor at a time

The true latent dimension is given. R2: of the true latents given the learned one, the median over
data sets, in people that did not train the encoder. sd, data: of the error over data sets and
their encoders; sd, traits: over traits of one data set. error, q90: median and 90th percentile of
the absolute error as a share of the bias of naive 2SLS. covered: nominal 95 % intervals. green:
share of fits, by the rule of `mr.learned_iv` with linear and flow encoders.

"""
BESIDE = """### Bias beside rivals

Mean error, 10,000 people; linear and flow with controls.

"""
SIZES = """### More people

excess: root of the difference of mean squared errors, what the encoder adds to the oracle (2SLS on
the true latent, adjusted for nothing: controls can make the learned estimate the more precise
one).

"""
KERNEL = """### Kernel encoder with controls, 20,000 people

"""
CHOICE = """### With the latent dimension chosen, as users have it

Error, q90 and coverage are of the headline, whichever it is.

"""
TRUST = """### Trust

Far: an error of more than 0.2 of the bias of naive 2SLS. What nothing in the data can show is
listed too: an unmoved confounder, a latent that shifts, a latent that depends on the confounder.

"""
BLOCKS = """### How many blocks

Seeds 142 on, flow with controls; S is the number of blocks.

"""
BARS = """### Bars

"""
