"""The encoder that users hold: instruments in, latent instruments and remainder out.

Legend: N people, M instruments, L latent instruments, K remainder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.special import ndtr

from mrscale import places
from mrscale.errors import InputError
from mrscale.results.latent_dim import path_table
from mrscale.results.parameters import number, text
from mrscale.stats.identification import listed
from mrscale.stats.invariance import profile
from mrscale.store.reader import GenotypeStore
from mrscale.train.encoder import Encoder
from mrscale.workflow.blockwise import Encoded, encode_people, over_people
from mrscale.workflow.cohorts import ArrayCohort, Cohort
from mrscale.workflow.columns import named_columns
from mrscale.workflow.learned_data import (
    INSTRUMENT,
    complete_instruments,
    dataset_or_store,
    instruments_of,
    own_names,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIAGNOSTICS = ("name", "statistic", "pvalue", "verdict", "meaning")
STORY = "fit_encoder"
"""Where the story of a saved encoder holds what is here beside the map."""


@dataclass(frozen=True, eq=False, repr=False)
class LearnedEncoder:
    """What :func:`mrscale.fit_encoder` returns.

    Attributes
    ----------
    encoder : Encoder
        The trained map.
    reason : str
        Which method, and why.
    instruments : tuple of str
        Names of the instruments it takes; empty if they had none.
    environments : tuple of str
        Names of the environments it was trained on.
    diagnostics : pandas.DataFrame
        Checks on people who did not train it: ``name``, ``statistic``, ``pvalue`` (NaN where there
        is no test), ``verdict`` (``"pass"``, ``"warn"``, ``"fail"``, or ``"info"``), and
        ``meaning``: what the check can and cannot tell.
    provenance : dict
        Settings, seed, digest of the data, versions of software.
    """

    encoder: Encoder
    reason: str
    instruments: tuple[str, ...]
    environments: tuple[str, ...]
    diagnostics: pd.DataFrame
    provenance: dict[str, Any]

    @property
    def method(self) -> str:
        """``"linear"``, ``"kernel"`` or ``"flow"``."""
        return self.encoder.method

    @property
    def latent_dim(self) -> int:
        """L."""
        return self.encoder.latent_dim

    @property
    def num_factors(self) -> int:
        """L + K: principal components that the encoder sees."""
        return self.encoder.front.num_factors

    @property
    def latent_dim_path(self) -> pd.DataFrame:
        """What the latent dimension was chosen by; empty if it was given, or chosen by the
        permutation test. See :func:`mrscale.results.latent_dim.path_table`."""
        return path_table(self.encoder.story.get("latent_dim_path", {}), self.latent_dim)

    def plot_latent_dim(self, ax: Axes | None = None) -> Axes:
        """Held-out log-likelihood over latent dimensions.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default the only axes of a new figure.

        Returns
        -------
        Axes
            Empty where the latent dimension was given, or chosen by the permutation test.

        Examples
        --------
        >>> import mrscale as mr
        >>> people = mr.simulate_latent("linear", num_exogenous=1, num_confounded=1, num_people=800)
        >>> encoder = mr.fit_encoder(people, method="flow", steps=20)
        >>> ax = encoder.plot_latent_dim()
        >>> ax.get_xlabel()
        'latent dimension (0: nothing is invariant)'
        """
        from mrscale.plots import training

        return training.latent_dim(self.latent_dim_path, ax)

    def plot_training(self, ax: Axes | None = None) -> Axes:
        """Held-out log-likelihood per step of the restart that was kept.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default the only axes of a new figure.

        Returns
        -------
        Axes

        Raises
        ------
        InputError
            If the encoder is linear, which needs no steps.

        Examples
        --------
        >>> import mrscale as mr
        >>> people = mr.simulate_latent("linear", num_exogenous=1, num_confounded=1, num_people=800)
        >>> encoder = mr.fit_encoder(people, method="flow", steps=20)
        >>> ax = encoder.plot_training()
        >>> ax.get_xlabel()
        'optimiser step'
        """
        from mrscale.plots import training

        if not self.encoder.story.get("history"):
            raise InputError(
                "the linear encoder has a closed form, so that there are no steps to draw; fit one "
                'with method="flow" or "kernel"'
            )
        return training.training([{"fold": 0, **self.encoder.story}], ax)

    def plot_latent(self, x: Any, environment: Any = None) -> NDArray[np.object_]:
        """Where people lie in the first two latent dimensions, a panel per environment.

        Parameters
        ----------
        x, environment
            As :func:`mrscale.fit_encoder` takes them.

        Returns
        -------
        ndarray of Axes, shape (E,)
            Hexagons hold many people each: those with 1 to 20 are left white. Panels are alike if
            the latent is invariant.

        Examples
        --------
        >>> import mrscale as mr
        >>> people = mr.simulate_latent("linear", num_people=1000)
        >>> encoder = mr.fit_encoder(people, method="linear")
        >>> panels = encoder.plot_latent(people)
        >>> len(panels)
        5
        """
        from mrscale.plots import people

        cohort = self._cohort(x, environment)
        latent, _ = encode_people(self.encoder, cohort)
        return people.latent(latent, cohort.array("environment"), cohort.names("environments"))

    def plot_invariance(self, x: Any, environment: Any = None) -> NDArray[np.object_]:
        """Means and spreads per environment, of the principal components that the encoder sees and
        of the latent that it makes of them.

        Parameters
        ----------
        x, environment
            As :func:`mrscale.fit_encoder` takes them.

        Returns
        -------
        ndarray of Axes, shape (2,)
            Before and after: what is invariant has mean 0 and standard deviation 1 everywhere.

        Examples
        --------
        >>> import mrscale as mr
        >>> people = mr.simulate_latent("linear", num_people=1000)
        >>> encoder = mr.fit_encoder(people, method="linear")
        >>> before, after = encoder.plot_invariance(people)
        >>> before.get_title(), after.get_title()
        ('principal components', 'latent instruments')
        """
        from mrscale.plots import people

        cohort = self._cohort(x, environment)
        front, encode_block = self.encoder.front, self.encoder.encode
        before, after, _ = over_people(
            cohort, lambda dosage, at: (front.scores(dosage), *encode_block(dosage, at))
        )
        places = cohort.names("environments")
        environment, num = cohort.array("environment"), len(places)
        return people.invariance(
            profile(before, environment, num), profile(after, environment, num), places
        )

    def transform(self, x: Any) -> NDArray[np.float32]:
        """Latent instruments of people, standard normal in every environment if all is well.

        Parameters
        ----------
        x : array-like, shape (N, M), or whatever :func:`mrscale.fit_encoder` takes
            The instruments of the training people, in their order. Missing calls of a store are
            filled as the store says.

        Returns
        -------
        ndarray, shape (N, L), float32

        Raises
        ------
        InputError
            If these are other instruments (by number, or by name where both have names), or a
            value is not finite.

        Warnings
        --------
        The encoder has seen the people that it was trained on. Estimates need people that it has
        not: :func:`mrscale.learned_iv` sees to that.
        """
        return self.latent_and_rest(x)[0]

    def rest(self, x: Any) -> NDArray[np.float32]:
        """The rest of what the encoder sees, for use as controls.

        Parameters
        ----------
        x : array-like, shape (N, M), or whatever :func:`mrscale.fit_encoder` takes
            As for :meth:`transform`, whose errors it raises.

        Returns
        -------
        ndarray, shape (N, K), float32
            Of mean 0 and variance 1 in the training people.
        """
        return self.latent_and_rest(x)[1]

    def bounded(self, x: Any) -> NDArray[np.float32]:
        """The latent instruments in (0, 1)^L: ``Phi`` of :meth:`transform`.

        Parameters
        ----------
        x : array-like, shape (N, M), or whatever :func:`mrscale.fit_encoder` takes
            As for :meth:`transform`, whose errors it raises.

        Returns
        -------
        ndarray, shape (N, L), float32
            Uniform if all is well, which is the maximal-entropy law of a bounded latent.
        """
        return np.asarray(ndtr(self.transform(x)))

    def save(self, path: str | Path) -> None:
        """Write to one safetensors file, with its settings and diagnostics as JSON.

        Parameters
        ----------
        path : str or Path
            For :func:`mrscale.load_encoder`; path or URL. Whatever is there is replaced.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        own = {
            "reason": self.reason,
            "instruments": list(self.instruments),
            "environments": list(self.environments),
            "diagnostics": _records(self.diagnostics),
            "provenance": self.provenance,
        }
        with places.writing(path):
            replace(self.encoder, story={**self.encoder.story, STORY: own}).save(path)

    def summary(self) -> str:
        """A short text: what was trained and why, and every check."""
        shown = self.diagnostics[["name", "statistic", "pvalue", "verdict"]].set_index("name")
        return "\n".join([self._head, f"Why: {self.reason}", text(shown)])

    __repr__ = summary

    def _repr_html_(self) -> str:
        table = self.diagnostics.to_html(index=False, float_format=number)
        return f"<p>{escape(self._head)}</p><p>{escape(self.reason)}</p>{table}"

    @property
    def _head(self) -> str:
        return (
            f"{self.method.capitalize()} encoder: {self.latent_dim} latent instruments and "
            f"{self.num_factors - self.latent_dim} of remainder from "
            f"{self.encoder.front.projection.shape[0]:,} instruments in "
            f"{len(self.environments)} environments"
        )

    def latent_and_rest(self, x: Any) -> Encoded:
        """Both :meth:`transform` and :meth:`rest`, in one pass over the people.

        Parameters
        ----------
        x : array-like, shape (N, M), or whatever :func:`mrscale.fit_encoder` takes
            As for :meth:`transform`, whose errors it raises.

        Returns
        -------
        latent, rest : ndarray, shapes (N, L) and (N, K), float32
        """
        if isinstance(x, xr.Dataset) and "x" in x:
            x = x["x"]
        if isinstance(x, (str, Path, GenotypeStore, xr.Dataset)):
            cohort, names = dataset_or_store(x)
        else:
            given = named_columns(x, INSTRUMENT)
            names = own_names(given)
            cohort = _people(complete_instruments(given))
        self._require_instruments(names, cohort.num_variants)
        return encode_people(self.encoder, cohort)

    def _cohort(self, x: Any, environment: Any) -> Cohort:
        cohort, names = instruments_of(x, environment)
        self._require_instruments(names, cohort.num_variants)
        return cohort

    def _require_instruments(self, names: list[str], width: int) -> None:
        expected, trained = self.encoder.front.projection.shape[0], self.instruments
        if width != expected:
            which = f" ({listed(trained)})" if trained else ""
            raise InputError(
                f"this encoder takes the {expected:,} instruments that it was trained on{which}, "
                f"in their order; found {width:,}; select them"
            )
        if names and trained and tuple(names) != trained:
            lacking = sorted(set(trained) - set(names))
            found = f"no {listed(lacking)}" if lacking else "them in another order"
            raise InputError(
                "this encoder takes the instruments that it was trained on, in their order; found "
                f"{found}; select them by name, in the order of its attribute instruments"
            )


def _people(x: NDArray[Any]) -> ArrayCohort:
    """People of whom only the instruments are known."""
    return ArrayCohort(
        x, {"environment": np.zeros(len(x), dtype=np.int16)}, {"environments": ["all"]}
    )


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON takes them: None for what is not finite."""
    return [
        {
            str(name): None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        for row in table.to_dict("records")
    ]
