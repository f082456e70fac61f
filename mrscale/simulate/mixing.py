"""Mixing functions: how latents become observed instruments.

``linear``, ``poly2``, ``poly3``, ``mlp`` and ``tanh`` are invertible; ``fold``, ``maxpool`` and
``dropout`` lose information.

Legend of shapes: N people, D latents, M features.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mrscale.simulate.cohort import FloatArray

Mixing = Callable[[FloatArray], FloatArray]
"""Maps latents of shape (N, D) to features of shape (N, M)."""

_NUM_LAYERS = 2
_MILD = (0.8, 1.25)
"""Range of the singular values of inner weights."""
_CURVED = 0.5
_CUBIC = 0.2
_OWN_CUBIC = 0.08
_EXTRA_CURVED = 0.4
_FOLD_AT = -1.0
_DROPPED = 0.1


def draw_mixing(
    rng: np.random.Generator, kind: str, latents: FloatArray, num_features: int
) -> Mixing:
    """Draw the weights of a mixing function.

    Parameters
    ----------
    rng : numpy.random.Generator
    kind : str
        One of ``MIXINGS``.
    latents : ndarray of float64, shape (N, D)
        The people whose hidden values are centred and scaled between the layers of a network; the
        weights do not depend on them.
    num_features : int
        M, at least D.

    Returns
    -------
    callable
        From latents (N, D) to features (N, M). ``dropout`` goes on drawing from ``rng``; the
        others are deterministic.

    Notes
    -----
    W, V are random matrices with bounded singular values and y has D columns.

    - ``linear``: x = W z.
    - ``poly2``: y_i = v_i + a quadratic form in v_1 .. v_{i-1} with v = V z, a triangular map of
      Jacobian 1, then x = W y; features beyond D are quadratic in y. ``poly3`` adds
      cubes: 0.2 (w_i' v_{<i})^3 + 0.08 v_i^3.
    - ``mlp``, ``tanh``: two hidden layers of width D, then x = W y, or for M > D a third layer;
      activations max(t, 0.3 t) and 0.4 t + tanh(1.5 t).
    - ``fold``: x = W y, where half of the coordinates of y = V z are |y_i + 1|.
    - ``maxpool``: x_j = max(w_j' z, v_j' z).
    - ``dropout``: ``mlp`` with every value of every person set to 0 with probability 0.1.
    """
    return MIXINGS[kind](rng, latents, num_features)


def well_conditioned(
    rng: np.random.Generator,
    num_rows: int,
    num_columns: int,
    singular_values: tuple[float, float] = (0.6, 1.6),
) -> FloatArray:
    """Random matrix in random directions, with log-uniform singular values; rows >= columns."""
    values = log_uniform(rng, singular_values, (num_columns,))
    left, _ = np.linalg.qr(rng.standard_normal((num_rows, num_columns)))
    right, _ = np.linalg.qr(rng.standard_normal((num_columns, num_columns)))
    return np.asarray((left * values) @ right)


def log_uniform(
    rng: np.random.Generator, bounds: tuple[float, float], shape: tuple[int, ...]
) -> FloatArray:
    """Numbers whose logarithm is uniform."""
    low, high = np.log(bounds)
    return np.exp(rng.uniform(low, high, shape))


def _linear(rng: np.random.Generator, latents: FloatArray, num_features: int) -> Mixing:
    weight = well_conditioned(rng, num_features, latents.shape[1])
    return lambda z: z @ weight.T


def _polynomial(
    rng: np.random.Generator, latents: FloatArray, num_features: int, *, cubic: bool
) -> Mixing:
    dim = latents.shape[1]
    first = well_conditioned(rng, dim, dim, _MILD)
    warp = _triangular(rng, dim, cubic=cubic)
    last = well_conditioned(rng, dim, dim, _MILD)
    straight, curved = rng.standard_normal((2, dim, num_features - dim)) / np.sqrt(dim)

    def mix(z: FloatArray) -> FloatArray:
        y = warp(z @ first.T)
        extra = y @ straight + _EXTRA_CURVED * ((y @ curved) ** 2 - 1)
        return np.hstack([y @ last.T, extra])

    return mix


def _poly2(rng: np.random.Generator, latents: FloatArray, num_features: int) -> Mixing:
    return _polynomial(rng, latents, num_features, cubic=False)


def _poly3(rng: np.random.Generator, latents: FloatArray, num_features: int) -> Mixing:
    return _polynomial(rng, latents, num_features, cubic=True)


def _triangular(rng: np.random.Generator, dim: int, *, cubic: bool) -> Mixing:
    """Each coordinate plus a polynomial of those before it, and a little of its own cube."""
    forms = np.zeros((dim, dim, dim))
    weights = np.zeros((dim, dim))
    for i in range(1, dim):
        num_terms = i * (i + 1) / 2
        forms[i, :i, :i] = np.triu(rng.standard_normal((i, i))) / np.sqrt(num_terms)
        weights[i, :i] = rng.standard_normal(i) / np.sqrt(i)

    def warp(v: FloatArray) -> FloatArray:
        y = v + _CURVED * np.einsum("nj,ijk,nk->ni", v, forms, v)
        if cubic:
            y += _CUBIC * (v @ weights.T) ** 3 + _OWN_CUBIC * v**3
        return np.asarray(y)

    return warp


def _leaky(t: FloatArray) -> FloatArray:
    return np.maximum(t, 0.3 * t)


def _soft(t: FloatArray) -> FloatArray:
    return 0.4 * t + np.tanh(1.5 * t)


def _network(
    rng: np.random.Generator, latents: FloatArray, num_features: int, activation: Mixing
) -> Mixing:
    dim = latents.shape[1]
    hidden, y = [], latents
    for _ in range(_NUM_LAYERS):
        layer = _layer(rng, y, activation)
        hidden.append(layer)
        y = layer(y)
    wider = num_features > dim
    scale = np.sqrt(num_features / dim)
    last = scale * well_conditioned(rng, num_features, dim, *([] if wider else [_MILD]))

    def mix(z: FloatArray) -> FloatArray:
        for layer in hidden:
            z = layer(z)
        return activation(z @ last.T) if wider else z @ last.T

    return mix


def _layer(rng: np.random.Generator, inputs: FloatArray, activation: Mixing) -> Mixing:
    """One hidden layer; its output is centred and scaled so that the next one stays non-linear."""
    dim = inputs.shape[1]
    weight = well_conditioned(rng, dim, dim, _MILD)
    bias = 0.2 * rng.standard_normal(dim)
    raw = activation(inputs @ weight.T + bias)
    centre, scale = raw.mean(axis=0), raw.std(axis=0).mean()
    return lambda z: (activation(z @ weight.T + bias) - centre) / scale


def _mlp(rng: np.random.Generator, latents: FloatArray, num_features: int) -> Mixing:
    return _network(rng, latents, num_features, _leaky)


def _tanh(rng: np.random.Generator, latents: FloatArray, num_features: int) -> Mixing:
    return _network(rng, latents, num_features, _soft)


def _fold(rng: np.random.Generator, latents: FloatArray, num_features: int) -> Mixing:
    dim = latents.shape[1]
    first = well_conditioned(rng, dim, dim, _MILD)
    last = well_conditioned(rng, num_features, dim)
    folded = np.arange(dim) < dim / 2

    def mix(z: FloatArray) -> FloatArray:
        y = z @ first.T
        return np.asarray(np.where(folded, np.abs(y - _FOLD_AT), y) @ last.T)

    return mix


def _maxpool(rng: np.random.Generator, latents: FloatArray, num_features: int) -> Mixing:
    one, other = (well_conditioned(rng, num_features, latents.shape[1]) for _ in range(2))
    return lambda z: np.maximum(z @ one.T, z @ other.T)


def _dropout(rng: np.random.Generator, latents: FloatArray, num_features: int) -> Mixing:
    whole = _mlp(rng, latents, num_features)

    def mix(z: FloatArray) -> FloatArray:
        x = whole(z)
        return x * (rng.random(x.shape) >= _DROPPED)

    return mix


MIXINGS: dict[str, Callable[[np.random.Generator, FloatArray, int], Mixing]] = {
    "linear": _linear,
    "poly2": _poly2,
    "poly3": _poly3,
    "mlp": _mlp,
    "tanh": _tanh,
    "fold": _fold,
    "maxpool": _maxpool,
    "dropout": _dropout,
}
"""Every kind, by name."""
