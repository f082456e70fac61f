"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest

from mrscale import disclosure
from mrscale.store import writer
from mrscale.store.schema import Layout

CHECKOUT = Path(__file__).resolve().parent.parent
# Java's optimising compiler pays off after minutes; in tests of seconds it only takes processors
os.environ.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1")


@pytest.fixture(autouse=True)
def policy_of_everybody() -> Iterator[None]:
    """A study puts its disclosure policy in force for the process; no test inherits another's."""
    yield
    disclosure.enforce(disclosure.Policy())


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Find a file of the reference data that may lie beside the checkout, or skip."""

    def find(name: str) -> Path:
        path = CHECKOUT.parent / "shared" / name
        if not path.exists():
            pytest.skip(f"reference data {name!r} is not beside this checkout")
        return path

    return find


@pytest.fixture(scope="session")
def spare_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder for notebooks, so that no cache or profile is written to the real one."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def kernel(
    tmp_path: Path, spare_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[nbformat.NotebookNode], None]:
    """Execute a notebook in place, by this Python, on this checkout and in a folder of its own."""
    monkeypatch.setenv("HOME", str(spare_home))
    for name in [name for name in os.environ if name.startswith(("JUPYTER", "IPYTHON"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))

    def execute(notebook: nbformat.NotebookNode) -> None:
        nbclient.NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=280,
            resources={"metadata": {"path": str(tmp_path)}},
        ).execute()

    return execute


@pytest.fixture(scope="session")
def hail(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One JVM for all tests of this process that ask for it."""
    pytest.importorskip("hail")
    from pipelines.spark import start_hail

    start_hail(log_dir=tmp_path_factory.mktemp("hail"))


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished genotype store of 900 people, written without Spark; not to be changed."""
    path = tmp_path_factory.mktemp("small") / "store.zarr"
    write_small_store(path)
    return path


@pytest.fixture(scope="session")
def write_store() -> Callable[..., None]:
    """The function that writes small stores."""
    return write_small_store


def write_small_store(
    path: Path,
    num_people: int = 900,
    seed: int = 7,
    *,
    num_variants: int = 30,
    change: Callable[[dict[str, np.ndarray]], None] | None = None,
) -> None:
    """Write a store whose dosages follow an exogenous factor and one that shifts over three
    environments: 30 variants, 2 folds, pairs of relatives, 1 % missing calls. ``change`` writes
    over values before they are stored."""
    dosage, values = small_cohort(num_people, seed, num_variants)
    if change:
        change(values)
    layout = Layout(*dosage.shape, chunk_rows=64, shard_rows=256)
    sizes = np.bincount(values["environment"]).tolist()
    writer.create(path, layout)
    writer.finalise(
        path,
        layout=layout,
        arrays={name: writer.write_array(path, name, value) for name, value in values.items()},
        shards={
            shard: writer.write_shard(path, shard, dosage[layout.shard(shard)], key="small")
            for shard in range(layout.num_shards)
        },
        report={
            "people": [("analysed", num_people)],
            "environments": dict(zip(values["environment_name"].tolist(), sizes, strict=True)),
            "variants": {"kept": layout.num_variants},
            "missing_rate": float((dosage < 0).mean()),
        },
        provenance={"settings": {"folds": 2, "seed": seed}},
        run={},
    )


def small_cohort(
    num_people: int, seed: int, num_variants: int = 30
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Dosages, and everything else that is in the store of them."""
    rng = np.random.default_rng(seed)
    num_environments = 3
    environment = np.sort(rng.integers(0, num_environments, num_people))
    family = np.where(np.arange(num_people) < 200, np.arange(num_people) // 2, -1)
    family = rng.permutation(family)
    alone = np.where(family < 0, np.arange(num_people), family)
    exogenous = rng.normal(size=num_people)
    shift, spread = np.array([[-1.5, 0.0, 1.5], [0.5, 1.0, 2.0]])[:, environment]
    confounded = shift + spread * rng.normal(size=num_people)
    loadings = rng.normal(size=(2, num_variants))
    logit = rng.uniform(-1, 1, num_variants) + np.stack([exogenous, confounded], 1) @ loadings
    dosage = rng.binomial(2, 1 / (1 + np.exp(-logit))).astype(np.int8)
    dosage[rng.random(dosage.shape) < 0.01] = -1
    exposure = exogenous + confounded + rng.normal(size=num_people)
    outcome = 0.5 * exposure - confounded + rng.normal(size=num_people)
    groups = [dosage[environment == code] for code in range(num_environments)]
    called = np.stack([(group >= 0).mean(0) for group in groups])
    alleles = np.stack([group.clip(0).mean(0) / 2 for group in groups])
    return dosage, {
        "sample_id": np.array([f"person-{i}" for i in range(num_people)]),
        "environment": environment,
        "environment_name": np.array(["north", "south", "west"]),
        "environment_offset": np.searchsorted(environment, range(num_environments)),
        "exposure": exposure[:, None],
        "outcome": outcome[:, None],
        "covariate": rng.normal(size=(num_people, 2)),
        "exposures": np.array(["exposure"]),
        "outcomes": np.array(["outcome"]),
        "covariates": np.array(["age", "PC1"]),
        "family": family,
        "cluster": family,
        "fold": alone % 2,
        "variant_contig": np.full(num_variants, "1"),
        "variant_position": 1000 + np.arange(num_variants),
        "variant_allele": np.tile(["A", "C"], (num_variants, 1)),
        "variant_id": np.array([f"variant-{i}" for i in range(num_variants)]),
        "variant_effect_allele": np.full(num_variants, "C"),
        "variant_allele_frequency": alleles / called,
        "variant_call_rate": called,
        "variant_hwe_p": np.ones_like(called),
    }
