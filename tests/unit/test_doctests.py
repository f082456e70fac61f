"""The examples in the docstrings of what users call: each has one, and it runs as written."""

from __future__ import annotations

import doctest
import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mrscale
from mrscale.results import CohortResult, IVResult, PairResult
from mrscale.results.learned import LearnedIVResult
from mrscale.workflow.learned_encoder import LearnedEncoder

DRAWING = (CohortResult, IVResult, LearnedEncoder, LearnedIVResult, PairResult)
NEEDS_SPARK = {"extract", "report", "run"}


def documented() -> dict[str, Callable[..., Any]]:
    """Every function of the package, and every method that draws, by the name users know."""
    functions = {name: getattr(mrscale, name) for name in mrscale.__all__}
    methods = {
        f"{home.__name__}.{name}": method
        for home in DRAWING
        for name, method in inspect.getmembers(home, inspect.isfunction)
        if name.startswith("plot_")
    }
    return functions | methods


@pytest.mark.parametrize("name", documented())
def test_the_example_runs(
    name: str, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = inspect.getdoc(documented()[name]) or ""
    assert "Examples\n--------\n" in text
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert example.examples
    assert name in NEEDS_SPARK or "+SKIP" not in text
    if "store.zarr" in text:
        shutil.copytree(small_store, tmp_path / "store.zarr")
    monkeypatch.chdir(tmp_path)
    found: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=found.append)
    assert not found, "".join(found)
