"""Studies on the small store, trained in seconds; run by the tests."""

from __future__ import annotations

from mrscale.study_file import parse_study

ENCODER = {"factors": 3, "latent_dim": 1, "steps": 40, "batch_size": 30, "restarts": 1}


def study(store, run, folds=2, seed=0, **encoder):
    raw = {"store": str(store), "run": str(run), "folds": folds, "seed": seed}
    return parse_study({**raw, "encoder": ENCODER | encoder})
