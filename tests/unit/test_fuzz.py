"""A few inputs changed at random, of each kind; ``make faults`` tries more."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

fuzzing = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fuzzing.py")))


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def originals(small_store, tmp_path_factory):
    pytest.importorskip("pysam")
    folder = tmp_path_factory.mktemp("originals")
    shutil.copytree(small_store, folder / "store.zarr")
    fuzzing.write_tables(folder)
    fuzzing.write_run(folder, small_store)
    return folder


@pytest.mark.parametrize("kind", fuzzing.KINDS)
def test_inputs_changed_at_random_end_well_or_with_one_sentence(originals, kind):
    cases = 8 if kind == "run" else 40  # a run takes seconds
    assert fuzzing.failures(kind, 0, cases, originals) == []
