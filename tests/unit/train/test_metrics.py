"""Metrics: a line for every look, none of them twice, and how long a trainer waited."""

from __future__ import annotations

import json
import sys
import time

import pytest

from mrscale.errors import InputError
from mrscale.train.metrics import Metrics, Watch


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_record_is_a_line(tmp_path):
    metrics = Metrics(tmp_path / "new" / "flow.metrics.jsonl")
    for step in (40, 80):
        metrics.add({"step": step, "loss": [0.5, 0.25], "parts": {"entropy": [1.0]}})
    assert lines(tmp_path / "new" / "flow.metrics.jsonl") == [
        {"step": step, "loss": [0.5, 0.25], "parts": {"entropy": [1.0]}} for step in (40, 80)
    ]


def test_what_training_will_measure_again_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    for step in (40, 80, 120):
        metrics.add({"step": step})
    with path.open("a") as handle:
        handle.write('{"step": 4')
    metrics.continue_from(80)
    metrics.add({"step": 120, "again": True})
    assert lines(path) == [{"step": 40}, {"step": 80}, {"step": 120, "again": True}]


def test_without_a_file_nothing_is_kept(tmp_path):
    metrics = Metrics()
    metrics.add({"step": 1})
    metrics.continue_from(0)
    assert not list(tmp_path.iterdir())


def test_a_tensorboard_that_is_not_installed_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        Metrics(tmp_path / "metrics.jsonl", tensorboard=True)
    Metrics(tensorboard=True)


def test_tensorboard_is_shown_every_number(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = Metrics(tmp_path / "flow.jsonl", tensorboard=True)
    metrics.add({"step": 40, "loss": [0.5, 0.25], "parts": {"entropy": [1.0]}, "seconds": 2.0})
    shown = EventAccumulator(str(tmp_path / "flow")).Reload()
    assert set(shown.Tags()["scalars"]) == {
        "step", "loss/0", "loss/1", "parts/entropy/0", "seconds"
    }  # fmt: skip
    assert shown.Scalars("loss/1")[0].value == 0.25


def test_a_watch_tells_waiting_from_working():
    def slow():
        for number in range(3):
            time.sleep(0.05)
            yield number

    watch = Watch()
    for number, _ in enumerate(watch.over(slow())):
        time.sleep(0.1 if number == 0 else 0)
    seconds, waited = watch.look()
    assert 0.15 <= waited <= seconds - 0.09
    assert watch.look()[1] == 0
