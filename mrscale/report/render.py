"""The one HTML page: everything a reader needs, in one file that fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes

from mrscale.disclosure import policy, show_count
from mrscale.plots import numbers
from mrscale.plots.people import invariance
from mrscale.plots.training import scree, training
from mrscale.provenance import write_text
from mrscale.report import control, export, figures, words
from mrscale.report.strobe import checklist
from mrscale.results import PairResult, StudyResult
from mrscale.stats.pooling import MetaAnalysis, meta_analysis

_PAGE = Path(__file__).parent / "page"
VERDICTS = {
    "pass": "✓ passed",
    "warn": "! warning",
    "fail": "✗ failed",
    "info": "i for information",
}
TRUST = {"green": "✓ green", "amber": "! amber", "red": "✗ red"}


@dataclass(frozen=True)
class Figure:
    """A drawn figure: its ``<svg>`` element, its text alternative and its caption."""

    svg: str
    alt: str
    caption: str


def render(result: StudyResult, *, clock: Mapping[str, Any] | None = None) -> str:
    """The report of a study as one self-contained HTML page.

    Parameters
    ----------
    result : StudyResult
        Counts of people are controlled here, exact ones may be given.
    clock : mapping, optional
        Per stage, the record of a :class:`~mrscale.provenance.Clock`. Without it, equal results
        give equal bytes.

    Returns
    -------
    str
    """
    result = control.disclose(result)
    script = (_PAGE / "tables.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    page = Environment(
        loader=FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.globals.update(
        words=words, numbers=numbers, show=show_count, VERDICTS=VERDICTS, TRUST=TRUST
    )
    names = list(result.environments)
    return page.get_template("report.html").render(
        result=result,
        sections=[_section(pair, f"pair{i}") for i, pair in enumerate(result.pairs)],
        encoders=[
            _encoder(m, e, names, f"enc{i}") for i, (m, e) in enumerate(result.encoders.items())
        ],
        scree=_scree(result.encoders),
        environments=[
            *_shown(result.environments),
            ("All environments", show_count(result.num_people)),
        ],
        people=_shown(result.people),
        variants=[(status, f"{count:,}") for status, count in result.variants.items()],
        missing=numbers.share(result.missing_rate),
        provenance=_flat(result.provenance),
        clock=_flat(clock or {}),
        strobe=checklist(result),
        suppressed=control.suppressed(result),
        limit=policy().limit,
        script=script,
        script_hash=f"sha256-{base64.b64encode(digest).decode()}",
    )


def write_report(
    result: StudyResult, folder: str | Path, *, clock: Mapping[str, Any] | None = None
) -> dict[str, Path]:
    """Write ``report.html``, ``estimates.tsv`` and ``result.json``, each whole or not at all.

    Parameters
    ----------
    result : StudyResult
    folder : str or Path
        Made if absent.
    clock : mapping, optional
        See :func:`render`; it enters the page only.

    Returns
    -------
    dict of str to Path
        ``"report"``, ``"estimates"`` and ``"result"``.
    """
    folder = Path(folder)
    paths = {
        "report": folder / "report.html",
        "estimates": folder / "estimates.tsv",
        "result": folder / "result.json",
    }
    write_text(paths["result"], export.result_json(result))
    write_text(paths["estimates"], export.estimates_tsv(result))
    write_text(paths["report"], render(result, clock=clock))
    return paths


def _section(pair: PairResult, anchor: str) -> dict[str, Any]:
    """What the template needs of one pair beyond the pair itself."""
    return {
        "anchor": anchor,
        "pair": pair,
        "forest": _figure(
            pair.plot_forest(),
            f"{anchor}f",
            words.describe_forest(pair),
            "Each line is a 95 % interval; the filled marker is the headline. Arrows mark "
            "intervals that go on beyond the axis. F is the first-stage F statistic.",
        ),
        "environments": _environments(pair, anchor),
        "heterogeneity": _heterogeneity(pair),
        "first_stage": _figure(
            pair.plot_first_stage(),
            f"{anchor}s",
            words.describe_first_stage(pair),
            "First-stage F of every estimator; that of learned instruments is the smallest over "
            "encoders. Hollow: below 10, where 2SLS leans towards OLS and its interval is too "
            "short.",
        ),
        "without": _without(pair, anchor),
        "scatter": _scatter(pair, anchor),
    }


def _without(pair: PairResult, anchor: str) -> Figure | None:
    if not pair.without:
        return None
    return _figure(
        pair.plot_leave_one_out(),
        f"{anchor}w",
        words.describe_without(pair),
        f"“{pair[pair.headline].label}” without each environment in turn, and with all.",
    )


def _scatter(pair: PairResult, anchor: str) -> Figure | None:
    if not pair.instruments:
        return None
    return _figure(
        pair.plot_scatter(),
        f"{anchor}v",
        f"Associations of {len(pair.instruments):,} variants with {pair.outcome} against those "
        f"with {pair.exposure}, with lines for the headline and the adjusted 2SLS.",
        "Associations of each variant with exposure and outcome, environments and covariates "
        "adjusted for, oriented to raise the exposure; bars are 95 % intervals. Variants that act "
        "through the exposure alone scatter around one line through the origin.",
    )


def _environments(pair: PairResult, anchor: str) -> Figure | None:
    if not pair.per_environment:
        return None
    return _figure(
        pair.plot_environments(),
        f"{anchor}e",
        words.describe_environments(pair),
        "2SLS inside each environment with all variants as instruments; the dashed line is the "
        "headline.",
    )


def _heterogeneity(pair: PairResult) -> MetaAnalysis | None:
    rows = np.array([(e.estimate, e.std_error) for e in pair.per_environment])
    if len(rows) < 2 or not np.isfinite(rows).all() or (rows[:, 1] <= 0).any():
        return None
    return meta_analysis(rows[:, 0], rows[:, 1])


@dataclass(frozen=True)
class EncoderSection:
    """What the page says of one method: settings, a table of its folds, training curves."""

    method: str
    facts: list[tuple[str, str]]
    columns: list[str]
    rows: list[list[str]]
    curves: Figure | None
    profile: Figure | None


def _encoder(
    method: str, encoder: Mapping[str, Any], names: list[str], prefix: str
) -> EncoderSection:
    folds = encoder.get("folds", [])
    drawn = ("history", "eigenvalues")
    columns = list(dict.fromkeys(k for f in folds for k in f if k not in drawn))
    return EncoderSection(
        method,
        _flat({k: v for k, v in encoder.items() if k not in ("profile", "folds")}),
        columns,
        [[_text(fold.get(c)) for c in columns] for fold in folds],
        _curves(method, [f for f in folds if f.get("history")], prefix),
        _profile(method, encoder.get("profile"), names, prefix),
    )


def _profile(
    method: str, found: Mapping[str, Any] | None, names: list[str], prefix: str
) -> Figure | None:
    if not found:
        return None
    remainder, latent = (
        (np.array(found[kind]["mean"], float), np.array(found[kind]["deviation"], float))
        for kind in ("remainder", "latent")
    )
    if not remainder[0].size:
        return None
    panels = invariance(remainder, latent, names, title="remainder")
    return _figure(
        panels[0],
        f"{prefix}p",
        f"Means and standard deviations in {len(names)} environments of the {method} encoder's "
        f"remainder and of its latent instruments; {words.farthest(latent[0], names)}.",
        "Of people who did not train the encoder: the remainder may move between environments, the "
        "latent instruments must not; the grey band is that of a standard normal.",
    )


def _curves(method: str, folds: list[Mapping[str, Any]], prefix: str) -> Figure | None:
    if not folds:
        return None
    kept = ", ".join(f"fold {f['fold']} at step {f['best_step']}" for f in folds)
    return _figure(
        training(folds),
        prefix,
        f"Held-out log-likelihood while the {method} encoder was trained; kept: {kept}.",
        "Log-likelihood per person on people held out from training; the dot is the state that "
        "was kept.",
    )


def _scree(encoders: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """Of the front end, which is the same for all methods."""
    for encoder in encoders.values():
        folds = [f for f in encoder.get("folds", []) if "eigenvalues" in f]
        if folds:
            break
    else:
        return None
    factors = encoder["factors"]
    return _figure(
        scree(folds, factors),
        "scree",
        f"Eigenvalues of the correlation matrix of instruments in each fold; the first {factors} "
        "principal components are what the encoder sees.",
        "Eigenvalues of the correlation matrix of instruments; left of the dotted line the "
        "principal components that the encoder sees.",
    )


def _shown(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(name, show_count(count)) for name, count in counts.items()]


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested mappings as (dotted name, text) rows."""
    if not isinstance(value, Mapping):
        return [(name, _text(value))]
    return [row for k, v in value.items() for row in _flat(v, f"{name}.{k}" if name else str(k))]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_text(v) for v in value)
    if isinstance(value, float):
        return "not available" if math.isnan(value) else f"{value:.6g}"
    return "none" if value is None else str(value)


def _figure(ax: Axes, prefix: str, alt: str, caption: str) -> Figure:
    return Figure(figures.to_svg(ax, prefix), alt, caption)
