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
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

import mrscale as mr
from mrscale.study_file import load_study
from mrscale.workflow.runfolder import RunFolder

ROOT = Path(__file__).parents[2]
_beside = (
    runpy.run_path(str(Path(__file__).with_name(name))) for name in ("hosts.py", "trainings.py")
)
machines, trainings = (SimpleNamespace(**names) for names in _beside)
HEAD, NORTH, SOUTH = "head", "north", "south"
BUCKET = "s3://cohort"
SCHEDULER = f"dask-scheduler-{HEAD}"
"""Name of the log of the Dask scheduler that was started last."""
PATIENCE_SECONDS = 600
"""For machines that are busy, and for torch, which waits for a rank that is silent."""

pytestmark = [
    pytest.mark.spark,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
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
        self.spark = f"spark://{HEAD}:7077"
        self._log_of, self._dask = {}, []
        self._serve_s3()
        self._serve_spark()

    def log(self, name):
        """What a command has printed so far."""
        file = self.folder / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self, host, *command, log, **more):
        """Start a command on a host."""
        process = self.hosts.start(host, *command, log=self.folder / f"{log}.log", **more)
        self._log_of[process.pid] = log
        return process

    def mrscale(self, host, *words, log, **more):
        """Start ``mrscale`` on a host."""
        return self.start(host, sys.executable, "-m", "mrscale", *words, log=log, **more)

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
        return self.mrscale(HEAD, "extract", study, "--quiet", log=log, **submitted)

    def train(self, study, log):
        """Start the training, a rank on each host that works."""
        options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
        options += ["--rdzv-endpoint", f"{NORTH}:29400", "--rdzv-id", log]
        command = [sys.executable, "-m", "torch.distributed.run", *options]
        command += ["-m", "mrscale", "train", study, "--quiet"]
        return [self.start(host, *command, log=f"{log}-{host}") for host in (NORTH, SOUTH)]

    def estimate(self, study, log, host=HEAD):
        """Start what comes after the training, on a Dask cluster of its own."""
        address = self._serve_dask()
        return self.mrscale(host, "run", study, "--scheduler", address, "--quiet", log=log)

    def finish(self, *processes):
        """Wait for commands, which must succeed."""
        for process in processes:
            code = process.wait(PATIENCE_SECONDS)
            assert code == 0, self.log(self._log_of[process.pid])[-3000:]

    def wait_until(self, condition, *processes):
        """Wait while commands run."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            ended = [
                self.log(self._log_of[p.pid])[-3000:] for p in processes if p.poll() is not None
            ]
            assert not ended, f"too early: {ended}"
            assert time.monotonic() < deadline, "that did not come in time"
            time.sleep(0.01)

    def digests(self, place):
        """Digests of all files of a sound store but its log, by name."""
        found = json.loads(self.hosts.run(HEAD, sys.executable, "-c", DIGESTS, place))
        del found["run.json"]
        return found

    def _serve_s3(self):
        command = [sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", "5000"]
        server = self.start(HEAD, *command, log="s3")
        self.wait_until(lambda: "Running on" in self.log("s3"), server)
        self.hosts.run(HEAD, sys.executable, "-c", MAKE_BUCKET, BUCKET)

    def _serve_spark(self):
        import pyspark

        home = Path(pyspark.__file__).parent

        def start(host, kind, *words):
            # pip's pyspark has no sbin/start-master.sh
            program = [home / "bin" / "spark-class", f"org.apache.spark.deploy.{kind}"]
            where = {"SPARK_HOME": home, "SPARK_LOCAL_IP": host}
            where["SPARK_WORKER_DIR"] = self.folder / host
            command = [*program, "--host", host, "--webui-port", "0", *words]
            return self.start(host, *command, log=f"spark-{host}", **where)

        servers = [start(HEAD, "master.Master", "--port", "7077")]
        words = ["--cores", "1", "--memory", "1g", self.spark]
        servers += [start(host, "worker.Worker", *words) for host in (NORTH, SOUTH)]
        master = f"spark-{HEAD}"
        self.wait_until(lambda: self.log(master).count("Registering worker") == 2, *servers)

    def _serve_dask(self):
        for process in self._dask:  # those that were cut off have ended already
            process.kill()
            process.wait()

        def start(host, kind, *words):
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard"]
            return self.start(host, *command, "--host", host, *words, log=f"dask-{kind}-{host}")

        address = f"tcp://{HEAD}:8786"
        words = ["--nworkers", "1", "--nthreads", "1", "--no-nanny"]
        words += ["--local-directory", self.folder, address]
        self._dask = [start(HEAD, "scheduler", "--port", "8786")]
        self._dask += [start(host, "worker", *words) for host in (NORTH, SOUTH)]
        self.wait_until(lambda: self.log(SCHEDULER).count("Register worker") == 2, *self._dask)
        return address


def _environment():
    from pipelines.spark import find_java

    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{HEAD}:5000",
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "20s",
        "GLOO_SOCKET_IFNAME": machines.DEVICE,
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
    hosts = machines.Hosts((HEAD, NORTH, SOUTH), _environment())
    try:
        hosts.__enter__()
    except RuntimeError as error:
        pytest.skip(str(error))
    try:
        yield Cluster(hosts, tmp_path_factory.mktemp("cluster"))
    finally:
        hosts.__exit__()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Write a study file of one simulated biobank; its run folder is named as the file is."""
    pytest.importorskip("msprime")
    folder = tmp_path_factory.mktemp("biobank")
    mr.simulate(folder, num_people=500, num_variants=20, num_environments=3)
    text = (folder / "study.toml").read_text()

    def write(run, store):
        file = folder / f"{run}.toml"
        head = f'run = "{run}"\nstore = "{store}"\nfolds = 2'
        file.write_text(text.replace('run = "run"', head) + ENCODER)
        return file

    return write


