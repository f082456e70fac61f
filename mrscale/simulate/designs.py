"""Latent-mixing designs: what learned instruments are measured on.

Observed instruments x = f(z_I, z_C). z_I (exogenous) has one law in all environments; z_C
(confounded) has another in each. With s a curved function of z_I and c the mean of z_C, both
standardised,

    U = 0.8 c + 0.6 e_U,
    D = 0.8 s + 0.5 c + 0.6 U + 0.7 e_D,
    Y = effect D + 0.8 U + 0.3 c + 0.7 e_Y,

where the e are standard normal. The encoder sees x and the environment, never D or Y.

Legend of shapes: N people, M features, L exogenous and K confounded latents, E environments,
R redraws.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrscale.errors import InputError
from mrscale.simulate.cohort import FloatArray, standardise
from mrscale.simulate.dosages import draw_frequencies, draw_linked_dosages, mendelian_score
from mrscale.simulate.mixing import MIXINGS, draw_mixing, log_uniform, well_conditioned
from mrscale.simulate.phenotypes import COEFFICIENTS

GENOTYPES = ("factor", "mendelian")
SHIFTS = ("covariance", "mean", "scale", "shape")
VIOLATIONS = ("unmoved_confounder", "shifting_latent", "dependent_latent")

_NUM_VARIANTS = 200
_PEOPLE_PER_ENVIRONMENT = 10
_SPREAD = (0.5, 1.5)
"""Range of the standard deviations of z_C inside an environment."""
_LATENT_SHIFT = 0.5
_DEPENDENCE = 0.5

# One random stream per purpose, so that a change to one leaves the others as they were.
_LAW, _PEOPLE, _MIXING, _DOSAGES, _EFFECTS, _TRAITS, _REDRAWS = range(7)


@dataclass(frozen=True)
class _Design:
    """The arguments of :func:`simulate_latent`, complete; they become its attributes."""

    mixing: str
    num_exogenous: int
    num_confounded: int
    num_features: int
    num_environments: int
    num_people: int
    shift: str
    violation: str
    effect: float
    curvature: float
    heterogeneity: float
    linkage: float
    seed: int

    def stream(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose])


def simulate_latent(
    mixing: str = "mlp",
    *,
    num_exogenous: int | None = None,
    num_confounded: int = 2,
    num_features: int | None = None,
    num_environments: int = 5,
    num_people: int = 10_000,
    shift: Literal["covariance", "mean", "scale", "shape"] = "covariance",
    violation: Literal["unmoved_confounder", "shifting_latent", "dependent_latent"] | None = None,
    effect: float = 1.0,
    curvature: float = 0.3,
    heterogeneity: float = 0.0,
    linkage: float = 0.0,
    seed: int = 0,
) -> xr.Dataset:
    """Simulate instruments that mix an exogenous and a confounded latent, and two traits.

    Parameters
    ----------
    mixing : str
        Invertible: ``linear``, ``poly2``, ``poly3``, ``mlp``, ``tanh``. Not invertible: ``fold``,
        ``maxpool``, ``dropout``; see :func:`mrscale.simulate.mixing.draw_mixing`. Genotypes:
        ``factor``, dosages Binomial(2, sigmoid(a_j + z_I A_j + z_C B_j)); ``mendelian``, where
        frequencies follow z_C only and the exposure depends on the dosages themselves.
    num_exogenous : int, optional
        L, 2 by default. ``mendelian`` has one exogenous latent: the part of the genetic score that
        chance alone decided.
    num_confounded : int
        K.
    num_features : int, optional
        M, by default L + K, and 200 variants for genotypes.
    num_environments, num_people : int
        E and N; environments have equally many people, up to one.
    shift : {"covariance", "mean", "scale", "shape"}
        What the environment changes in the law of z_C: mean and covariance, the mean only, the
        variances only, or mean and covariance with a skewed (exponential) law in every second
        environment.
    violation : {"unmoved_confounder", "shifting_latent", "dependent_latent"}, optional
        Breaks an assumption on purpose: z_C has the same law in every environment; the mean of z_I
        moves over environments; s is correlated (0.5) with e_U.
    effect : float
        Causal effect of D on Y, averaged over environments.
    curvature : float
        Weight of the squares of z_I in s. Not used by ``mendelian``.
    heterogeneity : float
        Standard deviation of the effect over environments.
    linkage : float
        Genotypes only: probability that no recombination separates neighbouring variants, within
        blocks of ten; see :func:`mrscale.simulate.dosages.draw_linked_dosages`.
    seed : int
        Equal arguments give equal bytes on one type of machine.

    Returns
    -------
    xarray.Dataset
        Data: ``x`` (samples, features) float64, ``environment`` (samples) int16, ``exposure`` and
        ``outcome`` (samples) float64. Truth: ``z_exogenous`` (samples, exogenous),
        ``z_confounded`` (samples, confounded), ``confounder`` U, ``score`` s, ``confounding`` c
        (samples) and ``environment_effect`` (environments). Attributes: the arguments.

    Raises
    ------
    InputError
        If an argument is out of range or does not go with another.

    Notes
    -----
    z_I is uniform with variance 1, the maximal-entropy law on a bounded set. z_C is normal with
    mean mu_e and covariance L_e L_e' in environment e, then standardised over all people: mu_e is
    standard normal (opposite and 0.6 to 1 away from 0 if E = 2, so that the two differ clearly),
    and the singular values of L_e are log-uniform on [0.5, 1.5].

    In ``dependent_latent`` U changes given z_I, not z_I given U, so that the instruments keep their
    law: nothing in x and the environment can show it.

    Examples
    --------
    >>> import mrscale as mr
    >>> people = mr.simulate_latent("factor", num_people=1000)
    >>> people["x"].shape, people["z_exogenous"].shape, people["z_confounded"].shape
    ((1000, 200), (1000, 2), (1000, 2))
    """
    genotypes = mixing in GENOTYPES
    if num_exogenous is None:
        num_exogenous = 1 if mixing == "mendelian" else 2
    if num_features is None:
        num_features = _NUM_VARIANTS if genotypes else num_exogenous + num_confounded
    design = _Design(
        mixing=mixing,
        num_exogenous=num_exogenous,
        num_confounded=num_confounded,
        num_features=num_features,
        num_environments=num_environments,
        num_people=num_people,
        shift=shift,
        violation=violation or "none",
        effect=effect,
        curvature=curvature,
        heterogeneity=heterogeneity,
        linkage=linkage,
        seed=seed,
    )
    _check_choices(design)
    _check_sizes(design)
    _check_numbers(design)
    environment, exogenous, confounded = _draw_latents(design)
    x, exogenous, score = _observe(design, exogenous, confounded)
    data = xr.Dataset(
        {
            "x": (("samples", "features"), x),
            "environment": ("samples", environment.astype(np.int16)),
            "z_exogenous": (("samples", "exogenous"), exogenous),
            "z_confounded": (("samples", "confounded"), confounded),
            "score": ("samples", score),
            "confounding": ("samples", standardise(confounded.sum(axis=1))),
            "environment_effect": ("environments", _effects(design)),
        },
        attrs=asdict(design),
    )
    confounder, exposure, outcome = _draw_traits(design.stream(_TRAITS), data, 1)
    return data.assign(
        exposure=("samples", exposure[:, 0]),
        outcome=("samples", outcome[:, 0]),
        confounder=("samples", confounder[:, 0]),
    )


def redraw_traits(
    dataset: xr.Dataset, seed: int = 0, num_redraws: int = 1
) -> tuple[FloatArray, FloatArray]:
    """Draw exposure and outcome again for the same people with the same instruments.

    Parameters
    ----------
    dataset : xarray.Dataset
        From :func:`simulate_latent`.
    seed : int
        Of the redraws; those of data sets of other seeds are independent whatever it is.
    num_redraws : int
        R.

    Returns
    -------
    exposure, outcome : ndarray of float64, shape (N, R)
        With fresh e_U, e_D and e_Y in every column.

    Examples
    --------
    >>> import mrscale as mr
    >>> people = mr.simulate_latent("linear", num_people=1000)
    >>> exposure, outcome = mr.redraw_traits(people, num_redraws=3)
    >>> exposure.shape, outcome.shape
    ((1000, 3), (1000, 3))
    """
    rng = np.random.default_rng([dataset.attrs["seed"], _REDRAWS, seed])
    _, exposure, outcome = _draw_traits(rng, dataset, num_redraws)
    return exposure, outcome


def exposure_score(exogenous: FloatArray, curvature: float) -> FloatArray:
    """What the exposure takes from z_I: its mean plus ``curvature`` times that of its squares.

    Parameters
    ----------
    exogenous : ndarray of float64, shape (N, L)
        Of mean 0 and variance 1.
    curvature : float
        Weight of the squares; 0 is a linear first stage.

    Returns
    -------
    ndarray of float64, shape (N,)
        Mean 0 and standard deviation 1.
    """
    return standardise((exogenous + curvature * (exogenous**2 - 1)).sum(axis=1))


def _draw_latents(d: _Design) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
    """Environment, z_I and z_C of people in random order."""
    law, people = d.stream(_LAW), d.stream(_PEOPLE)
    environment = people.permutation(np.arange(d.num_people) % d.num_environments)
    exogenous = people.uniform(-math.sqrt(3), math.sqrt(3), (d.num_people, d.num_exogenous))
    base = people.standard_normal((d.num_people, d.num_confounded))
    if d.violation != "unmoved_confounder":
        if d.shift == "shape":
            skewed = people.exponential(size=base.shape) - 1
            base = np.where(environment[:, None] % 2 == 1, skewed, base)
        mean, factor = _environment_laws(law, d)
        base = mean[environment] + np.einsum("nj,nij->ni", base, factor[environment])
    if d.violation == "shifting_latent":
        moves = law.standard_normal((d.num_environments, d.num_exogenous))
        exogenous = standardise(exogenous + _LATENT_SHIFT * moves[environment])
    return environment, exogenous, standardise(base)


def _environment_laws(rng: np.random.Generator, d: _Design) -> tuple[FloatArray, FloatArray]:
    """Mean (E, K) and factor of the covariance (E, K, K) of z_C in each environment."""
    num, dim = d.num_environments, d.num_confounded
    mean = rng.standard_normal((num, dim))
    if num == 2:
        mean = np.sign(mean[0]) * np.array([[1], [-1]]) * rng.uniform(0.6, 1, (2, dim))
    if d.shift == "scale":
        spread = log_uniform(rng, _SPREAD, (num, dim, 1))
        return np.zeros((num, dim)), spread * np.eye(dim)
    if d.shift == "mean":
        return mean, np.tile(np.eye(dim), (num, 1, 1))
    return mean, np.stack([well_conditioned(rng, dim, dim, _SPREAD) for _ in range(num)])


def _observe(
    d: _Design, exogenous: FloatArray, confounded: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Instruments x, z_I and the score s."""
    rng, people = d.stream(_MIXING), d.stream(_DOSAGES)
    if d.mixing == "mendelian":
        frequency = draw_frequencies(rng, confounded, d.num_features)
        x = draw_linked_dosages(people, frequency, d.linkage)
        score, by_chance = mendelian_score(rng, x, frequency)
        return x, by_chance[:, None], score
    latents = np.hstack([exogenous, confounded])
    if d.mixing == "factor":
        frequency = draw_frequencies(rng, latents, d.num_features)
        x = draw_linked_dosages(people, frequency, d.linkage)
    else:
        x = draw_mixing(rng, d.mixing, latents, d.num_features)(latents)
    return x, exogenous, exposure_score(exogenous, d.curvature)


