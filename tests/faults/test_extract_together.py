"""Two extractions to one place at once."""

from __future__ import annotations

import pytest

from mrscale.store.reader import open_store
from mrscale.store.verify import verify
from mrscale.study_file import load_study

pytestmark = pytest.mark.spark

IN_STEP = """
import sys, time
from pathlib import Path
from mrscale.study_file import load_study
from pipelines.extract import extract
from pipelines.spark import start_hail

study, out, last_study, me, other, *delays = sys.argv[1:]
start_hail(log_dir=f"{me}.logs")
studies = [study] * (len(delays) - 1) + [last_study]
for number, (study, delay) in enumerate(zip(studies, delays)):
    Path(f"{me}.{number}").touch()
    while not Path(f"{other}.{number}").exists():
        time.sleep(0.001)
    time.sleep(float(delay))
    try:
        extract(load_study(study), f"{out}/{number}.zarr")
    except BaseException:
        for later in range(number, len(studies)):  # the other must not wait for this one
            Path(f"{me}.{later}").touch()
        raise
"""
DELAYS = [0, 0.3, 1]
"""Seconds by which the second comes later: when the first starts, reads, writes."""


def test_identical_extractions_agree_and_of_different_ones_the_first_wins(
    tmp_path, biobank, extracting, extract_here, is_undisturbed
):
    other = biobank.with_name("other.toml")
    other.write_text(biobank.read_text().replace("seed = 0", "seed = 1"))
    assert load_study(other).seed == 1
    one, two = tmp_path / "one", tmp_path / "two"
    both = [
        extracting(tmp_path, biobank, one, two, *(0 for _ in DELAYS), 0, script=IN_STEP),
        extracting(tmp_path, other, two, one, *DELAYS, 0, script=IN_STEP),
    ]
    codes, outputs = [e.finish() for e in both], [e.output for e in both]
    for number in range(len(DELAYS)):
        is_undisturbed(tmp_path / f"{number}.zarr")

    assert sorted(codes) == [0, 1], outputs
    winner, loser = codes.index(0), codes.index(1)
    assert "InputError: " in outputs[loser]
    assert "is not this study's store (what changed: seed); nothing was touched" in outputs[loser]
    last, expected = tmp_path / f"{len(DELAYS)}.zarr", tmp_path / "expected.zarr"
    extract_here([biobank, other][winner], expected)
    assert verify(last).manifest == open_store(expected).manifest
