"""The notebooks run from beginning to end, show no ids of people, and are kept without outputs."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
SPARK = {"01_quickstart", "02_all_of_us"}
PICTURE = "image/png"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_links_lead_somewhere(path):
    text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells)
    links = re.findall(r"\]\(([^)#]+)", text)
    assert any(link.startswith("../docs/") for link in links)
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.spark] * (path.stem in SPARK), id=path.stem)
        for path in NOTEBOOKS
    ],
)
def test_it_runs_and_shows_no_ids(path, kernel, tmp_path):
    if path.stem in SPARK:
        pytest.importorskip("hail")
        pytest.importorskip("pysam")
    notebook = nbformat.read(path, as_version=4)
    kernel(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [one for cell in code for one in cell.outputs]
    assert "error" not in {one.output_type for one in outputs}
    drawing = [cell for cell in code if cell.source.endswith((".figure", "plt.show()"))]
    pictures = [sum(PICTURE in one.get("data", {}) for one in cell.outputs) for cell in drawing]
    assert pictures
    assert set(pictures) == {1}
    shown = {word for one in outputs for word in re.findall(r"\d+", text_of(one))}
    ids = ids_of_people(tmp_path)
    assert bool(ids) == (path.stem in SPARK)
    assert len(shown & ids) == 0  # not the ids themselves: pytest would print them


def text_of(output):
    if output.output_type == "stream":
        return output.text
    return "\n".join(str(value) for kind, value in output.data.items() if kind != PICTURE)


def ids_of_people(folder):
    """All ids in the tables of people that a notebook has written."""
    tables = [pd.read_csv(path, sep="\t", dtype=str) for path in folder.rglob("phenotypes.tsv")]
    return {one for table in tables for one in table["person_id"]}