@pytest.fixture(scope="module")
def alone(cluster, study):
    """The study on one host, run when it is first asked for: its file and digests of its store,
    which is in a folder."""

    @cache
    def run():
        file = study("alone", "alone.zarr")
        cluster.finish(cluster.mrscale(HEAD, "run", file, "--quiet", log="alone"))
        return SimpleNamespace(file=file, digests=cluster.digests(file.with_suffix(".zarr")))

    return run


@pytest.fixture(scope="module")
def together(cluster, study):
    """The study on three hosts, and a copy of its run folder as the training left it."""
    store = f"{BUCKET}/together.zarr"
    file = study("together", store)
    cluster.finish(cluster.extract(file, "extract"))
    cluster.finish(*cluster.train(file, "train"))
    trained = file.with_name("trained")
    shutil.copytree(file.with_suffix(""), trained)
    cluster.finish(cluster.estimate(file, "estimate"))
    return SimpleNamespace(file=file, store=store, trained=trained)


def results_of(file):
    """The estimates of a study, and its latents to the byte."""
    run = file.with_suffix("")
    latents = [path for path in (run / "latents.zarr").rglob("*") if path.is_file()]
    return (
        json.loads((run / "result.json").read_text())["pairs"],
        {path.relative_to(run): path.read_bytes() for path in latents},
    )


@contextmanager
def cut_off(cluster, host):
    """A host cannot be reached in the block, and can again after it."""
    cluster.hosts.cut(host)
    try:
        yield
    finally:
        cluster.hosts.rejoin(host)


def test_a_training_cut_in_two_ends_on_both_sides_and_is_continued(cluster, together, alone, study):
    file = study("cut-train", together.store)
    folder = RunFolder(file.with_suffix(""))
    north, south = cluster.train(file, "cut-train")
    cluster.wait_until(folder.checkpoint("flow").exists, north, south)
    with cut_off(cluster, SOUTH):
        alone()  # meanwhile: the ranks are silent, and the head is not asked for anything
        assert north.wait(PATIENCE_SECONDS) == 1
        # torchrun itself waits there until the system gives its connections up
        cluster.wait_until(lambda: "Error:" in cluster.log(f"cut-train-{SOUTH}"))
        south.kill()
        south.wait()
    for host in (NORTH, SOUTH):
        lines = cluster.log(f"cut-train-{host}").splitlines()
        (error,) = [line for line in lines if line.startswith("Error:")]
        assert error.startswith("Error: another training rank is gone, or gave no answer for 2 min")
        assert error.endswith("run the same command again, it continues from the last checkpoint")
    assert trainings.step_of(folder.checkpoint("flow")) < load_study(file).encoder.steps
    cluster.finish(*cluster.train(file, "again-train"))
    trainings.same_training(load_study(file), folder, RunFolder(together.trained))


def test_three_hosts_give_the_study_of_one(cluster, alone, together):
    for host in (NORTH, SOUTH):
        assert list((cluster.folder / host).glob("app-*/*")), f"Spark had nothing to do on {host}"
    assert cluster.digests(together.store) == alone().digests
    assert results_of(together.file) == results_of(alone().file)


def test_an_extraction_goes_on_without_a_host_that_is_cut_off(cluster, alone, study):
    store = f"{BUCKET}/cut.zarr"
    file = study("cut-extract", store)
    extraction = cluster.extract(file, "cut-extract")
    claim = f'"PUT {store.removeprefix("s3:/")}/extraction.json'
    cluster.wait_until(lambda: claim in cluster.log("s3"), extraction)
    with cut_off(cluster, NORTH):
        cluster.finish(extraction)
    log = (file.with_suffix("") / "logs" / "hail.log").read_text()
    assert "Lost executor" in log, "nothing was missed of the host"
    cluster.finish(cluster.extract(file, "again-extract"))
    assert cluster.digests(store) == alone().digests


def test_estimates_go_on_without_a_host_that_is_cut_off(cluster, together, study):
    file = study("cut-estimate", together.store)
    shutil.copytree(together.trained, file.with_suffix(""))
    estimation = cluster.estimate(file, "cut-estimate")
    cluster.wait_until(lambda: "Receive client" in cluster.log(SCHEDULER), estimation)
    with cut_off(cluster, NORTH):
        cluster.finish(estimation)
    assert "Remove worker" in cluster.log(SCHEDULER), "nothing was missed of the host"
    assert results_of(file) == results_of(together.file)


def test_a_host_that_estimates_and_is_cut_off_says_so(cluster, together, study):
    file = study("cut-off", together.store)
    shutil.copytree(together.trained, file.with_suffix(""))
    estimation = cluster.estimate(file, "cut-off", host=SOUTH)
    cluster.wait_until(lambda: "Receive client" in cluster.log(SCHEDULER), estimation)
    with cut_off(cluster, SOUTH):
        assert estimation.wait(PATIENCE_SECONDS) == 1
    (error,) = cluster.log("cut-off").splitlines()
    assert error.startswith("Error: a chunk of the store could not be read: Dask's scheduler or")
    assert error.endswith("run the same command again, it continues where it stopped")
    cluster.finish(cluster.estimate(file, "again-estimate"))
    assert results_of(file) == results_of(together.file)
