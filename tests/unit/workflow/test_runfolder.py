"""Whose a run folder is: claims, refusals that touch nothing, and receipts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrscale.config import Study
from mrscale.errors import RunError
from mrscale.provenance import Clock
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.study import lies_in_run


def study(folder, name="mine"):
    return Study(name=name, run=str(folder))


def contents(folder: Path):
    """Every path below a folder, with its bytes and time of change."""
    return {
        path.relative_to(folder): (
            path.read_bytes() if path.is_file() else None,
            path.stat().st_mtime_ns,
        )
        for path in sorted([folder, *folder.rglob("*")])
    }


@pytest.mark.parametrize("present", [False, True], ids=["absent", "empty"])
def test_a_new_folder_is_claimed(tmp_path, present):
    folder = tmp_path / "deep" / "run"
    if present:
        folder.mkdir(parents=True)
    claimed = RunFolder.claim(study(folder))
    assert claimed.path == folder
    assert json.loads((folder / "run.json").read_text()) == {"study": "mine"}
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_ones_own_folder_is_claimed_again_unchanged(tmp_path):
    folder = RunFolder.claim(study(tmp_path / "run"))
    folder.bind("digest")
    (tmp_path / "run" / "result.json").write_text("{}")
    before = contents(tmp_path)
    RunFolder.claim(study(tmp_path / "run")).bind("digest")
    assert contents(tmp_path) == before


def test_a_folder_whose_first_marker_was_cut_off_is_claimed(tmp_path):
    (tmp_path / ".run.json.4711.partial").write_text('{"stu')
    RunFolder.claim(study(tmp_path))
    assert json.loads((tmp_path / "run.json").read_text()) == {"study": "mine"}


def another_study(folder):
    RunFolder.claim(study(folder, "theirs")).bind("digest")
    (folder / "encoders").mkdir()
    (folder / "encoders" / "x.safetensors").write_bytes(b"weights")


def somebodys_files(folder):
    folder.mkdir()
    (folder / "thesis.tex").write_text("x")


def another_tools_run(folder):
    folder.mkdir()
    (folder / "run.json").write_text('["not", "ours"]')


def not_json(folder):
    folder.mkdir()
    (folder / "run.json").write_text("run: 1\n")


def a_file(folder):
    folder.write_text("x")


REFUSED = [
    (another_study, r"holds the run of another study, 'theirs', not of 'mine'"),
    (somebodys_files, "is not empty and not a run folder"),
    (another_tools_run, "is not empty and not a run folder"),
    (not_json, "is not empty and not a run folder"),
    (a_file, "is a file, not a run folder"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[make.__name__ for make, _ in REFUSED])
def test_what_is_not_this_studys_is_refused_and_not_touched(tmp_path, make, message):
    make(tmp_path / "run")
    before = contents(tmp_path)
    with pytest.raises(RunError, match=f"{message}; nothing was touched; choose another folder"):
        RunFolder.claim(study(tmp_path / "run"))
    assert contents(tmp_path) == before


def test_a_run_is_of_one_store(tmp_path):
    folder = RunFolder.claim(study(tmp_path / "run"))
    folder.bind("first")
    folder.bind("first")
    before = contents(tmp_path)
    with pytest.raises(RunError, match="results from another genotype store; nothing was touched"):
        folder.bind("second")
    assert contents(tmp_path) == before


def test_a_stage_is_done_once_it_is_finished_and_until_it_is_reopened(tmp_path):
    folder = RunFolder.claim(study(tmp_path / "run"))
    assert folder.done("train") is None
    folder.reopen("train")
    folder.finish("train", "digest", Clock())
    folder.finish("encode", "other", Clock())
    folder.latents.mkdir()
    assert folder.done("train") == "digest"
    assert folder.clocks().keys() == {"train", "encode"}
    found = folder.clocks()["train"]
    assert found.keys() == {"started", "seconds", "machine", "peak_memory_mib", "largest_child_mib"}
    folder.reopen("train")
    assert folder.done("train") is None
    assert folder.done("encode") == "other"
    folder.latents.rmdir()
    assert folder.done("encode") is None


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"digest": 3, "run": {}}', "[" * 10**5])
def test_a_damaged_receipt_is_none(tmp_path, text):
    folder = RunFolder.claim(study(tmp_path / "run"))
    folder.finish("train", "digest", Clock())
    (tmp_path / "run" / "stages" / "train.json").write_text(text)
    assert folder.done("train") is None
    assert folder.clocks() == {}


def test_a_store_is_in_the_run_folder_however_its_path_is_written(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    asked = study(tmp_path / "run")
    for out in (
        "run/s.zarr",
        "link/s.zarr",
        tmp_path / "other" / ".." / "run" / "below" / "s.zarr",
    ):
        assert lies_in_run(asked, str(out))
    for out in ("s.zarr", "run", "run/../s.zarr", "s3://run/s.zarr"):
        assert not lies_in_run(asked, out)


def test_artefacts_have_one_place_each(tmp_path):
    folder = RunFolder.claim(study(tmp_path / "run"))
    paths = [folder.latents, folder.result, folder.report, folder.latent_dim]
    paths += [folder.checkpoint(what) for what in ("path", "kernel", "flow")]
    for fold in range(2):
        paths.append(folder.prepared(fold))
        paths += [folder.encoder(method, fold) for method in ("linear", "kernel", "flow")]
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(folder.path) for path in paths)
