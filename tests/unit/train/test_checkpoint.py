"""Files of tensors: whole or not there, and never a pickle."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import pytest
import torch

from mrscale.errors import RunError
from mrscale.train import checkpoint


def test_what_was_saved_is_loaded(tmp_path):
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.arange(5),
        "turned": torch.randn(2, 3, dtype=torch.float64).T,
        "none": torch.zeros(0, 2),
    }
    story = {"identity": "x", "history": [[40, -1.5, float("-inf")]], "wraps": [1.0, 2.5]}
    checkpoint.save(tmp_path / "new" / "folder" / "t.safetensors", tensors, story)
    loaded, told = checkpoint.load(tmp_path / "new" / "folder" / "t.safetensors")
    assert told == story == checkpoint.load_story(tmp_path / "new" / "folder" / "t.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)
        assert loaded[name].dtype == tensor.dtype


def test_a_reader_never_sees_a_part(tmp_path):
    path, stop, seen = tmp_path / "t.safetensors", threading.Event(), []

    def save(number):
        checkpoint.save(path, {"x": torch.full((200_000,), number)}, {"number": number})

    def read():
        while not stop.is_set():
            tensors, story = checkpoint.load(path)
            seen.append((story["number"], tensors["x"].unique().tolist()))

    save(0)
    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 60):
        save(number)
    stop.set()
    reader.join()
    assert len({number for number, _ in seen}) > 1
    assert all(values == [number] for number, values in seen)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "t.safetensors"
    checkpoint.save(path, {"x": torch.ones(2)}, {"number": 1})
    before = path.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoint.save(path, {"x": torch.zeros(2)}, {"number": torch.ones(1)})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("dump", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_no_pickle_is_loaded(tmp_path, dump):
    path, sprung = tmp_path / "t.safetensors", tmp_path / "sprung"
    with path.open("wb") as handle:
        dump(Trap(sprung), handle)
    for load in (checkpoint.load, checkpoint.load_story):
        with pytest.raises(RunError, match="is damaged, or no file of this version"):
            load(path)
    assert not sprung.exists()
