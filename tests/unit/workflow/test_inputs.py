"""Where batches come from: memory and a stream teach the same, and people are told which it was."""

from __future__ import annotations

import json
import runpy
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import zarr

from mrscale.errors import EngineError, StoreError
from mrscale.store.reader import open_store
from mrscale.train import checkpoint
from mrscale.train.encoder import Encoder, Prepared
from mrscale.workflow.encoding import encode
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.training import train, trained_on, training_digest

study = runpy.run_path(str(Path(__file__).with_name("studies.py")))["study"]
KERNEL = {"methods": ["kernel"], "restarts": 2, "steps": 60, "first_layer": "trained"}


def stories_of(folder, method):
    return [Encoder.load(folder.encoder(method, fold)).story for fold in range(2)]


def same_encoders(one, other, method):
    for fold in range(2):
        found, expected = (
            safetensors.torch.load_file(folder.encoder(method, fold)) for folder in (one, other)
        )
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def end_to_end(small_store, tmp_path_factory):
    """A kernel encoder whose first layer was trained on dosages in memory."""
    asked = study(small_store, tmp_path_factory.mktemp("resident") / "run", **KERNEL)
    train(asked, quiet=True)
    return asked, encode(asked, quiet=True)


def test_a_trained_first_layer_learns_the_same_from_memory_and_from_a_stream(
    end_to_end, small_store, tmp_path
):
    asked, folder = end_to_end
    assert trained_on(asked) == {"kernel": "dosages in memory"}
    streaming = study(small_store, tmp_path / "run", **KERNEL, input="streamed", prefetch_mib=0.01)
    assert trained_on(streaming) == {"kernel": "dosages streamed"}
    same_encoders(train(streaming, quiet=True), folder, "kernel")


def test_a_trained_first_layer_is_the_front_end_of_its_encoder(end_to_end, small_store):
    _, folder = end_to_end
    store = open_store(small_store)
    rows = slice(0, 50)
    for fold in range(2):
        encoder = Encoder.load(folder.encoder("kernel", fold))
        start = Prepared.load(folder.prepared(fold)).front
        change = np.abs(encoder.front.projection - start.projection).max()
        assert 0 < change < np.abs(start.projection).max()
        np.testing.assert_array_equal(encoder.front.origin, start.origin)
        latent, remainder = encoder.encode(store.dosage(rows), store.array("environment", rows))
        unseen = store.array("fold", rows) != fold
        group = zarr.open_group(str(folder.latents), mode="r")
        kept = np.asarray(group["kernel_latent"][fold])[rows]
        np.testing.assert_array_equal(latent[unseen], kept[unseen])
        assert 0.5 < remainder.std() < 2


def test_a_fixed_first_layer_learns_as_much_from_a_stream(small_store, tmp_path):
    settings = {"steps": 120, "methods": ["flow"]}
    held = train(study(small_store, tmp_path / "held", **settings), quiet=True)
    streamed = train(
        study(small_store, tmp_path / "streamed", **settings, input="streamed"), quiet=True
    )
    assert held.done("train") != streamed.done("train")
    for one, other in zip(stories_of(held, "flow"), stories_of(streamed, "flow"), strict=True):
        assert other["held_out"] == pytest.approx(one["held_out"], abs=0.1)
    assert [record["step"] for record in looks_of(streamed, "flow")] == [40, 80, 120]


def looks_of(folder, what):
    return [json.loads(line) for line in folder.metrics(what).read_text().splitlines()]


@pytest.fixture(scope="module")
def measured(small_store, tmp_path_factory):
    """Every method with a stream; the path, the kernel and the flow encoders take two looks."""
    settings = {"methods": ["linear", "kernel", "flow"], "latent_dim": "auto", "steps": 80}
    run = tmp_path_factory.mktemp("measured") / "run"
    return train(study(small_store, run, **settings, input="streamed"), quiet=True)


def test_every_method_that_learns_is_measured(measured, end_to_end, small_store):
    for what in ("path", "kernel", "flow"):
        looks = looks_of(measured, what)
        assert [look["step"] for look in looks] == [40, 80]
        assert all(0 <= look["input_wait_share"] <= 1 for look in looks)
        assert looks[-1]["chunks_read"] >= open_store(small_store).layout.num_chunks
    assert not measured.metrics("linear").exists()
    (*_, last) = looks_of(end_to_end[1], "kernel")
    assert last["chunks_read"] == 0, "dosages were in memory"


def test_chunks_are_counted_from_the_start_of_each_training(measured):
    read = {what: looks_of(measured, what)[-1]["chunks_read"] for what in ("kernel", "flow")}
    assert read["kernel"] == read["flow"], "the same batches of the same plan"


