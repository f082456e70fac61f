"""Inputs changed at random: success, or one sentence of ours, in bounded time and memory.

``MRSCALE_FUZZ_CASES=10000`` tries as many of each kind.
"""

from __future__ import annotations

import os
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

fuzzing = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fuzzing.py")))

CASES = int(os.environ.get("MRSCALE_FUZZ_CASES", "400"))
AT_ONCE = 500
"""Cases of one child process."""

pytestmark = pytest.mark.timeout(60 + 6 * CASES)  # a page of a run folder takes two seconds


@pytest.mark.parametrize("kind", fuzzing.KINDS)
def test_inputs_changed_at_random_end_well_or_with_one_sentence(kind, small_store, tmp_path):
    pytest.importorskip("pysam")
    shutil.copytree(small_store, tmp_path / "store.zarr")
    fuzzing.write_tables(tmp_path)
    if kind == "run":
        fuzzing.write_run(tmp_path, small_store)
    found = []
    for first in range(0, CASES, AT_ONCE):
        found += fuzzing.failures(kind, 1000 + first, min(AT_ONCE, CASES - first), tmp_path)
    assert found == [], f"{len(found)} of {CASES} cases"
