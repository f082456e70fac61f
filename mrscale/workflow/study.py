"""A whole study from one file: every stage that is not done yet, in order."""

from __future__ import annotations

import logging
from pathlib import Path

from mrscale import __version__, places
from mrscale.config import Study, load_study
from mrscale.errors import MissingExtraError, RunError
from mrscale.progress import bar
from mrscale.provenance import Clock, digest
from mrscale.report import load_result, words, write_report
from mrscale.results import StudyResult
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.workflow.encoding import encode
from mrscale.workflow.estimating import estimate
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.training import require_more_people_than_instruments, train

logger = logging.getLogger(__name__)


def run(study: Study | str | Path, *, quiet: bool = False) -> StudyResult:
    """Do every stage of a study: extract, train, encode, estimate, report.

    Stages that are done and still valid are skipped, an interrupted one is resumed.

    Parameters
    ----------
    study : Study, str or Path
        A study, or the path of its ``study.toml``.
    quiet : bool, default False
        Show no progress even on a terminal.

    Returns
    -------
    StudyResult

    Raises
    ------
    MrscaleError
        If an input, the run folder or an engine does not allow the study.
    """
    study = study if isinstance(study, Study) else load_study(study)
    RunFolder.claim(study)
    extract(study, study.store_path, quiet=quiet)
    require_more_people_than_instruments(open_store(study.store_path))
    if study.encoder.methods:
        train(study, quiet=quiet)
        encode(study, quiet=quiet)
    estimate(study, quiet=quiet)
    return report(study)


def extract(study: Study, out: str, *, quiet: bool = False) -> GenotypeStore:
    """Extract genotypes and people into a store; see :func:`pipelines.extract.extract`."""
    try:
        from pipelines.extract import extract as extract_store
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "hail", "spark") from None
    if not places.is_url(out) and Path(study.run) in Path(out).parents:
        # the other verbs refuse a folder that was filled before it was claimed
        RunFolder.claim(study)
    with bar("Extracting", 1, quiet=quiet) as progress:
        extract_store(study, out, progress=progress)
    return open_store(out)


def report(study: Study) -> StudyResult:
    """Write the report from the results of the run folder, unless it is there already.

    Raises
    ------
    RunError
        If nothing has been estimated yet.
    """
    clock = Clock()
    folder = RunFolder.claim(study)
    if folder.done("estimate") is None:
        raise RunError("nothing has been estimated in this run yet; run first: mrscale estimate")
    result = load_result(folder.result)
    identity = digest(["report", __version__, folder.done("estimate")])
    if folder.done("report") != identity or not folder.report.is_file():
        write_report(result, folder.path, clock=folder.clocks())
        folder.finish("report", identity, clock)
    return result


def in_words(run: str | Path) -> dict[str, list[str]]:
    """Results of a run as sentences: the answer of every pair, its caveat, and why.

    Parameters
    ----------
    run : str or Path
        The run folder, or a file of results in it.

    Raises
    ------
    RunError
        If there are no results.
    """
    run = Path(run)
    folder = RunFolder(run if run.is_dir() else run.parent)
    if not folder.result.is_file():
        raise RunError(
            f"there are no results in {folder.path}; name the folder of a run that has its "
            "estimates, or run first: mrscale run study.toml"
        )
    told = {}
    for pair in load_result(folder.result).pairs:
        lines = [words.answer(pair), words.caveat(pair), words.comparison(pair)]
        lines += [f"Trust in the learned instruments: {pair.trust}.", *pair.reasons]
        told[f"{pair.exposure} on {pair.outcome}"] = lines
    return told
