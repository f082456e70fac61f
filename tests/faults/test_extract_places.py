"""Disks that are full or read-only: one clear sentence, and no store that opens."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrscale.errors import InputError, StoreError
from mrscale.store.reader import open_store

pytestmark = pytest.mark.spark

machine = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "machine.py")))
READ_ONLY = r"cannot be written: (it is read-only|permission is denied); mend that, or"


# of the finished store's size, which with the staged blocks is not enough
@pytest.mark.parametrize("share", [0.05, 0.4, 1.1], ids=["reading", "tables", "dosages"])
def test_a_full_disk(disk, share, biobank, extract_here, undisturbed, is_undisturbed):
    folder, remount = disk
    out = folder / "store.zarr"
    remount(f"size={int(share * machine.pages(undisturbed) * machine.PAGE)}")
    full = rf"^{re.escape(str(out))}\S* cannot be written, the disk .* is full; make room and run"
    with pytest.raises(StoreError, match=full):
        extract_here(biobank, out)
    assert share < 1 or list(out.glob("call_dosage/c/*/0"))
    with pytest.raises(StoreError, match="run the extraction again"):
        open_store(out)
    remount("size=64m")
    extract_here(biobank, out)
    is_undisturbed(out)


def test_a_full_scratch_folder_of_spark(
    disk, tmp_path, extracting, biobank, extract_here, is_undisturbed
):
    folder, _ = disk
    out = tmp_path / "store.zarr"
    failed = extracting(out, SPARK_LOCAL_DIRS=folder)
    assert failed.finish() == 1
    assert "EngineError: Spark's scratch folder is full" in failed.output
    assert "SPARK_LOCAL_DIRS" in failed.output.strip().splitlines()[-1]
    with pytest.raises(StoreError, match="run the extraction again"):
        open_store(out)
    extract_here(biobank, out)
    is_undisturbed(out)


def test_a_read_only_disk(disk, biobank, extract_here, extracting):
    folder, remount = disk
    with pytest.raises(StoreError, match="is full"):
        extract_here(biobank, folder / "begun.zarr")
    remount("ro")
    before = sorted(folder.rglob("*"))
    for name in ("new.zarr", "begun.zarr"):
        with pytest.raises(InputError, match=rf"^{folder / name}\S* {READ_ONLY}"):
            extract_here(biobank, folder / name)
    first_in_its_process = extracting(folder / "begun.zarr")
    assert first_in_its_process.finish() == 1
    said = first_in_its_process.output.strip().splitlines()[-1]
    assert re.search(rf"InputError: {folder}/logs {READ_ONLY}", said)
    assert sorted(folder.rglob("*")) == before
