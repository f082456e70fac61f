"""Bias, spread and coverage of every estimator over simulated biobanks, written as a table.

    python tests/calibration/learned_bias.py --seeds 10 --write docs/calibration.md

Each seed is one `mrscale demo`: 20,000 people, 200 variants, 5 environments, true effect 0.5.
Finished seeds in the work folder are reused, so that an interrupted calibration continues.
"""

from __future__ import annotations

import argparse
import math
import runpy
from pathlib import Path

import pandas as pd

from mrscale.report import load_result
from mrscale.simulate import simulate
from mrscale.study_file import load_study
from mrscale.workflow.study import run

insert = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "page.py"))["insert"]

HEADER = """# Calibration of the learned estimate

Made by `make calibrate` (`tests/calibration/learned_bias.py`), {seeds} seeds of the demo: the
`factor` model with 20,000 people, 200 variants, 5 environments; true effect {truth}. Bias is
estimate minus truth; its Monte Carlo error is sd / sqrt({seeds}). "Covered" counts nominal 95 %
intervals that contain the truth; with {seeds} replicates a share has a Monte Carlo error of up
to {share:.2f}.

{table}

{verdict}
"""


def one_seed(folder: Path, seed: int) -> pd.DataFrame:
    """Estimates of one simulated biobank, with the headline repeated under its own key."""
    simulate(folder, seed=seed)
    study = load_study(folder / "study.toml")
    finished = Path(study.run) / "result.json"
    result = load_result(finished) if finished.exists() else run(study)
    (pair,) = result.pairs
    table = pair.to_dataframe()
    headline = table[table["headline"]].assign(key="headline", label="Headline, whichever it is")
    return pd.concat([table, headline]).assign(seed=seed, truth=pair.truth, trust=pair.trust)


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per estimator."""
    runs = runs.assign(
        error=runs["estimate"] - runs["truth"],
        covered=(runs["ci_lower"] <= runs["truth"]) & (runs["truth"] <= runs["ci_upper"]),
    )
    groups = runs.groupby(["key", "label"], sort=False)
    table = groups.agg(
        bias=("error", "mean"),
        sd=("error", "std"),
        rmse=("error", lambda e: math.sqrt((e**2).mean())),
        largest=("error", lambda e: e.abs().max()),
        mean_se=("std_error", "mean"),
        covered=("covered", "sum"),
        runs=("error", "size"),
    ).reset_index()
    return table.assign(mc_error=table["sd"] / table["runs"] ** 0.5)


def markdown(table: pd.DataFrame) -> str:
    """The summary as a Markdown table."""
    lines = [
        "| estimator | mean bias | Monte Carlo error | sd | RMSE | largest error | mean SE "
        "| covered |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        numbers = (row.bias, row.mc_error, row.sd, row.rmse, row.largest, row.mean_se)
        cells = " | ".join(f"{value:.4f}" for value in numbers)
        lines.append(f"| {row.label} | {cells} | {row.covered} of {row.runs} |")
    return "\n".join(lines)


def verdict(table: pd.DataFrame) -> str:
    """Whether each learned estimate's bias is within two Monte Carlo errors of zero."""
    sentences = []
    learned = ["linear_controls", "flow_controls", "headline"]
    for row in table[table["key"].isin(learned)].itertuples():
        ratio = abs(row.bias) / row.mc_error
        word = "within" if ratio <= 2 else "NOT within"
        sentences.append(
            f"- {row.label}: bias {row.bias:+.4f} is {ratio:.1f} Monte Carlo errors from zero, "
            f"{word} two."
        )
    return "\n".join(sentences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--work", type=Path, default=Path("run/calibration"))
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    runs = pd.concat([one_seed(options.work / f"seed-{s}", s) for s in range(options.seeds)])
    table = summarise(runs)
    text = HEADER.format(
        seeds=options.seeds,
        truth=runs["truth"].iloc[0],
        share=0.5 / options.seeds**0.5,
        table=markdown(table),
        verdict=verdict(table),
    )
    print(text)
    if options.write:
        insert(options.write, "learned estimate", text)


if __name__ == "__main__":
    main()
