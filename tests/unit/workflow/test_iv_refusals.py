"""What ``mrscale.iv`` refuses, in one sentence each that shows no value of a participant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import mrscale as mr
from mrscale.errors import InputError


def fit(data: dict[str, Any], **changes: Any) -> mr.results.IVResult:
    return mr.iv(**data | changes)


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.astype(float)
    changed[(7,) * array.ndim if array.ndim == 1 else (7, 0)] = value
    return changed


def two_exposures(data: dict[str, Any]) -> pd.DataFrame:
    other = data["instruments"][:, 1] + data["outcome"]
    return pd.DataFrame({"bmi": data["exposure"], "ldl": other})


REFUSED = {
    "lengths": (lambda d: {"exposure": d["exposure"][:-1]}, "outcome and exposure must have one"),
    "missing exposure": (
        lambda d: {"exposure": with_value(d["exposure"], np.nan)},
        r"exposure must hold finite numbers.*1 of 1 columns \(exposure\); fill them",
    ),
    "infinite covariate": (
        lambda d: {
            "covariates": pd.DataFrame(with_value(d["covariates"], np.inf), columns=list("ab"))
        },
        r"covariate must hold finite.*1 of 2 columns \(a\)",
    ),
    "overflow": (
        lambda d: {"covariates": d["covariates"] * 1e200},
        "covariate must hold finite numbers",
    ),
    "missing dosage": (
        lambda d: {"instruments": with_value(d["instruments"], np.nan)},
        r"instrument must hold finite.*\(instrument_0\)",
    ),
    "outcome of one value": (
        lambda d: {"outcome": np.full(400, 0.1)},
        "the outcome must vary between people; found one value for all in outcome",
    ),
    "exposure of one value": (
        lambda d: {"exposure": np.full(400, 0.1)},
        "the exposure must vary between people",
    ),
    "covariate determines exposure": (
        lambda d: {"exposure": d["covariates"] @ [1.0, 2.0]},
        "the exposure does not vary once the covariates are accounted for: exposure",
    ),
    "covariate determines outcome": (
        lambda d: {"outcome": d["covariates"] @ [1.0, 2.0]},
        "the outcome does not vary once the covariates are accounted for",
    ),
    "exposure determines outcome": (
        lambda d: {"outcome": d["exposure"] * 2 + d["covariates"][:, 0]},
        "exposures and covariates give the outcome exactly",
    ),
    "instruments determine exposure": (
        lambda d: {"exposure": d["instruments"] @ [1.0, 2.0, 0.5]},
        "the instruments determine the exposure exposure",
    ),
    "instruments of one value": (
        lambda d: {"instruments": np.ones((400, 2))},
        "no instrument varies once the covariates are accounted for",
    ),
    "few people": (
        lambda d: {name: value[:7] for name, value in d.items()},
        r"more people than instruments, covariates and exposures; found 3 instruments, "
        r"2 covariates and <=20 people",
    ),
    "no people": (
        lambda d: {name: value[:0] for name, value in d.items()},
        "a regression needs people; found columns without any rows",
    ),
    "too few instruments": (
        lambda d: {
            "exposure": two_exposures(d),
            "instruments": d["instruments"][:, 0],
        },
        r"2 exposures \(bmi, ldl\) need as many independent instruments; found 1",
    ),
    "instruments that are one": (
        lambda d: {
            "exposure": two_exposures(d),
            "instruments": d["instruments"][:, [0, 0]],
        },
        "found 2, of which 1 independent given the covariates",
    ),
    "collinear exposures": (
        lambda d: {"exposure": pd.DataFrame({"bmi": d["exposure"], "kg": 2 * d["exposure"] - 1})},
        "the exposures bmi, kg are linear combinations of each other",
    ),
    "covariate among instruments": (
        lambda d: {"instruments": np.c_[d["instruments"], 3 - 2 * d["covariates"][:, 1]]},
        r"both an instrument and a covariate; found instrument_3 in both",
    ),
    "one cluster": (
        lambda d: {"errors": "cluster", "clusters": np.zeros(400)},
        "clustered errors need two clusters or more.*found 1",
    ),
    "missing cluster": (
        lambda d: {"errors": "cluster", "clusters": with_value(np.arange(400), np.nan)},
        "clusters must be known for everybody; found none for <=20 people",
    ),
    "table of clusters": (
        lambda d: {"errors": "cluster", "clusters": d["covariates"]},
        r"clusters must be one column; found an array of shape \(400, 2\)",
    ),
    "no clusters": (lambda d: {"errors": "cluster"}, "needs to know the clusters; give clusters="),
    "clusters for nothing": (
        lambda d: {"clusters": np.arange(400)},
        "clusters are used by errors='cluster' only; found errors='robust'",
    ),
    "estimator": (
        lambda d: {"estimator": "tsls"},
        "estimator must be one of ols, 2sls, .*; found 'tsls'; did you mean '2sls'",
    ),
    "errors": (lambda d: {"errors": "clustered"}, "found 'clustered'; did you mean 'cluster'"),
    "no instruments": (lambda d: {"instruments": None}, "'2sls' needs instruments; found none"),
    "text": (
        lambda d: {"covariates": pd.DataFrame({"centre": ["secret"] * 400})},
        "covariate must be numbers; found text, dates or mixed values; make categories",
    ),
    "outcomes": (lambda d: {"outcome": d["covariates"]}, "the outcome must be one column; found 2"),
    "names": (
        lambda d: {
            "covariates": pd.Series(d["covariates"][:, 0], name="bmi"),
            "exposure": pd.Series(d["exposure"], name="bmi"),
        },
        "every column needs a name of its own; found bmi more than once",
    ),
    "const": (
        lambda d: {"exposure": pd.Series(d["exposure"], name="const")},
        "found const more than once",
    ),
    "negative weight": (
        lambda d: {"weights": with_value(np.ones(400), -1)},
        "weights must be finite and above zero for everybody",
    ),
    "missing weight": (
        lambda d: {"weights": with_value(np.ones(400), np.nan)},
        "weights must be finite and above zero",
    ),
    "text weights": (lambda d: {"weights": np.array(["secret"] * 400)}, "weights must be numbers"),
    "few weights": (lambda d: {"weights": np.ones(399)}, "outcome and weights must have one row"),
    "labels": (
        lambda d: {
            "outcome": pd.Series(d["outcome"], range(1, 401)),
            "exposure": pd.Series(d["exposure"], range(2, 402)),
        },
        r"same people in the same order, but their row labels \(the pandas index\) differ",
    ),
    "labels of clusters": (
        lambda d: {
            "outcome": pd.Series(d["outcome"], range(1, 401)),
            "errors": "cluster",
            "clusters": pd.Series(np.arange(400), range(400, 0, -1)),
        },
        "outcome and clusters must have the same people",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_bad_input_gets_one_sentence(data, reason):
    change, message = REFUSED[reason]
    with pytest.raises(InputError, match=message) as caught:
        fit(data | change(data))
    text = str(caught.value)
    assert "\n" not in text
    assert "secret" not in text
    assert len(text) < 400


def test_no_message_shows_a_value(data):
    shown = {f"{value:.3g}" for value in data["exposure"][:20]}
    for change, _ in REFUSED.values():
        with pytest.raises(InputError, match=r".") as caught:
            fit(data | change(data))
        assert not any(value in str(caught.value) for value in shown if len(value) > 4)


@pytest.mark.parametrize("estimator", ["2sls", "liml", "gmm", "jive"])
def test_exposures_that_instruments_do_not_tell_apart(data, estimator):
    rng = np.random.default_rng(2)
    score = data["instruments"] @ [1.0, 2.0, 3.0]
    controls = np.column_stack([np.ones(400), data["covariates"], data["instruments"]])
    noise = rng.normal(size=(400, 2))
    noise -= controls @ np.linalg.lstsq(controls, noise)[0]  # nothing else in the sample
    exposure = pd.DataFrame(score[:, None] * [1, -2] + noise, columns=["bmi", "fat"])
    with pytest.raises(InputError, match="do not tell the exposures bmi, fat apart"):
        fit(data, exposure=exposure, estimator=estimator)


def test_an_exposure_that_instruments_do_not_explain(data):
    controls = np.column_stack([np.ones(400), data["covariates"], data["instruments"]])
    exposure = data["exposure"] - controls @ np.linalg.lstsq(controls, data["exposure"])[0]
    with pytest.raises(InputError, match="explain nothing of the exposure exposure"):
        fit(data, exposure=exposure)


def test_too_many_moments_for_gmm_are_refused(data):
    clusters = np.arange(400) // 100
    with pytest.raises(InputError, match="with clustered errors more clusters, than instruments"):
        fit(data, estimator="gmm", errors="cluster", clusters=clusters)


@pytest.mark.filterwarnings("ignore::scipy.linalg.LinAlgWarning")  # why it is refused
def test_instruments_of_one_carrier_each_are_refused_in_words(data):
    # the first stage fits these people exactly: its robust covariance is singular
    with pytest.raises(InputError, match=r"no finite number.*leave out the redundant and the rare"):
        fit(data, instruments=np.eye(400)[:, :3], covariates=None)
