"""A whole study from one file: every stage that is not done yet, in order."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

from mrscale import __version__, disclosure, places
from mrscale.config import Study
from mrscale.errors import MissingExtraError, RunError
from mrscale.progress import bar
from mrscale.provenance import Clock, digest
from mrscale.report import load_result, words, write_report
from mrscale.results import StudyResult
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.study_file import StudyLike, as_study, load_study
from mrscale.workflow.encoding import encode
from mrscale.workflow.estimating import estimate
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.training import require_more_people_than_instruments, train
from mrscale.workflow.truth import truth_of

logger = logging.getLogger(__name__)


def run(study: StudyLike, *, quiet: bool = False) -> StudyResult:
    """Do every stage of a study: extract, train, encode, estimate, report.

    Stages that are done and still valid are skipped, an interrupted one is resumed.

    Parameters
    ----------
    study : Study, str, Path or mapping
        A study, the path of its ``study.toml``, or the same keys as nested mappings.
    quiet : bool, default False
        Show no progress even on a terminal or in a notebook.

    Returns
    -------
    StudyResult

    Raises
    ------
    MrscaleError
        If an input, the run folder or an engine does not allow the study.

    Examples
    --------
    >>> import mrscale as mr
    >>> biobank = mr.simulate("biobank", num_people=2000, num_variants=20)
    >>> result = mr.run("biobank/study.toml")  # doctest: +SKIP
    >>> result.pairs[0].headline, result.pairs[0].trust  # doctest: +SKIP
    """
    study = as_study(study)
    truth_of(study)  # before the hours of the other stages
    with RunFolder.held(study):
        extract(study, quiet=quiet)
        require_more_people_than_instruments(open_store(study.store_path))
        if study.encoder.methods:
            train(study, quiet=quiet)
            encode(study, quiet=quiet)
        estimate(study, quiet=quiet)
        return report(study)


def extract(study: StudyLike, out: str | None = None, *, quiet: bool = False) -> GenotypeStore:
    """Extract genotypes, people and instruments into a genotype store, by Hail on Spark.

    A store that is finished and still valid is left as it is, an interrupted one is continued.

    Parameters
    ----------
    study : Study, str, Path or mapping
        A study, the path of its ``study.toml``, or the same keys as nested mappings.
    out : str, optional
        Folder or URL of the store; by default the study's.
    quiet : bool, default False
        Show no progress even on a terminal or in a notebook.

    Returns
    -------
    GenotypeStore
        For :func:`mrscale.estimate`, :func:`mrscale.fit_encoder` and, by its ``path``,
        :func:`mrscale.open`.

    Raises
    ------
    MrscaleError
        If an input or the engine does not allow the extraction.

    Examples
    --------
    >>> import mrscale as mr
    >>> biobank = mr.simulate("biobank", num_people=2000, num_variants=20)
    >>> store = mr.extract("biobank/study.toml")  # doctest: +SKIP
    """
    study = as_study(study)
    out = out or study.store_path
    disclosure.enforce(study.disclosure.as_policy())
    try:
        from pipelines.extract import extract as extract_store
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "hail", "spark") from None
    # the other verbs refuse a run folder that was filled before it was claimed
    run = RunFolder.held(study) if lies_in_run(study, out) else nullcontext()
    with run, bar("Extracting", 1, quiet=quiet) as progress:
        extract_store(study, out, progress=progress)
    return open_store(out)


def lies_in_run(study: Study, out: str) -> bool:
    """Whether a store is, or would be, in the study's run folder."""
    return not places.is_url(out) and Path(study.run).resolve() in Path(out).resolve().parents


def report(study: StudyLike) -> StudyResult:
    """Write ``report.html`` from the results of the run folder, unless it is there already.

    Parameters
    ----------
    study : Study, str, Path or mapping
        A study, the path of its ``study.toml``, or the same keys as nested mappings.

    Returns
    -------
    StudyResult

    Raises
    ------
    RunError
        If nothing has been estimated yet.

    Examples
    --------
    >>> import mrscale as mr
    >>> biobank = mr.simulate("biobank", num_people=2000, num_variants=20)
    >>> mr.run("biobank/study.toml").to_dataframe()  # doctest: +SKIP
    >>> mr.report("biobank/study.toml")  # doctest: +SKIP
    """
    study = as_study(study)
    clock = Clock()
    folder = RunFolder.examine(study)
    if folder.done("estimate") is None:
        raise RunError(
            "nothing has been estimated in this run yet; run first: mrscale estimate study.toml, "
            "or mrscale run study.toml for every stage"
        )
    result = load_result(folder.result)
    if not is_reported(folder):
        with RunFolder.held(study):
            write_report(result, folder.path, clock=folder.clocks())
            folder.finish("report", _report_digest(folder), clock)
    return result


def is_reported(folder: RunFolder) -> bool:
    """Whether the report of the estimates in a run folder is there."""
    return folder.done("report") == _report_digest(folder) and folder.report.is_file()


def _report_digest(folder: RunFolder) -> str:
    return digest(["report", __version__, folder.done("estimate")])


def in_words(run: str | Path) -> dict[str, list[str]]:
    """Results of a run as sentences: the answer of every pair, its caveat, and why.

    Parameters
    ----------
    run : str or Path
        The run folder, a file of results in it, or the study's file.

    Raises
    ------
    RunError
        If there are no results, or those in the run folder are of before an estimate that did not
        end.
    """
    run = Path(load_study(run).run if str(run).endswith(".toml") else run)
    folder = RunFolder(run.parent if run.is_file() else run)
    if not folder.result.is_file():
        raise RunError(
            f"there are no results in {folder.path}; name the folder of a run that has its "
            "estimates, or run first: mrscale run study.toml"
        )
    if not run.is_file() and folder.done("estimate") is None:
        raise RunError(
            f"the last estimate in {folder.path} was refused or cut off; its results are of "
            "before; run first: mrscale estimate study.toml, or, for the old results, name "
            f"{folder.result}"
        )
    told = {}
    result = load_result(folder.result)
    for pair in result.pairs:
        lines = [words.answer(pair), words.caveat(pair), words.comparison(pair)]
        lines += [f"Trust in the learned instruments: {pair.trust}.", *pair.reasons]
        told[f"{pair.exposure} on {pair.outcome}"] = lines
    told |= {pair: [f"No estimate: {why}."] for pair, why in result.not_estimated.items()}
    return told
