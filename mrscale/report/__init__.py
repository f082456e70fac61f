"""Figures, tables and the one HTML report of a study, with counts of people controlled."""

from mrscale.report.export import estimates_tsv, load_result
from mrscale.report.figures import save_forest
from mrscale.report.render import render, write_report

__all__ = ["estimates_tsv", "load_result", "render", "save_forest", "write_report"]
