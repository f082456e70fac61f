"""Verbs that train, estimate and report, and those that look after the machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mrscale import __version__
from mrscale.cli.base import Json, Quiet, RunPath, Seed, StoreFolder, StudyFile, app, show, study_of
from mrscale.config import Study, load_study
from mrscale.progress import bar


@app.command()
def train(
    study: StudyFile = None,
    store: StoreFolder = None,
    run: RunPath = None,
    seed: Seed = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Training processes.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the encoders, each on one fold of people."""
    from mrscale.workflow.training import train as train_encoders

    chosen = study_of(study, store=store, run=run, seed=seed, encoder={"ranks": ranks})
    folder = train_encoders(chosen, quiet=quiet)
    text = f"Encoders are in {folder.path / 'encoders'}"
    show({"run": str(folder.path), "digest": folder.done("train")}, text, as_json)


@app.command()
def encode(
    study: StudyFile = None,
    store: StoreFolder = None,
    run: RunPath = None,
    seed: Seed = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Apply every encoder to the people it was not trained on."""
    from mrscale.workflow.encoding import encode as encode_people

    folder = encode_people(study_of(study, store=store, run=run, seed=seed), quiet=quiet)
    text = f"Latent instruments are in {folder.latents}"
    show({"run": str(folder.path), "digest": folder.done("encode")}, text, as_json)


@app.command()
def estimate(
    study: StudyFile = None,
    store: StoreFolder = None,
    run: RunPath = None,
    seed: Seed = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate the effect of every exposure on every outcome."""
    from mrscale.workflow.estimating import estimate as estimate_effects

    chosen = study_of(study, store=store, run=run, seed=seed)
    _print_result(chosen, estimate_effects(chosen, quiet=quiet), as_json)


@app.command()
def report(
    study: StudyFile = None,
    store: StoreFolder = None,
    run: RunPath = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run that has its estimates."""
    from mrscale.workflow.study import report as write

    chosen = study_of(study, store=store, run=run)
    _print_result(chosen, write(chosen), as_json)


@app.command()
def run(study: Path, as_json: Json = False, quiet: Quiet = False) -> None:
    """Do every stage of a study that is not done yet."""
    from mrscale.workflow.study import run as run_study

    chosen = load_study(study)
    _print_result(chosen, run_study(chosen, quiet=quiet), as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine: what is there, what is missing, and the command that mends it."""
    from mrscale.workflow.doctor import examine

    checks = examine()
    if as_json:
        typer.echo(json.dumps([vars(check) for check in checks]))
    else:
        table = Table("", "What", "Found", "To do", title=f"mrscale {__version__}")
        for check in checks:
            mark = "[green]ok[/green]" if check.ok else "[red]missing[/red]"
            table.add_row(mark, check.name, check.found, check.fix)
        Console().print(table)
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("demo-run"),
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Simulate a biobank of 20,000 people and run the whole study on it."""
    from mrscale.simulate import simulate as draw
    from mrscale.workflow.study import run as run_study

    start = time.perf_counter()
    with bar("Simulating", 1, quiet=quiet) as progress:
        draw(out, seed=seed, progress=progress)
    chosen = load_study(out / "study.toml")
    result = run_study(chosen, quiet=quiet)
    _print_result(chosen, result, as_json)
    if not as_json:
        typer.echo(f"Done in {time.perf_counter() - start:.0f} s.")


def _print_result(study: Study, result: Any, as_json: bool) -> None:
    from mrscale.report import control
    from mrscale.report.export import to_json

    if as_json:
        typer.echo(json.dumps(to_json(result)))
        return
    people = "; ".join(f"{step} {control.show(count)}" for step, count in result.people.items())
    variants = "; ".join(f"{status} {count:,}" for status, count in result.variants.items())
    typer.echo(f"People: {people}\nVariants: {variants}\n\n{result.summary()}")
    typer.echo(f"\nReport: {Path(study.run) / 'report.html'}")
