"""Stores on object stores, against servers that speak the protocols of S3 and of Google Cloud."""

from __future__ import annotations

import json
import logging
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr

from mrscale import places
from mrscale.errors import EngineError, InputError, StoreError
from mrscale.provenance import fingerprint
from mrscale.store import writer
from mrscale.store.append import append
from mrscale.store.reader import open_dataset, open_store
from mrscale.store.schema import DOSAGES, MANIFEST, Layout
from mrscale.store.verify import verify
from mrscale.workflow.describing import describe
from mrscale.workflow.workbench_checkup import examine_workbench

free_ports = runpy.run_path(str(Path(__file__).parents[1] / "machine.py"))["free_ports"]
BUCKET = "cohort-bucket"
SETTINGS = {"inputs": {"people": ["abc"]}, "seed": 1}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    pytest.importorskip("s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=free_ports(1)[0], verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        # what a person would put into the environment or into fsspec's own files
        patch.setenv("FSSPEC_S3_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
        fsspec.filesystem("s3").mkdir(BUCKET)
        yield f"s3://{BUCKET}"
    server.stop()


@pytest.fixture(scope="module")
def gs() -> Iterator[str]:
    pytest.importorskip("gcp_storage_emulator")
    with pytest.MonkeyPatch.context() as patch:
        (port,) = free_ports(1)
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        core = pytest.importorskip("gcsfs.core")
        # gcsfs's other class asks the real service by gRPC what kind of bucket it has: not that one
        # in the processes of these tests, nor in this one, whoever has imported gcsfs before
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        fsspec.register_implementation("gs", core.GCSFileSystem, clobber=True)
        core.GCSFileSystem.clear_instance_cache()
        patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        server = _gcs_server(port, patch)
        server.start()
        yield f"gs://{BUCKET}"
        server.stop()


def _gcs_server(port: int, patch: pytest.MonkeyPatch) -> Any:
    """The emulator, taught two things of the real service that it lacks."""
    from gcp_storage_emulator import server

    lock = threading.Lock()

    def exclusive(insert):
        """``ifGenerationMatch=0``: create, never replace.

        https://cloud.google.com/storage/docs/request-preconditions
        """

        def handle(request, response, storage, *args, **kwargs):
            with lock:
                if request.query.get("ifGenerationMatch") == ["0"]:
                    name = (request.query.get("name") or [request.data["meta"]["name"]])[0]
                    if name in storage.objects.get(request.params["bucket_name"], {}):
                        response.status = HTTPStatus.PRECONDITION_FAILED
                        return
                insert(request, response, storage, *args, **kwargs)

        return handle

    def with_suffixes(download):
        """``Range: bytes=-N``: the last N bytes (RFC 9110)."""

        def handle(request, response, storage, *args, **kwargs):
            wanted = request.get_header("range") or ""
            if wanted.startswith("bytes=-"):
                names = request.params["bucket_name"], request.params["object_id"]
                start = max(0, len(storage.get_file(*names)) - int(wanted.removeprefix("bytes=-")))
                request.get_header = lambda *_: f"bytes={start}-"
            download(request, response, storage, *args, **kwargs)

        return handle

    taught = {"insert": exclusive, "download": with_suffixes}
    for _, methods in server.HANDLERS:
        for verb, handler in list(methods.items()):
            if handler.__module__.endswith("objects") and handler.__name__ in taught:
                patch.setitem(methods, verb, taught[handler.__name__](handler))
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    return server.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)


@pytest.fixture(params=["s3", "gs"])
def place(request: pytest.FixtureRequest) -> str:
    """An empty place in a bucket."""
    bucket = request.getfixturevalue(request.param)
    return f"{bucket}/{abs(hash(request.node.name)):x}/store.zarr"


@pytest.fixture
def copied(place: str, small_store) -> str:
    """A finished store, written by the writer onto the object store."""
    source = open_store(small_store)
    write_like(source, place)
    return place


def write_like(source, place, dosage=None, code=None, until=None):
    """Write what another store holds; stop before the manifest if told so."""
    code = code or source.code
    writer.create(place, source.layout, code=code)
    arrays = {
        name: writer.write_array(place, name, source.array(name))
        for name in source.manifest["arrays"]
    }
    dosage = source.dosage(slice(None)) if dosage is None else dosage
    shards = range(source.layout.num_shards)[:until]
    for index in shards:
        writer.write_shard(place, index, dosage[source.layout.shard(index)], key="k")
    if until is None:
        kept = ("people", "environments", "variants", "missing_rate")
        return writer.finalise(
            place,
            layout=source.layout,
            arrays=arrays,
            shards=writer.finished_shards(place, "k"),
            report={name: source.manifest[name] for name in kept},
            provenance=source.manifest["provenance"],
            run={},
        )
    return None


def test_a_store_is_the_same_there_as_here(copied, small_store):
    here, there = open_store(small_store), open_store(copied)
    assert there.manifest == here.manifest
    assert writer.PARTS not in places.names(copied)
    for name in here.manifest["arrays"]:
        np.testing.assert_array_equal(there.array(name), here.array(name), name)
    np.testing.assert_array_equal(there.dosage(slice(10, 400)), here.dosage(slice(10, 400)))
    verify(copied)
    dataset = open_dataset(copied)
    np.testing.assert_array_equal(dataset["call_dosage"].values, here.dosage(slice(None)))
    assert dataset["call_dosage"].chunks[0][0] == here.layout.chunk_rows
    plain = xr.open_zarr(copied)
    assert plain["sample_id"].values.tolist() == here.array("sample_id").tolist()
    assert fingerprint(copied) == fingerprint(copied)
    assert fingerprint(places.join(copied, MANIFEST)) == fingerprint(small_store / MANIFEST)


def test_it_is_described_and_damage_is_named(copied):
    found = describe(copied)
    assert found.people == 900
    assert found.num_objects == len(places.files(copied))
    shard = places.join(copied, "call_dosage", "c", "1", "0")
    content = bytearray(places.read_bytes(shard))
    content[5] ^= 0xFF
    places.write_bytes(shard, bytes(content))
    with pytest.raises(StoreError, match="damaged at call_dosage, chunk 4"):
        verify(copied)
    places.remove(shard)
    with pytest.raises(StoreError, match=r"lacks shard 1|1 of 4 shards of call_dosage are gone"):
        verify(copied)


def test_imputed_dosages_too(place, small_store):
    source = open_store(small_store)
    dosage = np.random.default_rng(1).uniform(0, 2, (900, 30))
    write_like(source, place, dosage=DOSAGES.encode(dosage), code=DOSAGES)
    verify(place)
    found = open_dataset(place)["call_dosage"].values
    np.testing.assert_allclose(found, dosage, atol=DOSAGES.scale / 2 + 1e-6)


def test_of_many_different_extractions_one_gets_the_place(place):
    def attempt(seed):
        try:
            writer.claim(place, SETTINGS | {"seed": seed // 2})
        except InputError:
            return None
        return seed // 2

    with ThreadPoolExecutor(8) as pool:
        winners = {seed for seed in pool.map(attempt, range(8)) if seed is not None}
    claimed = json.loads(places.read_bytes(places.join(place, writer.CLAIM)))
    assert winners == {claimed["settings"]["seed"]}


WRITE = """
import sys
import numpy as np
from mrscale.store import writer
from mrscale.store.schema import Layout
layout = Layout(900, 30, 64, 256)
writer.claim(sys.argv[1], {"seed": 1})
writer.create(sys.argv[1], layout)
writer.write_shard(sys.argv[1], 0, np.zeros((256, 30), np.int8), key="k")
print("written", flush=True)
sys.stdin.read()
"""


def test_a_store_killed_before_its_manifest_is_refused_and_finished_by_a_rerun(place, small_store):
    command = [sys.executable, "-c", WRITE, place]
    with subprocess.Popen(
        command, env=os.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.kill()
    with pytest.raises(
        StoreError, match=r"not a finished genotype store.*run the extraction again"
    ):
        open_store(place)
    with pytest.raises(InputError, match="what changed: seed"):
        writer.claim(place, {"seed": 2})
    assert writer.claim(place, {"seed": 1}) is None
    assert list(writer.finished_shards(place, "k")) == [0]
    source = open_store(small_store)
    assert write_like(source, place) == source.manifest
    verify(place)


def test_an_identical_extraction_that_is_late_breaks_nothing(copied, small_store):
    before = places.files(copied)
    source = open_store(small_store)
    write_like(source, copied, until=2)
    np.testing.assert_array_equal(
        open_store(copied).dosage(slice(None)), source.dosage(slice(None))
    )
    assert write_like(source, copied) == source.manifest
    assert places.files(copied) == before
    verify(copied)


def test_traits_are_appended_by_several_at_once(copied):
    store = open_store(copied)
    ids = store.array("sample_id")

    def add(index):
        matrix = np.full((len(ids), 1), index, dtype=np.float32)
        return append(copied, ids, {"exposure": ([f"x{index}"], matrix)}).is_new

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(add, range(3))) == [True] * 3
    found = open_store(copied)
    assert sorted(found.names("exposures")) == ["exposure", "x0", "x1", "x2"]
    assert found.manifest["version"] == 4
    assert found.genotype_digest == store.genotype_digest
    dataset = open_dataset(copied)
    for name in ("x0", "x1", "x2"):
        column = dataset["exposure"].sel(exposures=name).values
        assert (column == int(name[1])).all()
    verify(copied)


def test_a_server_that_does_not_answer_any_more_is_said(s3, small_store, monkeypatch):
    place = f"{s3}/left.zarr"
    write_like(open_store(small_store), place)
    found = open_store(place)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": "http://127.0.0.1:9"})
    said = rf"^{place}\S* cannot be reached: \w+; mend the connection or the credentials, and run"
    for look in (lambda: found.dosage(slice(9)), lambda: open_store(place), lambda: verify(place)):
        with pytest.raises(EngineError, match=said):
            look()


def test_a_bucket_that_is_not_there_is_said_before_any_work(s3, gs):
    for url in ("s3://no-such-bucket/s.zarr", "gs://no-such-bucket/s.zarr"):
        with pytest.raises(InputError, match=r"there is no bucket .*no-such-bucket, or it may not"):
            writer.examine(url, SETTINGS)
        with pytest.raises(InputError, match="cannot be written: there is no such bucket"):
            writer.create(url, Layout(10, 3, 8, 16))
        with pytest.raises(StoreError, match="there is no genotype store at"):
            open_store(url)


def test_the_doctor_lists_the_workspace_bucket_and_writes_nothing(gs, monkeypatch):
    monkeypatch.setattr(fsspec.config, "conf", dict(fsspec.config.conf))
    root = f"{gs}/release"
    aux = f"{root}/wgs/short_read/snpindel/aux"
    places.write_bytes(f"{aux}/ancestry/echo_v4.ancestry_preds.tsv", b"research_id\n")
    environ = {
        "WORKSPACE_BUCKET": gs,
        "CDR_STORAGE_PATH": root,
        "GOOGLE_PROJECT": "terra-1",
        "WGS_VDS_PATH": f"{root}/hail.vds",
    }
    before = places.files(gs)
    found = {check.name: check for check in examine_workbench(environ)}
    assert all(check.ok for check in found.values())
    assert found["Workspace bucket"].found == f"{gs} can be listed; writing was not tried"
    assert found["Requester pays"].found == "reading is billed to terra-1"
    assert found["Release"].found == "genotypes as vds; tables: ancestry"
    assert places.files(gs) == before
    lost = {"WORKSPACE_BUCKET": "gs://no-such-bucket", "GOOGLE_PROJECT": "terra-1"}
    found = {check.name: check for check in examine_workbench(lost)}
    assert not found["Workspace bucket"].ok
    assert "there is no bucket gs://no-such-bucket" in found["Workspace bucket"].found
    assert found["Workspace bucket"].fix.startswith("check WORKSPACE_BUCKET")


def test_a_folder_that_a_console_has_made_is_empty(s3):
    """Consoles make a folder by an empty object whose name ends in a slash."""
    import boto3

    endpoint = fsspec.config.conf["s3"]["endpoint_url"]
    boto3.client("s3", endpoint_url=endpoint).put_object(Bucket=BUCKET, Key="made/store.zarr/")
    assert places.names(f"{s3}/made/store.zarr") == []
    assert writer.examine(f"{s3}/made/store.zarr", SETTINGS) == writer.examine(
        f"{s3}/made/another.zarr", SETTINGS
    )


def test_files_of_a_pattern_keep_its_protocol(s3):
    places.write_bytes(f"{s3}/g/chr1.vcf.bgz", b"")
    for protocol in ("s3", "s3a"):
        pattern = f"{protocol}://{BUCKET}/g/*.vcf.bgz"
        assert places.expand(pattern) == [f"{protocol}://{BUCKET}/g/chr1.vcf.bgz"]
