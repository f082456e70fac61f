"""The train and encode stages on a small store: what they write, skip and refuse."""

from __future__ import annotations

import runpy
import threading
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from mrscale.errors import EngineError, InputError, RunError, StoreError
from mrscale.sampling.plan import held_out
from mrscale.store import writer
from mrscale.store.reader import open_store
from mrscale.stream.products import mean_dosage
from mrscale.train.encoder import Encoder, Prepared
from mrscale.train.ranks import best_device
from mrscale.workflow.encoding import encode, load_encoders
from mrscale.workflow.estimating import estimate
from mrscale.workflow.learning import AS_GOOD
from mrscale.workflow.lock import locked
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.training import train, training_digest

study = runpy.run_path(str(Path(__file__).with_name("studies.py")))["study"]


@pytest.fixture(scope="module")
def trained(small_store, tmp_path_factory):
    """A study whose encoders are trained and applied; not to be changed."""
    asked = study(small_store, tmp_path_factory.mktemp("trained") / "run")
    train(asked, quiet=True)
    return asked, encode(asked, quiet=True)


def test_each_fold_starts_from_its_own_people(trained, small_store):
    _, folder = trained
    store = open_store(small_store)
    fold, environment = store.array("fold"), store.array("environment")
    dosage, fill = store.dosage(slice(None)).astype(float), mean_dosage(store)
    dosage = np.where(dosage < 0, fill[environment], dosage)
    for f in range(2):
        start = Prepared.load(folder.prepared(f))
        mine = dosage[fold == f]
        np.testing.assert_array_equal(start.rows, np.flatnonzero(fold == f))
        np.testing.assert_allclose(start.front.origin, mine.mean(0), rtol=1e-12)
        np.testing.assert_allclose(start.scores, start.front.scores(mine), rtol=1e-5, atol=1e-5)
        # scores are kept in float32
        np.testing.assert_allclose(np.cov(start.scores.T), np.eye(3), rtol=0, atol=1e-5)


def test_mean_dosage_is_that_of_the_calls(small_store):
    store = open_store(small_store)
    dosage, environment = store.dosage(slice(None)), store.array("environment")
    for code, means in enumerate(mean_dosage(store)):
        called = np.where(dosage[environment == code] < 0, np.nan, dosage[environment == code])
        np.testing.assert_allclose(means, np.nanmean(called, axis=0), rtol=1e-6)  # from float32


def test_training_improves_on_the_start_and_tells_its_story(trained):
    _, folder = trained
    for fold in range(2):
        story = Encoder.load(folder.encoder("flow", fold)).story
        assert story["identity"] == folder.done("train")
        assert (story["fold"], story["best_step"]) == (fold, 40)
        assert [row[0] for row in story["history"]] == [40]
        assert story["held_out"] == max(story["restarts"])
        assert len(story["wraps"]) == 3
        assert max(story["wraps"]) >= 1
        assert story["latent_dim_path"] == {}
    assert not any(folder.checkpoint(what).exists() for what in ("path", "flow"))


def test_the_best_restart_is_kept(small_store, tmp_path):
    asked = study(small_store, tmp_path / "run", methods=["flow"], restarts=3)
    folder = train(asked, quiet=True)
    for encoder in load_encoders(asked, folder)["flow"]:
        worths = encoder.story["restarts"]
        assert len(set(worths)) == 3
        assert encoder.story["held_out"] == max(worths)
        (last,) = encoder.story["history"]
        assert last[2] == max(worths)


def test_flows_choose_the_latent_dimension_and_say_by_what(small_store, tmp_path):
    asked = study(small_store, tmp_path / "run", methods=["linear", "flow"], latent_dim="auto")
    folder = train(asked, quiet=True)
    encoders = [one for of_method in load_encoders(asked, folder).values() for one in of_method]
    (chosen,) = {encoder.latent_dim for encoder in encoders}
    path = encoders[0].story["latent_dim_path"]
    assert list(path) == ["0", "1", "2"]
    assert [len(worths) for worths in path.values()] == [2, 2, 2]
    mean = {int(d): np.mean(worths) for d, worths in path.items() if d != "0"}
    assert chosen == max(d for d in mean if mean[d] >= max(mean.values()) - AS_GOOD)
    assert all(encoder.story["latent_dim_path"] == path for encoder in encoders)


def test_every_method_gives_latents(small_store, tmp_path):
    asked = study(small_store, tmp_path / "run", methods=["linear", "kernel", "flow"])
    train(asked, quiet=True)
    folder = encode(asked, quiet=True)
    group = zarr.open_group(str(folder.latents), mode="r")
    assert len(list(group.array_keys())) == 6
    fold = open_store(small_store).array("fold")
    for s in range(2):
        latents = [group[f"{m}_latent"][s, fold != s, 0] for m in ("linear", "kernel", "flow")]
        assert np.isfinite(latents).all()
        assert len(np.unique(np.round(latents, 3), axis=0)) == 3


def written(folder):
    files = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    return {p: at for p, at in files.items() if p.parent.name != "lock"}


