"""The paper's experiments, and their page.

    python tests/calibration/experiments.py [simulation coalescent genotypes] [--sets 20]
        [--folder experiments-run] [--write docs/experiments.md]

Runs ``mrscale experiment simulation`` and ``semi-synthetic``, on the genotypes of a file too where
one is given, goes on where it was interrupted, and writes tables and figures.
"""

from __future__ import annotations

import argparse
import math
import runpy
import shutil
from pathlib import Path

import pandas as pd

from mrscale.experiments.cases import SEEDS, Case, semi_synthetic, simulation
from mrscale.experiments.estimators import ESTIMATORS
from mrscale.experiments.running import FIGURE, run, summarise

page = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "page.py"))
STUDIES = ("simulation", "coalescent", "genotypes")
LEARNED = ("linear_controls", "kernel_controls", "flow_controls")


def bias_table(table: pd.DataFrame) -> str:
    """Mean error of each estimator, its Monte Carlo error in brackets."""
    rows = []
    for design, group in table.groupby("design", sort=False):
        found = group.set_index("estimator")
        cells = [_bias(found.loc[key]) if key in found.index else "" for key in ESTIMATORS]
        rows.append([design, str(found["sets"].max()), *cells])
    return page["markdown"](["design", "sets", *ESTIMATORS.values()], rows)


def rmse_table(table: pd.DataFrame) -> str:
    """Root mean squared error, and coverage of the learned estimates and of the headline."""
    covered = (*LEARNED, "headline")
    names = [
        "design",
        *(f"RMSE, {name}" for name in ESTIMATORS.values()),
        *(f"covered, {ESTIMATORS[key]}" for key in covered),
        "green",
    ]
    rows = []
    for design, group in table.groupby("design", sort=False):
        found = group.set_index("estimator")
        errors = [f"{found.loc[k, 'rmse']:.3f}" if k in found.index else "" for k in ESTIMATORS]
        shares = [*(found.loc[key, "covered"] for key in covered), found.loc["headline", "green"]]
        rows.append([design, *errors, *(f"{100 * share:.0f} %" for share in shares)])
    return page["markdown"](names, rows)


def _bias(row: pd.Series) -> str:
    error = row["monte_carlo_error"]
    return f"{row['bias']:.3f}" + ("" if math.isnan(error) else f" ({error:.3f})")


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], metavar="STUDY")
    parser.add_argument("--folder", type=Path, default=Path("experiments-run"))
    parser.add_argument("--sets", type=int, default=len(SEEDS))
    parser.add_argument("--genotypes", type=Path, help="a VCF for the semi-synthetic study")
    parser.add_argument("--samples", type=Path, help="its samples and their environments")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    seeds = SEEDS[: options.sets]
    studies: dict[str, list[Case]] = {
        "simulation": simulation(seeds),
        "coalescent": semi_synthetic(seeds),
    }
    if options.genotypes:
        files = {"genotypes": options.genotypes, "samples": options.samples}
        studies["genotypes"] = semi_synthetic(seeds, **files)
    for name, cases in studies.items():
        if options.studies and name not in options.studies:
            continue
        table = summarise(run(cases, options.folder / name))
        text = f"{bias_table(table)}\n\n{rmse_table(table)}\n"
        if not options.write:
            print(text)
            continue
        figure = options.write.parent / "figures" / f"experiments-{name}.svg"
        shutil.copyfile(options.folder / name / FIGURE, figure)
        page["insert"](options.write, name, text)


if __name__ == "__main__":
    main()
