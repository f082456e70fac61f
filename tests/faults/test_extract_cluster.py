"""A Spark cluster of two workers on this machine, one executor of which is killed."""

from __future__ import annotations

import os
import runpy
import shlex
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

ROOT = Path(__file__).parents[2]
machine = SimpleNamespace(**runpy.run_path(str(ROOT / "tests" / "machine.py")))
ON_SPARK = ROOT / "deploy" / "dataproc" / "on_spark.py"
PACKAGES = Path(sysconfig.get_path("purelib"))
HAIL = PACKAGES / "hail" / "backend" / "hail-all-spark.jar"
ENTRYPOINT = ROOT / "deploy" / "kubernetes" / "entrypoint.sh"
OPENED = ["java.lang", "java.lang.invoke", "java.net", "java.nio", "java.util", "sun.nio.ch"]
"""Some of the packages that Spark opens to itself on Java 17; on Kubernetes its driver says so."""
PROPERTIES = """
spark.master                  {master}
spark.executor.cores          2
spark.driver.host             127.0.0.1
spark.driver.port             {port}
spark.driver.extraClassPath   {jar}
spark.ui.enabled              false
"""
PATIENCE_SECONDS = 600

pytestmark = [pytest.mark.spark, pytest.mark.slow]

ON_CLUSTER = """
import sys
import hail as hl
from mrscale.study_file import load_study
from pipelines.extract import extract

study, out, master, log = load_study(sys.argv[1]), *sys.argv[2:]
hl.init(
    master=master,
    log=log,
    quiet=True,
    spark_conf={
        "spark.executor.memory": "1g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
    },
)
extract(study, out)
"""


def java_home():
    from pipelines.spark import find_java

    return str(Path(find_java().path).resolve().parent.parent)


@pytest.fixture
def cluster(tmp_path):
    """A standalone cluster: its address, and the processes of its two workers."""
    pyspark = pytest.importorskip("pyspark")
    home = Path(pyspark.__file__).parent
    environment = os.environ | {
        "JAVA_HOME": java_home(),
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_WORKER_DIR": str(tmp_path / "work"),
    }
    (port,), processes = machine.free_ports(1), []

    def start(kind, *words):
        command = [home / "bin" / "spark-class", f"org.apache.spark.deploy.{kind}", *words]
        with (tmp_path / f"spark-{len(processes)}.log").open("wb") as log:
            processes.append(psutil.Popen(command, env=environment, stdout=log, stderr=log))

    address = f"spark://127.0.0.1:{port}"
    start("master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", "0")
    for _ in range(2):
        words = ["--host", "127.0.0.1", "--cores", "1", "--memory", "1g", "--webui-port", "0"]
        start("worker.Worker", *words, address)
    yield address, processes[1:]
    executors = [child for process in processes for child in process.children()]
    for process in processes:
        process.terminate()
        process.wait()
    psutil.wait_procs(executors)  # they end without a worker


def test_an_executor_killed_while_reading(tmp_path, cluster, extracting, is_undisturbed):
    address, workers = cluster
    out, log = tmp_path / "store.zarr", tmp_path / "hail.log"
    extraction = extracting(
        out,
        address,
        log,
        script=ON_CLUSTER,
        PYSPARK_PYTHON=sys.executable,
        JAVA_HOME=java_home(),
    )
    extraction.wait_until(lambda: extraction.blocks)
    below = [child for worker in workers for child in worker.children()]
    executors = [child for child in below if child.name() == "java"]
    assert len(executors) == 2
    executors[0].kill()
    assert extraction.finish() == 0, extraction.output
    assert "ExecutorLostFailure" in log.read_text(), "the executor had nothing to do"
    is_undisturbed(out)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["PYSPARK_SUBMIT_ARGS", "spark-submit"])
