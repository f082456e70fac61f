"""A study on three hosts, its store on S3: equal to the same study on one host, and still so when a
host is cut off in the middle of a stage and comes back."""

from __future__ import annotations

import json
import os
import runpy
import shlex
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import mrscale as mr

ROOT = Path(__file__).parents[2]
Hosts = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("hosts.py")))).Hosts
HEAD, NORTH, SOUTH = "head", "north", "south"
BUCKET = "s3://cohort"
PATIENCE_SECONDS = 240
"""For machines that are busy, and for torch, which waits for a rank that is silent."""

pytestmark = [
    pytest.mark.spark,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces are root's to make"),
]

ENCODER = """
[encoder]
methods = ["linear", "flow"]
latent_dim = 1
restarts = 1
steps = 400
ranks = 2
"""
"""On one machine ``ranks`` starts two processes, which sum as the two of torchrun do."""
MAKE_BUCKET = "import sys, fsspec; fsspec.filesystem('s3').mkdir(sys.argv[1])"
DIGESTS = """
import hashlib, json, sys
from mrscale import places
from mrscale.store.verify import verify

found = {}
for name in places.files(sys.argv[1]):
    content = places.read_bytes(places.join(sys.argv[1], name))
    found[name] = hashlib.sha256(content).hexdigest()
verify(sys.argv[1])
print(json.dumps(found))
"""


