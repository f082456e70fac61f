"""Kill -9 in the middle of an extraction; the same command then gives the undisturbed store."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mrscale.config import load_study
from mrscale.errors import StoreError
from mrscale.store.reader import open_store
from mrscale.store.schema import ARRAYS
from mrscale.store.verify import verify

pytest.importorskip("hail")
pytest.importorskip("pysam")

from mrscale.simulate import simulate
from pipelines.extract import extract

pytestmark = pytest.mark.spark

COMMAND = """
import sys
from mrscale.config import load_study
from pipelines.extract import extract
extract(load_study(sys.argv[1]), sys.argv[2])
"""


def kill_when_a_shard_is_written(study_file, out, log):
    with log.open("wb") as handle:
        command = [sys.executable, "-c", COMMAND, str(study_file), str(out)]
        process = subprocess.Popen(command, stdout=handle, stderr=handle)
        deadline = time.monotonic() + 180
        while not list((out / "parts").glob("[0-9]*.json")):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "no shard was written in time"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_killed_extraction_continues_to_the_same_store(tmp_path):
    simulate(tmp_path / "sim", num_people=6000, num_variants=40, num_environments=3)
    study_file, out = tmp_path / "sim" / "study.toml", tmp_path / "killed.zarr"
    kill_when_a_shard_is_written(study_file, out, tmp_path / "log.txt")
    with pytest.raises(StoreError, match="run the extraction again"):
        open_store(out)
    first = min((out / "call_dosage").glob("c/*/0"), key=lambda file: file.stat().st_mtime_ns)
    written = first.stat().st_mtime_ns

    resumed = extract(load_study(study_file), str(out))
    undisturbed = extract(load_study(study_file), str(tmp_path / "whole.zarr"))

    assert resumed == undisturbed
    assert first.stat().st_mtime_ns == written, "a finished shard was written again"
    one, two = open_store(out), open_store(tmp_path / "whole.zarr")
    for spec in ARRAYS:
        np.testing.assert_array_equal(one.array(spec.name), two.array(spec.name), spec.name)
    verify(out)