def test_how_encoders_are_trained_is_no_part_of_what_they_learn(small_store):
    store = open_store(small_store)
    plain = training_digest(study(small_store, "run"), store)
    hows = [{"ranks": 2}, {"prefetch_mib": 3}, {"device": "cpu"}, {"tensorboard": True}]
    for how in (*hows, {"input": "resident"}):
        assert training_digest(study(small_store, "run", **how), store) == plain
    for what in ({"input": "streamed"}, {"first_layer": "trained"}, {"restarts": 2}):
        assert training_digest(study(small_store, "run", **what), store) != plain


@pytest.mark.parametrize("settings", [{}, {"input": "resident"}])
def test_a_fixed_first_layer_needs_no_dosages(small_store, settings):
    asked = study(small_store, "run", methods=["kernel", "flow"], **settings)
    assert set(trained_on(asked).values()) == {"scores in memory"}


def test_whatever_is_asked_to_be_streamed_is_streamed(small_store):
    asked = study(small_store, "run", **KERNEL | {"methods": ["kernel", "flow"]}, input="streamed")
    assert set(trained_on(asked).values()) == {"dosages streamed"}


def test_dosages_too_large_for_a_quarter_of_the_memory_are_streamed(small_store, monkeypatch):
    asked = study(small_store, "run", **KERNEL | {"methods": ["kernel", "flow"]})
    assert trained_on(asked) == {"kernel": "dosages in memory", "flow": "scores in memory"}
    monkeypatch.setattr("mrscale.workflow.inputs.MEMORY_LIMIT", 4 * 900 * 30 - 1)
    assert trained_on(asked) == {"kernel": "dosages streamed", "flow": "scores in memory"}
    kept = study(small_store, "run", **KERNEL, input="resident")
    assert trained_on(kept) == {"kernel": "dosages in memory"}


def test_ranks_of_a_machine_share_its_memory(small_store, monkeypatch):
    monkeypatch.setattr("mrscale.workflow.inputs.MEMORY_LIMIT", 4 * 900 * 30)
    one, two = (study(small_store, "run", **KERNEL, ranks=ranks) for ranks in (1, 2))
    assert trained_on(one) == {"kernel": "dosages in memory"}
    assert trained_on(two) == {"kernel": "dosages streamed"}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert trained_on(one) == {"kernel": "dosages streamed"}


def test_dosages_for_a_gpu_come_through_the_memory_of_the_machine(small_store, monkeypatch):
    asked = study(small_store, "run", **KERNEL)
    gpu = torch.device("cuda:0")
    monkeypatch.setattr("mrscale.workflow.inputs.best_device", lambda asked: gpu)
    for free, limit, place in [
        (4 * 900 * 30, 4 * 900 * 30, "dosages in memory"),
        (4 * 900 * 30 - 1, 4 * 900 * 30, "dosages streamed"),
        (4 * 900 * 30, 4 * 900 * 30 - 1, "dosages streamed"),
    ]:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 2**40))
        monkeypatch.setattr("mrscale.workflow.inputs.MEMORY_LIMIT", limit)
        assert trained_on(asked) == {"kernel": place}


def test_dosages_that_overfill_a_gpu_end_with_what_to_do(small_store, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("mrscale.workflow.inputs.ResidentDosages", full)
    asked = study(small_store, tmp_path / "run", **KERNEL, input="resident")
    with pytest.raises(EngineError, match='input = "streamed"'):
        train(asked, quiet=True)


def test_a_chunk_damaged_during_training_stops_it_and_is_no_loss_once_mended(damaged, tmp_path):
    settings = {**KERNEL, "input": "streamed", "steps": 120, "prefetch_mib": 0.01}
    asked = study(damaged, tmp_path / "run", **settings)
    whole = train(asked.model_copy(update={"run": str(tmp_path / "whole")}), quiet=True)
    folder, shard = RunFolder(tmp_path / "run"), damaged / "call_dosage" / "c" / "1" / "0"
    sound = shard.read_bytes()

    def damage():
        while not folder.checkpoint("kernel").exists():
            time.sleep(0.001)
        shard.write_bytes(bytes([sound[0] ^ 255]) + sound[1:])

    thread = threading.Thread(target=damage)
    thread.start()
    with pytest.raises(StoreError, match=r"damaged at call_dosage, chunk \d+"):
        train(asked, quiet=True)
    thread.join()
    assert 0 < checkpoint.load_story(folder.checkpoint("kernel"))["step"] < 120
    shard.write_bytes(sound)
    same_encoders(train(asked, quiet=True), whole, "kernel")
