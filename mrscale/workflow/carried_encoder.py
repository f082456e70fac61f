"""Encoders for other people than those they were fitted on: read from a file, and applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from mrscale import places
from mrscale.errors import InputError, RunError
from mrscale.train.encoder import Encoder
from mrscale.workflow.learned_encoder import DIAGNOSTICS, STORY, LearnedEncoder


def load_encoder(path: str | Path) -> LearnedEncoder:
    """Read an encoder that :meth:`LearnedEncoder.save` wrote; no pickle is involved.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    LearnedEncoder

    Raises
    ------
    InputError
        If there is no file, it is no encoder of this function, or one of another schema.

    Examples
    --------
    >>> import mrscale as mr
    >>> people = mr.simulate_latent("linear", num_exogenous=1, num_confounded=1, num_people=2000)
    >>> mr.fit_encoder(people, method="linear").save("encoder.safetensors")
    >>> mr.load_encoder("encoder.safetensors").transform(people).shape
    (2000, 1)
    """
    if not places.is_file(path):
        raise InputError(f"there is no encoder at {path}; correct the path, or fit and save one")
    try:
        with places.reading(path):
            encoder = Encoder.load(path)
        own = encoder.story.pop(STORY)
        table = pd.DataFrame(own["diagnostics"], columns=list(DIAGNOSTICS))
        return LearnedEncoder(
            encoder=encoder,
            reason=own["reason"],
            instruments=tuple(own["instruments"]),
            environments=tuple(own["environments"]),
            diagnostics=table.astype({"statistic": float, "pvalue": float}),
            provenance=own["provenance"],
        )
    except InputError:
        raise
    except (RunError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{path} must be an encoder that was saved by its method save; found something else; "
            "name another file, or fit the encoder again"
        ) from None


def encode(data: Any, encoder: LearnedEncoder | str | Path) -> xr.Dataset:
    """Latent instruments and remainder of people, by an encoder fitted on others.

    Parameters
    ----------
    data : str, Path, GenotypeStore, xarray.Dataset or array-like, shape (N, M)
        As for :func:`mrscale.fit_encoder`: the instruments of the training people.
    encoder : LearnedEncoder, str or Path
        From :func:`mrscale.fit_encoder`, or where it was saved.

    Returns
    -------
    xarray.Dataset
        ``latent`` (samples, latent) and ``remainder`` (samples, remainder), float32, in the order
        of the people; the method and its reason in ``attrs``.

    Raises
    ------
    InputError
        As :meth:`LearnedEncoder.transform` and :func:`mrscale.load_encoder`.

    Warnings
    --------
    An estimate needs latents of people that the encoder has not seen; :func:`mrscale.learned_iv`
    and the verb ``mrscale encode`` see to that.

    Examples
    --------
    >>> import mrscale as mr
    >>> people = mr.simulate_latent("linear", num_exogenous=1, num_confounded=1, num_people=2000)
    >>> encoder = mr.fit_encoder(people, method="linear")
    >>> dict(mr.encode(people, encoder).sizes)
    {'samples': 2000, 'latents': 1, 'remainders': 1}
    """
    held = encoder if isinstance(encoder, LearnedEncoder) else load_encoder(encoder)
    latent, remainder = held.latent_and_rest(data)
    arrays = {
        "latent": (("samples", "latents"), latent),
        "remainder": (("samples", "remainders"), remainder),
    }
    return xr.Dataset(arrays, attrs={"method": held.method, "reason": held.reason})
