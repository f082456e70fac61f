"""Kill -9 in the middle of an extraction; the same command then gives the undisturbed store."""

from __future__ import annotations

from functools import partial

import pytest

from mrscale.errors import StoreError
from mrscale.store.reader import open_store

pytestmark = pytest.mark.spark


def test_a_driver_killed_while_reading_and_while_writing(
    tmp_path, extracting, extract_here, biobank, undisturbed, is_undisturbed
):
    out = tmp_path / "store.zarr"
    reading = extracting(out)
    reading.wait_until(lambda: reading.blocks)
    reading.kill()
    blocks = reading.blocks
    assert blocks
    with pytest.raises(StoreError, match="run the extraction again"):
        open_store(out)

    writing = extracting(out)
    writing.wait_until(lambda: writing.shards)
    writing.kill()
    shards = writing.shards
    assert 0 < len(shards) < open_store(undisturbed).layout.num_shards
    assert blocks.items() < writing.blocks.items(), "a finished block was read again"
    with pytest.raises(StoreError, match="run the extraction again"):
        open_store(out)

    extract_here(biobank, out)
    assert shards.items() <= {str(f): f.stat().st_mtime_ns for f in out.rglob("c/*/0")}.items()
    is_undisturbed(out)


def test_python_workers_killed_while_reading_and_while_writing(
    tmp_path, extracting, is_undisturbed
):
    out = tmp_path / "store.zarr"
    extraction = extracting(out)
    for finished in (lambda: extraction.blocks, lambda: extraction.shards):
        extraction.wait_until(finished)
        assert extraction.kill_python_workers()
    assert extraction.finish() == 0, extraction.output
    assert (tmp_path / "logs" / "hail.log").read_text().count(
        "TaskSetManager: WARN: Lost task"
    ) >= 2
    is_undisturbed(out)


def test_java_killed_while_reading_and_while_writing(
    tmp_path, extracting, extract_here, biobank, is_undisturbed
):
    out = tmp_path / "store.zarr"
    for finished in ("blocks", "shards"):
        extraction = extracting(out)
        extraction.wait_until(partial(getattr, extraction, finished))
        extraction.kill_java()
        assert extraction.finish() == 1
        last = extraction.output.strip().splitlines()[-1]
        assert last.startswith("mrscale.errors.EngineError: Hail could not finish (")
    extract_here(biobank, out)
    is_undisturbed(out)
