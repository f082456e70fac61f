"""Claims, reruns, and two extractions at one place."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import zarr

from mrscale import places
from mrscale.errors import InputError, StoreError
from mrscale.store import writer
from mrscale.store.reader import open_store
from mrscale.store.schema import ARRAYS, DOSAGES, Layout
from mrscale.store.verify import verify

SETTINGS = {"inputs": {"people": ["abc"]}, "seed": 1, "qc": {"maf": 0.01}}


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    return str(tmp_path / "s") if request.param == "local" else f"memory://{tmp_path.name}/s"


def test_looking_writes_nothing_and_claiming_only_the_claim(place):
    assert writer.examine(place, SETTINGS) is None
    assert not places.exists(place)
    assert writer.claim(place, SETTINGS) is None
    assert writer.claim(place, SETTINGS) is None
    assert places.names(place) == [writer.CLAIM]


def test_another_extraction_is_refused_and_told_what_differs(place):
    writer.claim(place, SETTINGS)
    other = SETTINGS | {"seed": 2, "inputs": {"people": ["abd"]}}
    for look in (writer.examine, writer.claim):
        with pytest.raises(InputError, match=r"what changed: the people file, seed\); nothing was"):
            look(place, other)


def test_a_damaged_claim_is_one_sentence(place):
    writer.claim(place, SETTINGS)
    places.write_bytes(places.join(place, writer.CLAIM), b"")
    for look in (writer.examine, writer.claim):
        with pytest.raises(StoreError, match=r"extraction\.json is not JSON; .* remove the store"):
            look(place, SETTINGS)


def test_a_place_with_anything_else_is_refused(place):
    places.write_bytes(places.join(place, "mine.txt"), b"precious")
    with pytest.raises(InputError, match="exists and is not this study's store; nothing was"):
        writer.claim(place, SETTINGS)
    assert places.names(place) == ["mine.txt"]
    with pytest.raises(InputError, match="exists and is not this study's store"):
        writer.examine(places.join(place, "mine.txt"), SETTINGS)


def test_of_many_different_extractions_one_gets_the_place(place):
    barrier = Barrier(8)

    def attempt(seed):
        barrier.wait()
        try:
            writer.claim(place, SETTINGS | {"seed": seed // 2})
        except InputError:
            return None
        return seed // 2

    with ThreadPoolExecutor(8) as pool:
        winners = {seed for seed in pool.map(attempt, range(8)) if seed is not None}
    claimed = json.loads(places.read_bytes(places.join(place, writer.CLAIM)))
    assert winners == {claimed["settings"]["seed"]}
    assert places.names(place) == [writer.CLAIM]


def test_a_finished_store_is_given_back(place, values, write):
    writer.claim(place, SETTINGS)
    manifest = write(place, values)
    assert writer.examine(place, SETTINGS) == manifest
    assert writer.claim(place, SETTINGS) == manifest
    assert writer.PARTS not in places.names(place)
    verify(place)


def test_a_rerun_keeps_shards_of_the_same_key(place, values, layout):
    writer.create(place, layout)
    shard = values["call_dosage"][layout.shard(1)]
    sha = writer.write_shard(place, 1, shard, key="mine")
    writer.create(place, layout)
    assert writer.finished_shards(place, "mine") == {1: sha}
    assert writer.finished_shards(place, "another") == {}
    for damaged in (b"", b'{"key": "mi', b"\xff", b"[]", b'{"key": "mine"}'):
        places.write_bytes(places.join(place, writer.PARTS, "000001.json"), damaged)
        assert writer.finished_shards(place, "mine") == {}


def test_an_unfinished_store_of_another_form_is_left_alone(place, layout):
    writer.create(place, layout)
    before = places.files(place)
    for other, code in ((Layout(150, 6, 16, 64), None), (layout, DOSAGES)):
        with pytest.raises(StoreError, match="begun by another version of mrscale"):
            writer.create(place, other, **({"code": code} if code else {}))
    assert places.files(place) == before


def test_an_identical_extraction_that_is_late_breaks_nothing(place, values, write, layout):
    """It writes everything again, beside readers, and finds at the end that all is done."""
    manifest = write(place, values)
    before = {name: places.read_bytes(places.join(place, name)) for name in places.files(place)}
    writer.create(place, layout)
    small = {s.name: values[s.name] for s in ARRAYS if s.name != "call_dosage"}
    for index in range(layout.num_shards):
        writer.write_shard(place, index, values["call_dosage"][layout.shard(index)], key="k")
        np.testing.assert_array_equal(open_store(place).dosage(slice(None)), values["call_dosage"])
    arrays = {name: writer.write_array(place, name, value) for name, value in small.items()}
    again = writer.finalise(
        place, layout=layout, arrays=arrays, shards={}, report={}, provenance={}, run={"other": 1}
    )
    assert again == manifest
    after = {name: places.read_bytes(places.join(place, name)) for name in places.files(place)}
    assert after == before


def test_a_store_finished_meanwhile_with_other_content_is_not_ours(place, values, write, layout):
    manifest = write(place, values)
    with pytest.raises(StoreError, match="another process finished"):
        writer.finalise(
            place,
            layout=layout,
            arrays=manifest["arrays"] | {"fold": "0" * 64},
            shards={},
            report={},
            provenance={},
            run={},
        )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 192 KiB, and a command that mounts it with other options."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options):
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        return subprocess.run(words, capture_output=True).returncode

    if mount("size=192k"):
        pytest.skip("this machine does not allow mounts")
    yield disk, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_said_and_a_rerun_finishes(small_disk):
    disk, remount = small_disk
    rng, layout = np.random.default_rng(1), Layout(2000, 400, 100, 200)
    dosage = rng.integers(0, 3, (2000, 400)).astype(np.int8)

    def run():
        writer.claim(disk / "s", SETTINGS)
        writer.create(disk / "s", layout)
        for index in set(range(layout.num_shards)) - set(writer.finished_shards(disk / "s", "k")):
            writer.write_shard(disk / "s", index, dosage[layout.shard(index)], key="k")

    with pytest.raises(
        StoreError, match=r"the disk \(or quota\) is full; make room and run the same"
    ):
        run()
    done = len(writer.finished_shards(disk / "s", "k"))
    assert 0 < done < layout.num_shards
    with pytest.raises(StoreError, match="not a finished genotype store"):
        open_store(disk / "s")
    assert remount("size=4m") == 0
    run()
    assert len(writer.finished_shards(disk / "s", "k")) == layout.num_shards
    array = zarr.open_array(disk / "s" / "call_dosage", mode="r")
    np.testing.assert_array_equal(array[:], dosage)


def test_a_read_only_place_is_refused_before_any_work(small_disk):
    disk, remount = small_disk
    assert remount("ro") == 0
    with pytest.raises(InputError, match="cannot be written: permission is denied; mend that"):
        writer.examine(disk / "s", SETTINGS)
    with pytest.raises(InputError, match="cannot be written: it is read-only"):
        writer.create(disk / "s", Layout(10, 3, 8, 16))


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file is in the way of a folder"):
        writer.claim(tmp_path / "file" / "below" / "s", SETTINGS)
    assert Path(tmp_path / "file").read_text() == ""