def test_what_is_done_is_not_done_again(trained):
    asked, folder = trained
    files = written(folder.path)
    train(asked, quiet=True)
    encode(asked.model_copy(), quiet=True)
    assert written(folder.path) == files


def test_only_what_decides_the_encoders_is_in_their_digest(small_store, tmp_path):
    store = open_store(small_store)
    one = training_digest(study(small_store, tmp_path), store)
    assert training_digest(study(small_store, tmp_path / "other", ranks=2), store) == one
    for other in (study(small_store, tmp_path, seed=1), study(small_store, tmp_path, steps=41)):
        assert training_digest(other, store) != one


def test_nobody_has_a_latent_of_an_encoder_that_has_seen_them(trained, small_store):
    _, folder = trained
    fold = open_store(small_store).array("fold")
    group = zarr.open_group(str(folder.latents), mode="r")
    assert sorted(group.array_keys()) == [
        "flow_latent",
        "flow_remainder",
        "linear_latent",
        "linear_remainder",
    ]
    for name in group.array_keys():
        values = group[name][...]
        assert values.shape == (2, 900, 1 if name.endswith("latent") else 2)
        for s in range(2):
            assert np.isnan(values[s, fold == s]).all()
            assert np.isfinite(values[s, fold != s]).all()


def test_latents_are_what_the_encoders_give(trained, small_store):
    asked, folder = trained
    store = open_store(small_store)
    dosage, environment = store.dosage(slice(None)), store.array("environment")
    fold = store.array("fold")
    group = zarr.open_group(str(folder.latents), mode="r")
    for method, encoders in load_encoders(asked, folder).items():
        for s, encoder in enumerate(encoders):
            latent, remainder = encoder.encode(dosage, environment)
            found = group[f"{method}_latent"][s], group[f"{method}_remainder"][s]
            for values, expected in zip(found, (latent, remainder), strict=True):
                # float32, in blocks of another size
                np.testing.assert_allclose(
                    values[fold != s], expected[fold != s], rtol=1e-4, atol=1e-5
                )


def test_an_encoder_that_was_removed_is_made_again(small_store, tmp_path):
    asked = study(small_store, tmp_path / "run", methods=["linear"])
    folder = train(asked, quiet=True)
    encode(asked, quiet=True)
    file = folder.encoder("linear", 1)
    before = file.read_bytes()
    file.unlink()
    with pytest.raises(RunError, match=r"there is no file .*fold-1.*; run mrscale train"):
        estimate(asked, quiet=True)
    with pytest.raises(RunError, match="not there, or not trained yet; run first: mrscale train"):
        encode(asked, quiet=True)
    train(asked, quiet=True)
    assert file.read_bytes() == before
    # on another device the bytes might differ
    with pytest.raises(RunError, match="run first: mrscale encode"):
        estimate(asked, quiet=True)
    encode(asked, quiet=True)


def test_encoding_needs_encoders_of_these_settings(trained):
    asked, _ = trained
    with pytest.raises(RunError, match="not trained yet; run first: mrscale train"):
        encode(asked.model_copy(update={"seed": 9}), quiet=True)