class Cluster:
    """Spark, Dask and S3 on three hosts: what serves is on the head, workers are on the others."""

    def __init__(self, hosts, folder):
        self.hosts, self.folder = hosts, folder
        self.spark, self.dask = f"spark://{HEAD}:7077", f"tcp://{HEAD}:8786"
        self._serve_s3()
        self._serve_spark()
        self._serve_dask()
        self.wait_until(lambda: self.log("master").count("Registering worker") == 2)
        self.wait_until(lambda: self.log("scheduler").count("Register worker") == 2)

    def log(self, name):
        """What a command has printed so far."""
        file = self.folder / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self, host, *command, log, **more):
        """Start a command on a host."""
        return self.hosts.start(host, *command, log=self.folder / f"{log}.log", **more)

    def mrscale(self, *words, log, **more):
        """Start ``mrscale`` on the head."""
        return self.start(HEAD, sys.executable, "-m", "mrscale", *words, log=log, **more)

    def extract(self, study, log):
        """Start the extraction, on Spark's workers."""
        conf = {
            "driver.host": HEAD,
            "ui.enabled": "false",
            "driver.memory": "1g",
            "executor.memory": "1g",
            "executor.heartbeatInterval": "2s",
            "network.timeout": "20s",
            "network.timeoutInterval": "5s",
        }
        told = ["--master", self.spark]
        for name, value in conf.items():
            told += ["--conf", f"spark.{name}={value}"]
        submitted = {"PYSPARK_SUBMIT_ARGS": shlex.join([*told, "pyspark-shell"])}
        return self.mrscale("extract", study, "--quiet", log=log, **submitted)

    def train(self, study, log):
        """Start the training, a rank on each of Spark's and Dask's workers' hosts."""
        options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
        options += ["--rdzv-endpoint", f"{NORTH}:29400", "--rdzv-id", log]
        command = [sys.executable, "-m", "torch.distributed.run", *options]
        command += ["-m", "mrscale", "train", study, "--quiet"]
        return [self.start(host, *command, log=f"{log}-{host}") for host in (NORTH, SOUTH)]

    def run(self, study, log):
        """Start what comes after the training, on Dask's workers."""
        return self.mrscale("run", study, "--scheduler", self.dask, "--quiet", log=log)

    def wait_until(self, condition):
        """Wait while all that was started and has not been waited for runs."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            ended = [p.args for p in self.hosts.started if p.returncode is None and p.poll()]
            assert not ended, f"ended too early: {ended}"
            assert time.monotonic() < deadline, "that did not come in time"
            time.sleep(0.01)

    def digests(self, place):
        """Digests of all files of a sound store but its log, by name."""
        found = json.loads(self.hosts.run(HEAD, sys.executable, "-c", DIGESTS, place))
        del found["run.json"]
        return found

    def _serve_s3(self):
        command = [sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", "5000"]
        self.start(HEAD, *command, log="s3")
        self.wait_until(lambda: "Running on" in self.log("s3"))
        self.hosts.run(HEAD, sys.executable, "-c", MAKE_BUCKET, BUCKET)

    def _serve_spark(self):
        def start(host, kind, *words):
            import pyspark

            program = Path(pyspark.__file__).parent / "bin" / "spark-class"
            command = [program, f"org.apache.spark.deploy.{kind}", "--host", host, *words]
            log = "master" if host == HEAD else f"spark-{host}"
            where = {"SPARK_HOME": program.parents[1], "SPARK_LOCAL_IP": host}
            self.start(host, *command, log=log, SPARK_WORKER_DIR=self.folder / host, **where)

        start(HEAD, "master.Master", "--port", "7077", "--webui-port", "0")
        for host in (NORTH, SOUTH):
            words = ["--cores", "1", "--memory", "1g", "--webui-port", "0"]
            start(host, "worker.Worker", *words, self.spark)

    def _serve_dask(self):
        def start(host, kind, *words, log):
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard"]
            self.start(host, *command, "--host", host, *words, log=log)

        start(HEAD, "scheduler", "--port", "8786", log="scheduler")
        for host in (NORTH, SOUTH):
            words = ["--nworkers", "1", "--nthreads", "1", "--no-nanny"]
            words += ["--local-directory", self.folder]
            start(host, "worker", *words, self.dask, log=f"dask-{host}")


def _environment():
    from pipelines.spark import find_java

    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{HEAD}:5000",
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "20s",
        "GLOO_SOCKET_IFNAME": "eth0",
        "JAVA_HOME": str(Path(find_java().path).resolve().parent.parent),
        "NO_PROXY": "*",
        "OMP_NUM_THREADS": "1",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("hail")
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    hosts = Hosts((HEAD, NORTH, SOUTH), _environment())
    try:
        hosts.__enter__()
    except RuntimeError as error:
        pytest.skip(str(error))
    try:
        yield Cluster(hosts, tmp_path_factory.mktemp("cluster"))
    finally:
        hosts.__exit__()


@pytest.fixture(scope="module")
def biobank(tmp_path_factory):
    """The folder of a simulated biobank."""
    pytest.importorskip("msprime")
    folder = tmp_path_factory.mktemp("biobank")
    mr.simulate(folder, num_people=500, num_variants=20, num_environments=3)
    return folder


@pytest.fixture(scope="module")
def study(biobank):
    """Write a study file: its run folder, and where its store will be."""

    def write(run, store):
        text = (biobank / "study.toml").read_text()
        text = text.replace('run = "run"', f'run = "{run}"\nstore = "{store}"\nfolds = 2')
        file = biobank / f"{run}.toml"
        file.write_text(text + ENCODER)
        return file

    return write


def finished(cluster, process, log):
    code = process.wait(PATIENCE_SECONDS)
    assert code == 0, cluster.log(log)[-3000:]


def result_of(file):
    return json.loads(file.with_suffix("").joinpath("result.json").read_text())["pairs"]


@pytest.fixture(scope="module")
def alone(cluster, study):
    """The study on one host, with a store in a folder: digests of its store and its results."""
    file = study("alone", "alone.zarr")
    finished(cluster, cluster.mrscale("run", file, "--quiet", log="alone"), "alone")
    return SimpleNamespace(
        digests=cluster.digests(file.with_name("alone.zarr")),
        file=file,
        pairs=result_of(file),
    )


@pytest.fixture(scope="module")
def together(cluster, study):
    """The study on three hosts, and its run folder as it was after the training."""
    file = study("together", f"{BUCKET}/together.zarr")
    started = time.monotonic()
    finished(cluster, cluster.extract(file, "extract"), "extract")
    print("extract", time.monotonic() - started)
    for process, host in zip(cluster.train(file, "train"), (NORTH, SOUTH), strict=True):
        finished(cluster, process, f"train-{host}")
    print("train", time.monotonic() - started)
    trained = file.with_name("trained")
    shutil.copytree(file.with_suffix(""), trained)
    finished(cluster, cluster.run(file, "run"), "run")
    print("run", time.monotonic() - started)
    return SimpleNamespace(file=file, store=f"{BUCKET}/together.zarr", trained=trained)


def test_three_hosts_give_the_study_of_one(cluster, alone, together):
    assert cluster.digests(together.store) == alone.digests
    assert result_of(together.file) == alone.pairs
