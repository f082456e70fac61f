"""deploy/slurm on a SLURM of one node, started here: a study as a chain of jobs, one of them put
back into the queue, gives the estimates of the same study run locally, and so do Dask's workers as
jobs."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml

import mrscale as mr
from mrscale.workflow.runfolder import RunFolder

ROOT = Path(__file__).parents[2]
machine = SimpleNamespace(**runpy.run_path(str(ROOT / "tests" / "machine.py")))
SLURM = ROOT / "deploy" / "slurm"
PATIENCE_SECONDS = 600
PROGRAMS = ["munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol"]
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ctld}
SlurmdPort={slurmd}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
KillWait=2
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0,defer_batch
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4096 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""
SITE = """
source "$MRSCALE_SLURM/site.sh"
extract_options=(--nodes=1 --cpus-per-task=2 --time=20)
train_options=(--nodes=1 --cpus-per-task=2 --time=20)
estimate_options=(--nodes=1 --cpus-per-task=2 --time=20)
ranks_per_node=2
"""
ENCODER = """
[encoder]
methods = ["linear", "flow"]
latent_dim = 1
restarts = 1
steps = {steps}
ranks = 2
"""

pytestmark = [
    pytest.mark.spark,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        bool(missing := [name for name in PROGRAMS if not shutil.which(name, path=PATH)]),
        reason=f"needs Debian's slurmctld, slurmd, slurm-client and munge; without {missing}",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd runs jobs as others: needs root"),
]


class Slurm:
    """A controller and a node on this machine, in a folder of their own."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []
        host = socket.gethostname().split(".")[0]
        for name in ("state", "spool"):
            (folder / name).mkdir()
        conf = folder / "slurm.conf"
        ctld, slurmd = machine.free_ports(2)
        conf.write_text(CONF.format(folder=folder, host=host, ctld=ctld, slurmd=slurmd))
        self.environment = os.environ | {"SLURM_CONF": str(conf), "PATH": PATH}
        key = folder / "munge.key"
        self("mungekey", "--create", "--keyfile", key)
        places = {"key-file": key, "socket": folder / "munge.socket"}
        places |= {f"{kind}-file": folder / f"munge.{kind}" for kind in ("pid", "log", "seed")}
        words = [f"--{name}={path}" for name, path in places.items()]
        self._serve("munged", "--foreground", "--force", *words)
        _wait_for((folder / "munge.socket").exists)
        self._serve("slurmctld", "-D", "-i")
        self._serve("slurmd", "-D", "-N", host)
        _wait_for(lambda: "State=IDLE" in self("scontrol", "show", "node", host))

    def __call__(self, *command, **more):
        """Run a command against this SLURM; what it prints."""
        done = subprocess.run(
            [str(word) for word in command],
            env=self.environment | more,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state(self, job):
        """A job as scontrol describes it: its fields by name."""
        words = self("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job, *states):
        """Wait until a job is in one of the states."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := self.state(job))["JobState"] not in states:
            ended = found["JobState"] in ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
            if ended or time.monotonic() > deadline:
                logs = [path.read_text() for path in self.folder.glob("mrscale-*.log")]
                pytest.fail("\n".join([str(found), *logs]))
            time.sleep(0.5)
        return found

    def _serve(self, *command):
        with (self.folder / f"{command[0]}.out").open("wb") as log:
            self.processes.append(
                subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
            )

    def stop(self):
        subprocess.run(["scancel", "--me"], env=self.environment, check=False)
        time.sleep(3)
        for process in reversed(self.processes):
            process.terminate()
            process.wait()


def _wait_for(condition):
    deadline = time.monotonic() + 30
    while True:
        try:
            if condition():
                return
        except AssertionError:
            pass
        assert time.monotonic() < deadline, "SLURM did not start"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    cluster = None
    try:
        cluster = Slurm(tmp_path_factory.mktemp("slurm"))
        yield cluster
    finally:
        if cluster:
            cluster.stop()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study file, and the result of running it here with two ranks."""
    pytest.importorskip("msprime")
    folder = tmp_path_factory.mktemp("study")
    mr.simulate(folder, num_people=500, num_variants=20, num_environments=3)
    file = folder / "study.toml"
    file.write_text(file.read_text() + ENCODER.format(steps=160))
    here = file.read_text().replace('run = "run"', 'run = "here"')
    (folder / "here.toml").write_text(here)
    command = [sys.executable, "-m", "mrscale", "run", str(folder / "here.toml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return file, json.loads((folder / "here" / "result.json").read_text())


def test_a_study_in_jobs_and_put_back_into_the_queue_is_that_run_here(slurm, study, tmp_path):
    file, expected = study
    site = tmp_path / "site.sh"
    site.write_text(SITE)
    told = {"MRSCALE_VENV": sys.prefix, "MRSCALE_SITE": str(site), "PYTHONPATH": str(ROOT)}
    out = slurm(SLURM / "study.sh", file, **told)
    jobs = dict(line.split() for line in out.splitlines())
    assert list(jobs) == ["extract", "train", "estimate"]
    assert f"afterok:{jobs['extract']}" in slurm.state(jobs["train"])["Dependency"]

    slurm.wait(jobs["extract"], "COMPLETED")
    slurm.wait(jobs["train"], "RUNNING")
    checkpoint = file.parent / "run" / "encoders" / "flow.checkpoint.safetensors"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not checkpoint.exists():
        assert slurm.state(jobs["train"])["JobState"] == "RUNNING"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    slurm("scancel", "--batch", "--signal=USR1", jobs["train"])  # as before the time limit
    slurm.wait(jobs["train"], "PENDING")
    slurm("scontrol", "update", f"JobId={jobs['train']}", "StartTime=now")  # not in two minutes

    assert slurm.wait(jobs["train"], "COMPLETED")["Restarts"] == "1"
    slurm.wait(jobs["estimate"], "COMPLETED")
    found = json.loads((file.parent / "run" / "result.json").read_text())
    assert found["pairs"] == expected["pairs"]
    assert (file.parent / "run" / "report.html").is_file()
    left = [path.name for path in (file.parent / ".mrscale-slurm").rglob("*.*") if path.is_file()]
    assert {Path(name).suffix for name in left} == {".log"}  # no key stays
    meeting = str(file.parent / ".mrscale-slurm")
    running = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert [words[0] for words in running if meeting in " ".join(words)] == []


ON_THE_CLUSTER = """
import subprocess, sys
from distributed import Client

command = [sys.executable, "-m", "mrscale", "run", sys.argv[1], "--quiet"]
subprocess.run([*command, "--scheduler", cluster.scheduler_address], check=True)
with Client(cluster, timeout=60) as client:
    print("done", client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter))
cluster.close()
"""


def test_the_estimates_on_workers_that_are_jobs_are_those_made_here(slurm, study, tmp_path):
    """The lines of Python are those of the page; the profile has the cores and the memory, and the
    network, of this machine."""
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue: pip install --group deploy")
    file, expected = study
    copy = file.with_name("there")
    shutil.copytree(file.with_name("here"), copy)
    folder = RunFolder(copy)
    folder.reopen("encode")
    folder.reopen("estimate")
    folder.result.unlink()
    there = file.with_name("there.toml")
    there.write_text(
        file.with_name("here.toml").read_text().replace('run = "here"', 'run = "there"')
    )

    page = (SLURM / "README.md").read_text()
    home = tmp_path / "home"
    home.mkdir()
    made = re.findall(r"^(?:mkdir|openssl|sed) .+$", page, re.M)
    assert len(made) == 3
    slurm("bash", "-ec", "\n".join([f"cd {ROOT}", *made]), HOME=str(home))
    jobqueue = home / "mrscale-dask" / "jobqueue.yaml"
    profile = yaml.safe_load(jobqueue.read_text())
    profile["jobqueue"]["slurm"] |= {"cores": 1, "memory": "1 GB", "interface": "lo"}
    jobqueue.write_text(yaml.safe_dump(profile))
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.S)

    told = {
        "HOME": str(home),
        "DASK_CONFIG": str(home / "mrscale-dask"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    out = slurm(sys.executable, "-c", lines + ON_THE_CLUSTER, there, **told)
    assert out.startswith("tls://127.0.0.1:")
    (transitions,) = re.findall(r"^done (\d+)$", out, re.M)
    assert int(transitions) > 0
    assert json.loads(folder.result.read_text())["pairs"] == expected["pairs"]
    assert "mrscale" not in slurm("squeue", "--me", "--noheader", "--states", "RUNNING,PENDING")
