"""Any design of the stated sizes can be drawn, and keeps its shapes and scales."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mrscale.simulate.designs import GENOTYPES, SHIFTS, VIOLATIONS, redraw_traits, simulate_latent
from mrscale.simulate.mixing import MIXINGS


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    mixing=st.sampled_from([*MIXINGS, *GENOTYPES]),
    num_exogenous=st.integers(1, 5),
    num_confounded=st.integers(1, 5),
    num_extra=st.integers(0, 6),
    num_environments=st.integers(1, 7),
    people_each=st.integers(10, 40),
    shift=st.sampled_from(SHIFTS),
    violation=st.sampled_from([None, *VIOLATIONS]),
    seed=st.integers(0, 2**40),
)
def test_any_design_has_its_shapes_and_finite_values(
    mixing,
    num_exogenous,
    num_confounded,
    num_extra,
    num_environments,
    people_each,
    shift,
    violation,
    seed,
):
    if mixing == "mendelian":
        num_exogenous, violation = 1, None
    num_features = num_exogenous + num_confounded + num_extra
    num_people = num_environments * people_each
    data = simulate_latent(
        mixing,
        num_exogenous=num_exogenous,
        num_confounded=num_confounded,
        num_features=num_features,
        num_environments=num_environments,
        num_people=num_people,
        shift=shift,
        violation=violation,
        seed=seed,
    )
    assert data.sizes == {
        "samples": num_people,
        "features": num_features,
        "exogenous": num_exogenous,
        "confounded": num_confounded,
        "environments": num_environments,
    }
    assert all(np.isfinite(data[name]).all() for name in data)
    assert np.array_equal(np.unique(data.environment), np.arange(num_environments))
    np.testing.assert_allclose(data.z_confounded.std("samples"), 1)
    exposure, outcome = redraw_traits(data, seed=1, num_redraws=3)
    assert exposure.shape == outcome.shape == (num_people, 3)
    assert np.isfinite(exposure).all()
    assert np.isfinite(outcome).all()
