"""The verb that runs the paper's experiments again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mrscale.cli.base import Json, Quiet, Scheduler, app, examples, show
from mrscale.errors import InputError


@app.command(
    epilog=examples(
        "mrscale experiment simulation --out experiments --sets 2",
        "mrscale experiment semi-synthetic --genotypes F.vcf.bgz --samples F.tsv",
    )
)
def experiment(
    study: Annotated[
        Literal["simulation", "semi-synthetic"],
        typer.Argument(help="Mixed latents, or traits on genotypes."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("experiments"),
    sets: Annotated[int, typer.Option(min=1, help="Data sets per design, seeds from 42.")] = 20,
    people: Annotated[
        int | None, typer.Option(min=500, help="People in a data set; 10,000 if left out.")
    ] = None,
    genotypes: Annotated[
        Path | None, typer.Option(help="Semi-synthetic: draw traits on this bgzipped VCF.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Sample ids and environments of that VCF.")
    ] = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the experiments of the paper again: every estimator where the truth is known."""
    from mrscale.experiments.cases import SEEDS, semi_synthetic, simulation
    from mrscale.experiments.running import run, summarise

    seeds = range(SEEDS.start, SEEDS.start + sets)
    if study == "simulation":
        if genotypes or samples:
            raise InputError(
                "the simulation draws its own instruments; found --genotypes or --samples; leave "
                "them out, or run semi-synthetic"
            )
        cases = simulation(seeds, people)
    else:
        cases = semi_synthetic(seeds, people, genotypes, samples)
    table = summarise(run(cases, out, scheduler=scheduler, quiet=quiet))
    show({"folder": str(out), "estimators": table.to_dict("records")}, _text(table, out), as_json)


def _text(table: Any, out: Path) -> str:
    columns = ["design", "estimator", "sets", "bias", "monte_carlo_error", "rmse", "covered"]
    return f"{table[columns].round(3).to_string(index=False)}\n\nWritten to {out}"
