"""JIVE and UJIVE."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import linalg

from mrscale.stats import jive


class Dense:
    """A whole design in memory."""

    def __init__(self, seed: int = 0, num_people: int = 150, num_exposures: int = 2) -> None:
        rng = np.random.default_rng(seed)
        self.z = rng.binomial(2, 0.2, size=(num_people, 12)).astype(float)
        self.w = np.column_stack([np.ones(num_people), rng.normal(size=(num_people, 2))])
        common = rng.normal(size=(num_people, 1))
        self.x = self.z @ rng.normal(size=(12, num_exposures)) + common
        self.x += rng.normal(size=self.x.shape)
        self.y = (
            self.x.sum(1) + self.w @ [3.0, 1.0, 0.0] + common[:, 0] + rng.normal(size=num_people)
        )

    @property
    def q(self) -> np.ndarray:
        return linalg.qr(np.column_stack([self.w, self.z]), mode="economic")[0]

    @property
    def c(self) -> np.ndarray:
        return linalg.qr(self.w, mode="economic")[0]

    def first(self, kind: str) -> jive.FirstStage:
        return jive.FirstStage(self.q.T @ self.x, self.c.T @ self.x if kind == "ujive" else None)

    def rows(self, block: slice = slice(None)) -> jive.LeaveOutRows:
        return jive.LeaveOutRows(self.q[block], self.x[block], self.c[block], self.y[block])

    def fit(self, kind: str, *, partial_out: bool = True) -> jive.LeaveOutFit:
        sums = jive.leave_out_block(self.first(kind), self.rows())
        return jive.leave_out_fit(sums, partial_out=partial_out)

    def drop(self, person: int) -> None:
        for name in ["z", "w", "x", "y"]:
            setattr(self, name, np.delete(getattr(self, name), person, axis=0))


def kolesar(data: Dense) -> np.ndarray:
    """``(I - D_Q)^-1 (H_Q - D_Q) - (I - D_W)^-1 (H_W - D_W)`` as an N x N matrix."""
    terms = []
    for columns in [np.column_stack([data.z, data.w]), data.w]:
        hat = columns @ np.linalg.inv(columns.T @ columns) @ columns.T
        d = np.diag(np.diag(hat))
        terms.append(np.linalg.inv(np.eye(len(d)) - d) @ (hat - d))
    return terms[0] - terms[1]


def test_predictions_are_those_of_a_regression_without_the_person() -> None:
    data = Dense()
    found = jive.leave_out_instruments(data.first("jive"), data.rows())
    columns = np.column_stack([data.z, data.w])
    for person in range(0, len(data.y), 10):
        others = np.arange(len(data.y)) != person
        coefficients = np.linalg.lstsq(columns[others], data.x[others], rcond=None)[0]
        assert_allclose(found[person], columns[person] @ coefficients, rtol=1e-9)


@pytest.mark.parametrize("num_exposures", [1, 2])
def test_ujive_is_kolesars_formula(num_exposures: int) -> None:
    data = Dense(num_exposures=num_exposures)
    instruments = kolesar(data) @ data.x
    assert_allclose(
        jive.leave_out_instruments(data.first("ujive"), data.rows()), instruments, rtol=1e-8
    )
    to_the_letter = np.linalg.solve(instruments.T @ data.x, instruments.T @ data.y)
    fit = data.fit("ujive", partial_out=False)
    assert_allclose(fit.params[:num_exposures], to_the_letter, rtol=1e-9)
    remove = np.eye(len(data.y)) - data.c @ data.c.T
    x, y = remove @ data.x, remove @ data.y
    expected = np.linalg.solve(instruments.T @ x, instruments.T @ y)
    assert_allclose(data.fit("ujive").params[:num_exposures], expected, rtol=1e-9)


def test_errors_of_ujive_to_the_letter() -> None:
    """As Stata manyiv has them: residuals with the controls partialled out, raw denominators."""
    data = Dense(num_exposures=1)
    fit = data.fit("ujive", partial_out=False)
    instrument = (kolesar(data) @ data.x)[:, 0]
    remove = np.eye(len(data.y)) - data.c @ data.c.T
    u = remove @ (data.y - data.x[:, 0] * fit.params[0])
    denominator = instrument @ data.x[:, 0]
    classical = u @ u / len(u) * (instrument @ instrument) / denominator**2
    assert_allclose(fit.classical_cov[0, 0], classical, rtol=1e-9)
    scores = jive.leave_out_scores(data.first("ujive"), fit, data.rows())
    robust = np.sum((instrument * u) ** 2) / denominator**2
    assert_allclose((scores.T @ scores)[0, 0], robust, rtol=1e-9)


@pytest.mark.parametrize("kind", ["jive", "ujive"])
def test_partialled_columns_give_the_same_effects(kind: str) -> None:
    data, partialled = Dense(), Dense()
    remove = np.eye(len(data.y)) - data.c @ data.c.T
    partialled.x, partialled.y = remove @ data.x, remove @ data.y
    fit, same = data.fit(kind), partialled.fit(kind)
    assert_allclose(same.params[:2], fit.params[:2], rtol=1e-9)
    assert_allclose(same.params[2:], 0, atol=1e-9)
    assert_allclose(same.classical_cov[:2, :2], fit.classical_cov[:2, :2], rtol=1e-9)
    if kind == "ujive":
        letter = partialled.fit(kind, partial_out=False)
        assert_allclose(letter.params[:2], fit.params[:2], rtol=1e-9)


@pytest.mark.parametrize("kind", ["jive", "ujive"])
def test_effects_do_not_depend_on_the_origin_of_the_outcome(kind: str) -> None:
    data, moved = Dense(), Dense()
    moved.y = moved.y + 1000
    assert_allclose(moved.fit(kind).params[:2], data.fit(kind).params[:2], rtol=1e-8)


@pytest.mark.parametrize("kind", ["jive", "ujive"])
def test_blocks_combine(kind: str) -> None:
    data = Dense()
    first = data.first(kind)
    whole = jive.leave_out_block(first, data.rows())
    cuts = [slice(0, 60), slice(60, 60), slice(60, 150)]
    parts = [jive.leave_out_block(first, data.rows(cut)) for cut in cuts]
    combined = parts[0].combine(parts[1]).combine(parts[2])
    assert_allclose(combined.cross, whole.cross, rtol=1e-11, atol=1e-9)
    assert (combined.count, combined.num_alone) == (150, 0)
    fit = jive.leave_out_fit(whole)
    scores = [jive.leave_out_scores(first, fit, data.rows(cut)) for cut in cuts]
    assert_allclose(
        np.concatenate(scores), jive.leave_out_scores(first, fit, data.rows()), rtol=1e-12
    )


@pytest.mark.parametrize("kind", ["jive", "ujive"])
def test_scores_sum_to_zero_and_give_the_sandwich(kind: str) -> None:
    data = Dense()
    fit, first = data.fit(kind), data.first(kind)
    scores = jive.leave_out_scores(first, fit, data.rows())
    assert_allclose(scores.sum(0) / np.abs(scores).sum(0), 0, atol=1e-12)
    columns = np.column_stack([jive.leave_out_instruments(first, data.rows()), data.c])
    regressors = np.column_stack([data.x, data.c])
    u = data.y - regressors @ fit.params
    assert_allclose(fit.residual_ss, u @ u, rtol=1e-10)
    bread = np.linalg.inv(columns.T @ regressors)
    expected = bread @ (columns * u[:, None] ** 2).T @ columns @ bread.T
    assert_allclose(scores.T @ scores, expected, rtol=1e-9)


def test_a_person_alone_with_an_instrument_is_left_out_and_counted() -> None:
    data = Dense()
    data.z = np.column_stack([data.z, np.arange(150) == 17])
    fit = data.fit("jive")
    assert (fit.num_alone, fit.count) == (1, 149)
    scores = jive.leave_out_scores(data.first("jive"), fit, data.rows())
    assert not scores[17].any()
    without = Dense()
    without.drop(17)
    expected = without.fit("jive")
    assert expected.num_alone == 0
    assert_allclose(fit.params[:2], expected.params[:2], rtol=1e-9)
    assert_allclose(fit.classical_cov[:2, :2], expected.classical_cov[:2, :2], rtol=1e-9)
    same = jive.leave_out_scores(without.first("jive"), expected, without.rows())
    assert_allclose((scores.T @ scores)[:2, :2], (same.T @ same)[:2, :2], rtol=1e-9)


def test_many_instruments_bias_2sls_but_not_jackknives() -> None:
    rng = np.random.default_rng(3)
    errors = {"2sls": [], "jive": [], "ujive": []}
    for seed in range(60):
        data = Dense(seed, num_people=400, num_exposures=1)
        data.z = rng.normal(size=(400, 40))
        common = rng.normal(size=400)
        data.x = (0.12 * data.z.sum(1) + common + 0.3 * rng.normal(size=400))[:, None]
        data.y = common + 0.3 * rng.normal(size=400)
        errors["jive"].append(data.fit("jive").params[0])
        errors["ujive"].append(data.fit("ujive").params[0])
        fitted = data.q @ (data.q.T @ data.x) - data.c @ (data.c.T @ data.x)
        errors["2sls"].append(float(fitted[:, 0] @ data.y / (fitted[:, 0] @ data.x[:, 0])))
    mean = {name: np.mean(values) for name, values in errors.items()}
    spread = np.std(errors["ujive"]) / 60**0.5
    assert mean["2sls"] > 0.1
    # Monte Carlo: four standard errors of the mean
    assert abs(mean["ujive"]) < 4 * spread
    assert abs(mean["jive"]) < 4 * spread
