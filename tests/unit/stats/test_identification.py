"""What is refused before anything is estimated, and in which words."""

from __future__ import annotations

import numpy as np
import pytest

from mrscale.errors import InputError
from mrscale.stats.identification import dependent, listed, require_estimable
from mrscale.stats.moments import Moments
from mrscale.stats.reduced import Columns, reduce_design

NAMES = ["bmi", "ldl"]


def check(z, w, x, y, *, names=None, instrumented=True):
    rows = np.column_stack([z, w, x, y])
    columns = Columns(z.shape[1], w.shape[1], x.shape[1])
    moments = Moments.from_block(rows)
    reduced, _ = reduce_design(moments, columns)
    names = names or NAMES[: x.shape[1]]
    require_estimable(moments, reduced, columns, names, instrumented=instrumented)


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    z, w, u = rng.normal(size=(100, 3)), rng.normal(size=(100, 2)), rng.normal(size=(100, 1))
    x = z @ rng.normal(size=(3, 2)) + u + rng.normal(size=(100, 2))
    return {"z": z, "w": w, "x": x, "y": x.sum(1) + u[:, 0] + rng.normal(size=100)}


def test_a_good_design_passes(parts):
    check(**parts)
    check(**parts | {"z": np.zeros((100, 0))}, instrumented=False)


@pytest.mark.parametrize("num_people", [1, 5, 8])
def test_people_must_be_more_than_instruments_covariates_and_exposures(parts, num_people):
    few = {name: value[:num_people] for name, value in parts.items()}
    with pytest.raises(InputError, match=r"more people than instruments.*found 3 .*, 2 .* <=20 p"):
        check(**few)


def test_one_person_more_is_enough(parts):
    check(**{name: value[:9] for name, value in parts.items()})


def test_ols_needs_more_people_than_parameters(parts):
    few = {name: value[:6] for name, value in parts.items()} | {"z": np.zeros((6, 0))}
    with pytest.raises(InputError, match="more people than columns; found <=20 people for 5 param"):
        check(**few, instrumented=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda p: {"x": p["w"] + [[1, 2]]}, r"once the covariates are accounted for: bmi, ldl;"),
        (lambda p: {"y": p["w"] @ [1, 2]}, "the outcome does not vary once"),
        (lambda p: {"x": p["x"][:, [0, 0]]}, "bmi, ldl are linear combinations of each other"),
        (lambda p: {"y": p["x"] @ [1, 2] + p["w"][:, 0]}, "give the outcome exactly"),
        (lambda p: {"z": p["w"]}, "no instrument varies"),
        (lambda p: {"z": p["z"][:, :1]}, r"2 exposures \(bmi, ldl\) need .*; found 1, of which 1"),
        (lambda p: {"z": p["z"][:, [0, 0, 0]]}, "found 3, of which 1 independent"),
        (
            lambda p: {"x": np.c_[p["x"][:, 0], p["z"] @ [1, 1, 1] + p["w"][:, 0]]},
            r"the instruments determine the exposure ldl \(or",
        ),
        (
            lambda p: {"x": np.c_[p["x"][:, 0], p["x"][:, 0] + p["z"][:, 0]]},
            "the instruments determine the exposure bmi, ldl",
        ),
    ],
)
def test_what_is_not_identified_is_named(parts, changes, message):
    with pytest.raises(InputError, match=message):
        check(**parts | changes(parts))


def off(parts, values):
    controls = np.column_stack([np.ones(100), parts["w"], parts["z"]])
    return values - controls @ np.linalg.lstsq(controls, values)[0]


def test_an_exposure_without_association_is_named(parts):
    x = parts["x"].copy()
    x[:, 1] = off(parts, x[:, 1])
    with pytest.raises(InputError, match="explain nothing of the exposure ldl"):
        check(**parts | {"x": x})


def test_exposures_that_instruments_do_not_separate_are_named(parts):
    rng = np.random.default_rng(1)
    noise = off(parts, rng.normal(size=(100, 3)))
    score = parts["z"].sum(1)
    x = noise + np.column_stack([score, -3 * score, parts["z"][:, 0]])
    with pytest.raises(InputError, match="do not tell the exposures bmi, fat apart"):
        check(**parts | {"x": x}, names=["bmi", "fat", "ldl"])


def test_nearly_weak_is_not_refused(parts):
    x = off(parts, parts["x"]) + 1e-5 * parts["z"][:, :2]
    check(**parts | {"x": x})


def test_lists_are_bounded():
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_dependence_does_not_depend_on_units():
    a = np.random.default_rng(0).normal(size=(50, 3)) * [1e-8, 1, 1e8]
    assert not dependent(a.T @ a).any()
    b = np.column_stack([a, a[:, 1] * 3])
    assert dependent(b.T @ b).tolist() == [False, True, False, True]
    assert dependent(np.diag([1.0, 1e-12]), np.ones(2)).tolist() == [False, True]
