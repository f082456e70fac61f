"""Properties of whole stores: any size and any missingness come back, and ids stay text."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrscale.store import writer
from mrscale.store.append import append
from mrscale.store.reader import open_dataset, open_store
from mrscale.store.schema import CALLS, CODES, DosageCode, Layout
from mrscale.store.verify import verify

FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def write(path: str, rng: np.random.Generator, **given: Any) -> dict[str, Any]:
    """Write a store of two environments; what it holds."""
    sizes: list[int] = given.get("sizes", [21, 40])
    num_variants, code = given.get("num_variants", 3), given.get("code", CALLS)
    num_people = sum(sizes)
    environment = np.repeat(np.arange(len(sizes)), sizes)
    ids = given.get("ids", [f"{i:07d}" for i in range(num_people)])
    dosage = rng.uniform(0, 2, (num_people, num_variants))
    dosage[rng.random(dosage.shape) < 0.2] = np.nan
    layout = given.get("layout", Layout.choose(num_people, num_variants))
    shares = np.ones((len(sizes), num_variants))
    variants = [f"v{i}" for i in range(num_variants)]
    values = {
        "call_dosage": code.encode(dosage),
        "sample_id": np.array(ids),
        "environment": environment,
        "environment_name": np.array([f"e{i}" for i in range(len(sizes))]),
        "environment_offset": np.concatenate([[0], np.cumsum(sizes)[:-1]]),
        "exposure": given.get("exposure", rng.normal(size=(num_people, 1))).astype(np.float32),
        "outcome": rng.normal(size=(num_people, 1)).astype(np.float32),
        "covariate": np.empty((num_people, 0), dtype=np.float32),
        "exposures": np.array(["x"]),
        "outcomes": np.array(["y"]),
        "covariates": np.array([], dtype=str),
        "family": np.full(num_people, -1),
        "cluster": np.full(num_people, -1),
        "fold": np.arange(num_people) % 2,
        "variant_contig": np.full(num_variants, "1"),
        "variant_position": np.arange(num_variants),
        "variant_allele": np.tile(["A", "C"], (num_variants, 1)).reshape(num_variants, 2),
        "variant_id": np.array(variants, dtype=str),
        "variant_effect_allele": np.full(num_variants, "C"),
        "variant_allele_frequency": shares,
        "variant_call_rate": shares,
        "variant_hwe_p": np.where(shares > 0, np.nan, shares),
    }
    writer.create(path, layout, code=code)
    small = {name: value for name, value in values.items() if name != "call_dosage"}
    writer.finalise(
        path,
        layout=layout,
        arrays={name: writer.write_array(path, name, value) for name, value in small.items()},
        shards={
            i: writer.write_shard(path, i, values["call_dosage"][layout.shard(i)], key="k")
            for i in range(layout.num_shards)
        },
        report={},
        provenance={},
        run={},
    )
    return values


@FEW
@given(
    seed=st.integers(0, 99),
    num_variants=st.sampled_from([0, 1, 2, 7]),
    sizes=st.lists(st.sampled_from([1, 20, 21, 64, 100]), min_size=1, max_size=4),
    code=st.sampled_from(list(CODES.values())),
    chunk=st.sampled_from([1, 8, 32, 512]),
)
def test_a_store_of_any_size_comes_back_and_verifies(
    seed: int, num_variants: int, sizes: list[int], code: DosageCode, chunk: int
):
    layout = Layout(sum(sizes), num_variants, chunk, 2 * chunk)
    with tempfile.TemporaryDirectory() as path:
        rng = np.random.default_rng(seed)
        given = {"num_variants": num_variants, "sizes": sizes, "code": code, "layout": layout}
        values = write(path, rng, **given)
        store = verify(path, workers=0)
        for name, value in values.items():
            if name != "call_dosage":
                np.testing.assert_array_equal(store.array(name), value, name)
        np.testing.assert_array_equal(store.dosage(slice(None)), values["call_dosage"])
        assert store.dosage(slice(3, 5)).shape == (len(range(sum(sizes))[3:5]), num_variants)
        assert open_dataset(path)["call_dosage"].shape == (sum(sizes), num_variants)


@FEW
@given(st.data())
def test_ids_that_look_like_numbers_stay_text(data: st.DataObject):
    text = st.text("0123456789.eE+-", min_size=1, max_size=12) | st.text(min_size=1, max_size=6)
    # a NUL at the end of a text is lost in numpy's fixed-width arrays
    usable = text.filter(lambda t: "\0" not in t and t not in ("7", "07", "007"))
    ids = data.draw(st.lists(usable, min_size=58, max_size=58, unique=True))
    ids += ["7", "07", "007"]
    with tempfile.TemporaryDirectory() as path:
        write(path, np.random.default_rng(0), ids=ids)
        assert open_store(path).array("sample_id").tolist() == ids
        assert [str(v) for v in open_dataset(path)["sample_id"].values] == ids
        order = data.draw(st.permutations(range(61)))
        values = np.arange(61.0)[:, None]
        append(path, np.array(ids)[order], {"exposure": (["n"], values[order])})
        np.testing.assert_array_equal(open_store(path).array("exposure")[:, 1:], values)
        verify(path, workers=0)


@FEW
@given(st.data())
def test_any_missingness_of_any_traits_comes_back(data: st.DataObject):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))

    def trait(rate: float) -> np.ndarray:
        return np.where(rng.random((61, 1)) < rate, np.nan, rng.normal(size=(61, 1)))

    rates = st.sampled_from([0.0, 0.1, 0.9, 1.0])
    with tempfile.TemporaryDirectory() as path:
        base = trait(data.draw(rates))
        ids = write(path, rng, exposure=base)["sample_id"]
        expected = {"exposure": [base], "outcome": [open_store(path).array("outcome")]}
        expected["covariate"] = []
        for number in range(data.draw(st.integers(1, 3))):
            kinds = data.draw(st.sets(st.sampled_from(list(expected)), min_size=1))
            table = {kind: ([f"{kind}{number}"], trait(data.draw(rates))) for kind in kinds}
            present = rng.random(61) < data.draw(st.sampled_from([0.2, 1.0]))
            present[rng.integers(61)] = True
            given = {kind: (names, values[present]) for kind, (names, values) in table.items()}
            append(path, ids[present], given)
            for kind, (_, values) in table.items():
                expected[kind].append(np.where(present[:, None], values, np.nan))
        store = verify(path, workers=0)
        dataset = open_dataset(path)
        for kind, parts in expected.items():
            whole = np.concatenate(parts or [np.empty((61, 0))], axis=1).astype(np.float32)
            np.testing.assert_array_equal(store.array(kind), whole)
            np.testing.assert_array_equal(dataset[kind].values, whole)