def test_a_store_that_is_not_finished_is_refused_before_the_run_folder_is_made(tmp_path):
    with pytest.raises(StoreError, match="there is no genotype store at"):
        train(study(tmp_path / "store.zarr", tmp_path / "run"), quiet=True)
    (tmp_path / "store.zarr").mkdir()
    with pytest.raises(StoreError, match="not a finished genotype store"):
        train(study(tmp_path / "store.zarr", tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()


def test_another_number_of_folds_is_refused(small_store, tmp_path):
    with pytest.raises(InputError, match=r"are in 2 folds, the study asks for 3; set folds = 2"):
        train(study(small_store, tmp_path / "run", folds=3), quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_latent_without_a_remainder_is_refused(small_store, tmp_path):
    with pytest.raises(InputError, match=r"latent_dim must be below the number of factors, 3"):
        train(study(small_store, tmp_path / "run", latent_dim=3), quiet=True)


@pytest.mark.parametrize("left", [0, 1])
def test_an_environment_that_a_fold_cannot_train_on_is_named(damaged, tmp_path, left):
    store = open_store(damaged)
    fold, environment = store.array("fold"), store.array("environment")
    lonely = np.flatnonzero((environment == 1) & (fold == 0))
    fold[lonely[left:]] = 1
    writer.write_array(damaged, "fold", fold)
    asked = study(damaged, tmp_path / "run", seed=seed_that_keeps_them_aside(store, fold))
    with pytest.raises(InputError, match=r"every fold needs people of every.*'south'.*lower folds"):
        train(asked, quiet=True)
    assert not RunFolder(tmp_path / "run").prepared(0).exists()


def test_the_linear_encoder_needs_nobody_beside_those_who_judge(damaged, tmp_path):
    store = open_store(damaged)
    fold, environment = store.array("fold"), store.array("environment")
    fold[np.flatnonzero((environment == 1) & (fold == 0))[2:]] = 1
    writer.write_array(damaged, "fold", fold)
    seed = seed_that_keeps_them_aside(store, fold)
    asked = study(damaged, tmp_path / "run", seed=seed, methods=["linear"])
    assert len(load_encoders(asked, train(asked, quiet=True))["linear"]) == 2


def test_a_kernel_encoder_is_judged_in_the_environments_of_those_who_judge(damaged, tmp_path):
    store = open_store(damaged)
    fold, environment = store.array("fold"), store.array("environment")
    lonely = np.flatnonzero((environment == 1) & (fold == 0))
    fold[lonely[3:]] = 1
    writer.write_array(damaged, "fold", fold)
    seed = seed_by_which(store, fold, lambda judges: not (judges == 1).any())
    asked = study(damaged, tmp_path / "run", seed=seed, methods=["kernel"])
    for encoder in load_encoders(asked, train(asked, quiet=True))["kernel"]:
        assert np.isfinite(encoder.story["held_out"])


def test_a_kernel_encoder_that_one_environment_judges_is_refused_before_training(damaged, tmp_path):
    store = open_store(damaged)
    fold, environment = store.array("fold"), store.array("environment")
    for code in (1, 2):
        fold[np.flatnonzero((environment == code) & (fold == 0))[3:]] = 1
    writer.write_array(damaged, "fold", fold)
    seed = seed_by_which(store, fold, lambda judges: (judges == 0).all())
    asked = study(damaged, tmp_path / "run", seed=seed, methods=["kernel"])
    with pytest.raises(InputError, match=r"people of two environments, .*; lower folds, or merge"):
        train(asked, quiet=True)
    assert not RunFolder(tmp_path / "run").prepared(0).exists()


def seed_that_keeps_them_aside(store, fold):
    """A seed with which nobody of the second environment in fold 0 is left to train on."""
    lonely = int((store.array("environment")[fold == 0] == 1).sum())
    return seed_by_which(store, fold, lambda judges: (judges == 1).sum() == lonely)


def seed_by_which(store, fold, holds):
    """A seed with which something holds of the environments of those who judge in fold 0."""
    rows = np.flatnonzero(fold == 0)
    environment, family = store.array("environment")[rows], store.array("family")[rows]
    return next(s for s in range(1000) if holds(environment[held_out(family, s)]))


def test_latent_dimension_is_chosen_below_the_factors(small_store, tmp_path):
    asked = study(small_store, tmp_path / "run", methods=["linear"], latent_dim="auto", factors=2)
    folder = train(asked, quiet=True)
    encoders = load_encoders(asked, folder)["linear"]
    assert {encoder.latent_dim for encoder in encoders} == {1}
    assert not folder.encoder("flow", 0).exists()
    assert encoders[0].story["latent_dim_path"] == {}


def test_a_scheduler_that_does_not_answer_is_named_before_training(
    small_store, tmp_path, monkeypatch
):
    monkeypatch.setattr("mrscale.stream.engine.CONNECT_SECONDS", 1)
    asked = study(small_store, tmp_path / "run", input="streamed")
    silent = asked.model_copy(update={"scheduler": "tcp://127.0.0.1:9"})
    refused = pytest.raises(EngineError, match=r"no Dask scheduler answered at tcp://127.0.0.1:9")
    with refused:
        train(silent, quiet=True)
    folder = RunFolder(tmp_path / "run")
    assert not folder.prepared(0).exists()

    train(asked, quiet=True)
    folder.encoder("flow", 0).unlink()
    folder.reopen("train")
    with refused:
        train(silent, quiet=True)
    assert folder.done("train") is None


def test_a_device_that_is_not_there_is_refused(small_store, tmp_path):
    with pytest.raises(InputError, match="device must be one that torch has"):
        train(study(small_store, tmp_path / "run", device="abacus"), quiet=True)


def test_ranks_do_not_share_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(EngineError, match="a GPU of its own; found 1 GPUs and a rank number 2"):
        best_device()
    with pytest.raises(EngineError, match="a GPU of its own; found 1 GPUs and a rank number 2"):
        best_device("cuda")
    assert best_device("cpu").type == "cpu"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EngineError, match='found 2 ranks and device = "cuda:0"'):
        best_device("cuda:0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert best_device("cuda:0") == torch.device("cuda:0")


def test_ranks_that_are_asked_for_a_gpu_take_their_own(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert best_device() == best_device("cuda") == torch.device("cuda:3")
    assert taken == [torch.device("cuda:3")] * 2


def test_a_rank_whose_leader_gives_no_sign_of_life_says_so(small_store, tmp_path, monkeypatch):
    monkeypatch.setattr("mrscale.workflow.training.SILENCE", timedelta(seconds=1))
    monkeypatch.setattr("mrscale.workflow.training.leads_here", lambda: False)
    asked, held, ended = study(small_store, tmp_path / "run"), threading.Event(), []

    def lead():
        with locked(tmp_path / "run"):
            held.set()
            time.sleep(3)
            ended.append(time.monotonic())

    leader = threading.Thread(target=lead)
    leader.start()
    assert held.wait(10)
    with pytest.raises(EngineError, match=r"leading rank .* does not work on .*; see what it says"):
        train(asked, quiet=True)
    assert time.monotonic() > ended[0], "it waits as long as the folder is held"
    leader.join()
