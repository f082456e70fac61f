"""A Spark cluster of two workers on this machine, one executor of which is killed."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.spark, pytest.mark.slow]

ON_CLUSTER = """
import sys
import hail as hl
from mrscale.config import load_study
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
    port, processes = _free_port(), []

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
        packages = Path(sysconfig.get_path("purelib"))
        submit = packages / "pyspark" / "bin" / "spark-submit"
        jar = packages / "hail" / "backend" / "hail-all-spark.jar"
        environment["PYTHONPATH"] = str(ROOT)
        program = str(ROOT / "deploy" / "dataproc" / "on_spark.py")
        command = [submit, *told, "--driver-class-path", str(jar), program, *words]
    else:
        environment["PYSPARK_SUBMIT_ARGS"] = shlex.join([*told, "pyspark-shell"])
        command = [sys.executable, "-m", "mrscale", *words]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((tmp_path / "work").glob("app-*/*")), "no executor was started on the cluster"
    is_undisturbed(out)


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