def _effects(d: _Design) -> FloatArray:
    """Effect in each environment, shape (E,), with exactly the mean and sd that were asked for."""
    if d.heterogeneity == 0:
        return np.full(d.num_environments, float(d.effect))
    deviation = d.stream(_EFFECTS).standard_normal(d.num_environments)
    return np.asarray(d.effect + d.heterogeneity * standardise(deviation))


def _draw_traits(
    rng: np.random.Generator, data: xr.Dataset, num_redraws: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """U, D and Y by the equations in the module's docstring, arrays of shape (N, R)."""
    k = COEFFICIENTS
    score = data["score"].to_numpy()[:, None]
    latent = data["confounding"].to_numpy()[:, None]
    effect = data["environment_effect"].to_numpy()[data["environment"].to_numpy()][:, None]
    noise_u, noise_d, noise_y = rng.standard_normal((3, len(score), num_redraws))
    if data.attrs["violation"] == "dependent_latent":
        noise_u = _DEPENDENCE * standardise(score) + np.sqrt(1 - _DEPENDENCE**2) * noise_u
    unobserved = k["confounder_from_latent"] * latent + k["confounder_noise"] * noise_u
    exposure = (
        k["exposure_from_score"] * score
        + k["exposure_from_latent"] * latent
        + k["exposure_from_confounder"] * unobserved
        + k["exposure_noise"] * noise_d
    )
    outcome = (
        effect * exposure
        + k["outcome_from_confounder"] * unobserved
        + k["outcome_from_latent"] * latent
        + k["outcome_noise"] * noise_y
    )
    return unobserved, exposure, outcome


def _check_choices(d: _Design) -> None:
    for name, value, allowed in (
        ("mixing", d.mixing, (*MIXINGS, *GENOTYPES)),
        ("shift", d.shift, SHIFTS),
        ("violation", d.violation, ("none", *VIOLATIONS)),
    ):
        if value not in allowed:
            raise InputError(
                f"{name} must be one of {', '.join(allowed)}; found {value!r}; choose one of these"
            )


def _check_sizes(d: _Design) -> None:
    for name in ("num_exogenous", "num_confounded", "num_environments"):
        if (number := getattr(d, name)) < 1:
            raise InputError(f"{name} must be at least 1; found {number}; give 1 or more")
    if d.mixing == "mendelian" and (d.num_exogenous != 1 or d.violation == "shifting_latent"):
        raise InputError(
            "mendelian mixing needs num_exogenous = 1 and a latent that does not shift (chance "
            f"decides it); found num_exogenous = {d.num_exogenous} and violation = "
            f"{d.violation!r}; leave them out or choose another mixing"
        )
    if d.num_features < (least := d.num_exogenous + d.num_confounded):
        raise InputError(
            f"num_features must be at least num_exogenous + num_confounded = {least}; found "
            f"{d.num_features}; ask for more features or fewer latents"
        )
    if d.num_people < (least := _PEOPLE_PER_ENVIRONMENT * d.num_environments):
        raise InputError(
            f"{d.num_environments} environments need at least {least} people; found num_people = "
            f"{d.num_people}; ask for more people or fewer environments"
        )


def _check_numbers(d: _Design) -> None:
    if not (math.isfinite(d.effect) and math.isfinite(d.curvature)):
        raise InputError(
            f"effect and curvature must be finite; found {d.effect} and {d.curvature}; give numbers"
        )
    if not 0 <= d.heterogeneity < math.inf or (d.heterogeneity > 0 and d.num_environments == 1):
        raise InputError(
            "heterogeneity must be a standard deviation, 0 if there is one environment; found "
            f"{d.heterogeneity} with {d.num_environments} environments; give 0 or more environments"
        )
    if not 0 <= d.linkage <= 1 or (d.linkage > 0 and d.mixing not in GENOTYPES):
        raise InputError(
            f"linkage must be a probability, 0 unless mixing is {' or '.join(GENOTYPES)}; found "
            f"{d.linkage} with {d.mixing!r}; leave it out or choose another mixing"
        )
    if not isinstance(d.seed, int | np.integer) or d.seed < 0:
        raise InputError(f"seed must be 0 or more; found {d.seed}; give a whole number")