def test_the_command_line_on_the_cluster_that_spark_submit_is_told(
    way, tmp_path, cluster, biobank, is_undisturbed
):
    address, _ = cluster
    out = tmp_path / "store.zarr"
    told = ["--master", address, "--conf", "spark.executor.memory=1g"]
    told += ["--conf", "spark.driver.host=127.0.0.1", "--conf", "spark.ui.enabled=false"]
    environment = os.environ | {"JAVA_HOME": java_home(), "PYSPARK_PYTHON": sys.executable}
    words = ["extract", str(biobank), "--out", str(out)]
    if way == "spark-submit":
        submit = PACKAGES / "pyspark" / "bin" / "spark-submit"
        environment["PYTHONPATH"] = str(ROOT)
        command = [submit, *told, "--driver-class-path", HAIL, ON_SPARK, *words]
    else:
        environment["PYSPARK_SUBMIT_ARGS"] = shlex.join([*told, "pyspark-shell"])
        command = [sys.executable, "-m", "mrscale", *words]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((tmp_path / "work").glob("app-*/*")), "no executor was started on the cluster"
    is_undisturbed(out)


@pytest.fixture
def pod(tmp_path):
    """Start the image's entrypoint with words and variables; what it prints goes to a file."""
    started = []

    def start(word, *words, **variables):
        work = tmp_path / word
        work.mkdir()
        with (tmp_path / f"{word}.log").open("wb") as log:
            process = psutil.Popen(
                [ENTRYPOINT, word, *words],
                env=os.environ
                | {"JAVA_HOME": java_home(), "PYTHONPATH": str(ROOT)}
                | {"SPARK_HOME": str(PACKAGES / "pyspark"), "PYSPARK_PYTHON": sys.executable}
                | variables,
                cwd=work,
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process, tmp_path / f"{word}.log"

    yield start
    for process in started:
        if process.is_running():
            process.kill()


@pytest.mark.timeout(900)
def test_the_image_starts_driver_and_executor_as_spark_on_kubernetes_asks(
    tmp_path, cluster, biobank, is_undisturbed, pod
):
    """The workers of the cluster have too few cores to start an executor: the one that there is was
    started by the entrypoint, with the variables of a pod."""
    address, _ = cluster
    out, properties = tmp_path / "store.zarr", tmp_path / "spark.properties"
    (port,) = machine.free_ports(1)
    properties.write_text(PROPERTIES.format(master=address, port=port, jar=HAIL))
    words = ["--properties-file", properties, "--class", "org.apache.spark.deploy.PythonRunner"]
    words += [f"local://{ON_SPARK}", "extract", biobank, "--out", out]
    driver, said = pod("driver", *words, SPARK_DRIVER_BIND_ADDRESS="127.0.0.1")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _listens(port):
        assert driver.poll() is None, said.read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    options = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
    executor, log = pod(
        "executor",
        SPARK_DRIVER_URL=f"spark://CoarseGrainedScheduler@127.0.0.1:{port}",
        SPARK_EXECUTOR_ID="1",
        SPARK_EXECUTOR_CORES="2",
        SPARK_EXECUTOR_MEMORY="1g",
        SPARK_EXECUTOR_POD_IP="127.0.0.1",
        SPARK_EXECUTOR_POD_NAME="extract-exec-1",
        SPARK_APPLICATION_ID="extract",
        SPARK_RESOURCE_PROFILE_ID="0",
        SPARK_CLASSPATH=str(HAIL),
        **{f"SPARK_JAVA_OPT_{i}": option for i, option in enumerate(options)},
    )
    assert driver.wait(PATIENCE_SECONDS) == 0, said.read_text()[-3000:]
    executor.wait(60)  # it ends without its driver
    assert "Finished task" in log.read_text()
    assert not list((tmp_path / "work").glob("app-*/*")), "the cluster had executors of its own"
    is_undisturbed(out)


def test_the_image_runs_every_other_word_as_it_is():
    done = subprocess.run(
        [ENTRYPOINT, "echo", "two words", "driver"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "two words driver\n"


def _listens(port):
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
