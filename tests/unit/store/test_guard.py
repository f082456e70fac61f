"""Stores that claim what is not so are refused before memory is taken or a path followed."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import google_crc32c
import numcodecs
import numpy as np
import pytest

from mrscale.errors import StoreError
from mrscale.store.append import append
from mrscale.store.manifest import content_digest
from mrscale.store.reader import open_dataset, open_store
from mrscale.store.schema import MANIFEST
from mrscale.store.verify import verify

GIB = 2**30


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def edit_array(store, name, change):
    """Change an array's own metadata, and the copy of it in the group's."""
    edit(store / name / "zarr.json", change)
    edit(store / "zarr.json", lambda c: change(c["consolidated_metadata"]["metadata"][name]))


def edit_manifest(store, change):
    """Change a manifest, whose digest fits again."""

    def change_and_sign(content):
        change(content)
        content["digest"] = content_digest(content)

    edit(store / MANIFEST, change_and_sign)


def put(*keys, value):
    """Set what lies below some keys."""

    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


GRID = ("chunk_grid", "configuration", "chunk_shape")
PICKLE = [{"name": "numcodecs.pickle", "configuration": {}}]
ZLIB = [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 1}}]
ARRAYS = [
    ("exposure", put("shape", value=[10**12, 1]), "has not the shape that the manifest says"),
    ("exposure", put("shape", value=[150, 10**9]), "are gone"),
    ("exposure", put("shape", value=[150, -1]), "has not the shape"),
    ("exposure", put("shape", value="150"), "has not the shape"),
    ("exposure", put("shape", value=None), "are not those of a Zarr array"),
    ("exposure", put(*GRID, value=[10**9, 1]), "the chunks of exposure are larger than 64 MiB"),
    ("exposure", put(*GRID, value=[0, 1]), "the chunks of exposure"),
    ("exposure", put(*GRID, value=[1, 1]), "149 of 150 files of exposure are gone"),
    ("exposure", put("data_type", value="float64"), "has not the type 'float32'"),
    ("exposure", put("data_type", value="object"), "has not the type 'float32'"),
    ("exposure", put("codecs", value=PICKLE), "coded in a way that mrscale does not write"),
    ("exposure", put("codecs", value=ZLIB), "coded in a way that mrscale does not write"),
    ("exposure", put("codecs", value=[]), "are not those of a Zarr array"),
    (
        "exposure",
        put("codecs", 1, "configuration", "cname", value="x"),
        "damaged at the metadata of exposure",
    ),
    ("exposure", put("storage_transformers", value=[{"name": "x"}]), "does not write"),
    ("exposure", put("zarr_format", value=2), "does not write"),
    ("sample_id", put("data_type", value="int8"), "has not the type 'string'"),
    ("exposures", put("shape", value=[10**12]), "are gone"),
    ("call_dosage", put(*GRID, value=[10**9, 7]), "not cut as the manifest says"),
    (
        "call_dosage",
        put("codecs", 0, "configuration", "chunk_shape", value=[1, 1]),
        "not cut as the manifest says",
    ),
    (
        "call_dosage",
        put("codecs", 0, "configuration", "codecs", value=PICKLE),
        "coded in a way that mrscale does not write",
    ),
    (
        "call_dosage",
        put("codecs", 0, "configuration", "index_codecs", value=PICKLE),
        "are not those of a Zarr array",
    ),
]


@pytest.mark.parametrize(("name", "change", "message"), ARRAYS)
def test_arrays_that_claim_too_much_are_refused_by_every_reader(store, name, change, message):
    edit_array(store, name, change)
    readers = [open_dataset, verify]
    if name == "call_dosage":
        readers.append(lambda path: open_store(path).dosage(slice(0, 1)))
    else:
        readers.append(lambda path: open_store(path).array(name))
    for read in readers:
        with pytest.raises(StoreError, match=f"{message}|at its metadata"):
            read(store)


MANIFESTS = [
    (put("layout", "num_samples", value=10**15), "layout.num_samples"),
    (put("layout", "num_samples", value=10**9), "does not fit its own digest"),
    (put("layout", "num_samples", value="150"), "layout.num_samples"),
    (put("layout", "chunk_rows", value=0), "layout.chunk_rows"),
    (put("layout", "shard_rows", value=10**9), "shards must be some whole chunks"),
    (put("layout", "more", value=1), "layout.more"),
    (put("code", value="pickle"), "code"),
    (put("shards", value=["0" * 64] * 2), "does not fit its own digest"),
    (put("shards", value=["x"]), "shards.0"),
    (put("arrays", "exposure", value=3), "arrays.exposure"),
    (put("environments", value={"a": -1}), "environments.a"),
    (put("people", value=[["analysed"]]), "people.0"),
    (put("missing_rate", value="high"), "missing_rate"),
    (put("provenance", value=[]), "provenance"),
]


@pytest.mark.parametrize(("change", "message"), MANIFESTS)
def test_manifests_that_no_extraction_wrote_are_refused(store, change, message):
    try:
        edit_manifest(store, change)
    except (TypeError, ValueError, ZeroDivisionError):
        edit(store / MANIFEST, change)
    with pytest.raises(StoreError, match=rf"the store is damaged: .*{message}"):
        open_store(store)


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc", "..", "0123456789abcdeg"])
def test_an_appended_group_lies_in_the_store(store, values, name):
    append(store, values["sample_id"], {"outcome": (["new"], np.ones((150, 1)))})
    edit(store / "manifest.2.json", put("appended", 0, "name", value=name))
    with pytest.raises(StoreError, match=r"appended\.0"):
        open_store(store)


def test_a_linked_folder_of_appended_traits_is_refused(store, tmp_path, values):
    append(store, values["sample_id"], {"outcome": (["new"], np.ones((150, 1)))})
    (store / "appended").rename(tmp_path / "outside")
    (store / "appended").symlink_to(tmp_path / "outside")
    for read in (open_dataset, verify):
        with pytest.raises(StoreError, match="is a link that leads out of it"):
            read(store)


@pytest.mark.parametrize("text", ["[" * 10**6, "{", "[]", "", '{"schema_version": "1.1"}', "\xff"])
def test_what_is_no_manifest_is_refused(store, text):
    (store / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(StoreError, match="the store is damaged"):
        open_store(store)


def test_a_huge_manifest_is_not_read(store):
    with (store / MANIFEST).open("r+b") as file:
        file.truncate(100 * GIB)  # sparse: no disk is used
    with pytest.raises(StoreError, match=r"manifest\.json is larger than 64 MiB"):
        open_store(store)


def test_a_huge_chunk_file_is_not_read(store):
    with (store / "exposure" / "c" / "0" / "0").open("r+b") as file:
        file.truncate(100 * GIB)
    with pytest.raises(StoreError, match="a file of exposure is larger than 512 MiB"):
        open_store(store).array("exposure")


@pytest.mark.parametrize(
    "place", ["exposure/c/0/0", "exposure/c", "exposure", "exposure/zarr.json"]
)
def test_links_that_lead_out_of_the_store_are_refused(store, tmp_path, place):
    outside = tmp_path / "outside"
    (store / place).rename(outside)
    (store / place).symlink_to(outside)
    for read in (open_dataset, verify, lambda path: open_store(path).array("exposure")):
        with pytest.raises(StoreError, match="is a link that leads out of it"):
            read(store)


def test_a_linked_manifest_is_refused_but_a_linked_store_and_links_inside_are_not(store, tmp_path):
    (tmp_path / "link.zarr").symlink_to(store)
    (store / "exposure" / "c" / "0" / "0").rename(store / "kept")
    (store / "exposure" / "c" / "0" / "0").symlink_to(store / "kept")
    assert open_store(tmp_path / "link.zarr").array("exposure").shape == (150, 1)
    (store / MANIFEST).rename(tmp_path / MANIFEST)
    (store / MANIFEST).symlink_to(tmp_path / MANIFEST)
    with pytest.raises(StoreError, match="is a link that leads out of it"):
        open_store(store)


def sealed(frame):
    """A chunk with a checksum that fits."""
    return frame + struct.pack("<I", google_crc32c.value(frame))


def blosc(data):
    return bytes(numcodecs.Blosc(cname="zstd", clevel=3, shuffle=2).encode(data))


def claiming(frame, size):
    """A frame that says it decodes to another size."""
    return frame[:4] + struct.pack("<I", size) + frame[8:]


HONEST = blosc(np.zeros((150, 1), np.float32))
TEXT = struct.pack("<I", 2**32 - 1)
BOMBS = [
    ("exposure", blosc(np.zeros(2**28, np.uint8)), "decodes to 268,435,456 bytes, but must to 600"),
    ("exposure", claiming(HONEST, 2**31 - 1), "decodes to 2,147,483,647 bytes"),
    ("exposure", HONEST[:10], "cut off"),
    ("exposure", HONEST + b"\0" * 9, "has not the size that it says"),
    ("sample_id", claiming(blosc(TEXT), 2**31 - 1), "decodes to 2,147,483,647 bytes"),
    ("sample_id", blosc(TEXT), "a chunk of text has 4,294,967,295 cells"),
]


@pytest.mark.parametrize(("name", "frame", "message"), BOMBS)
def test_chunks_that_decode_to_more_than_their_shape_are_refused(store, name, frame, message):
    file = next(f for f in (store / name / "c").rglob("*") if f.is_file())
    file.write_bytes(sealed(frame))
    with pytest.raises(StoreError, match=message):
        open_store(store).array(name)
    with pytest.raises(ValueError, match=message):  # Zarr's own error, once it is read
        open_dataset(store)[name].compute()


@pytest.mark.parametrize("size", [2**40, 2**62])
def test_the_index_of_a_shard_cannot_ask_for_more_than_a_chunk(store, size):
    file = store / "call_dosage" / "c" / "0" / "0"
    content = file.read_bytes()
    index = np.frombuffer(content[-68:-4], "<u8").copy()
    index[1] = size
    file.write_bytes(content[:-68] + sealed(index.tobytes()))
    with pytest.raises(StoreError, match="the index of a shard says that a chunk has"):
        open_store(store).dosage(slice(0, 3))


READ = """
import resource, sys
from mrscale.errors import StoreError
from mrscale.store.reader import open_store
from mrscale.store.verify import verify
store = open_store(sys.argv[1])
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29,) * 2)
for name in ("exposure", "sample_id", "exposures"):
    try:
        store.array(name)
    except StoreError as error:
        print(error)
"""


def test_no_memory_is_taken_for_what_is_claimed(store):
    for name, frame in (("exposure", claiming(HONEST, 2**31 - 1)), ("sample_id", blosc(TEXT))):
        next(f for f in (store / name / "c").rglob("*") if f.is_file()).write_bytes(sealed(frame))
    edit_array(store, "exposures", put("shape", value=[2**39]))
    done = subprocess.run(
        [sys.executable, "-c", READ, str(store)], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("the store is damaged") == 3, done.stdout + done.stderr


@pytest.mark.parametrize("place", ["zarr.json", "exposure/zarr.json"])
def test_metadata_that_are_gone_are_missed(store, place):
    (store / place).unlink()
    with pytest.raises(StoreError, match=r"zarr\.json is gone|are not those of a Zarr array"):
        open_dataset(store) if place == "zarr.json" else verify(store)
