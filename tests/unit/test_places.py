"""Files by path and by URL behave alike."""

from __future__ import annotations

import errno
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from mrscale import places
from mrscale.errors import InputError, StoreError


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    if request.param == "local":
        return str(tmp_path / "place")
    return f"memory://{tmp_path.name}"


def test_a_file_is_written_read_and_removed(folder):
    file = places.join(folder, "below", "a.json")
    assert not places.exists(file)
    places.write_bytes(file, b"old")
    places.write_bytes(file, b"new")
    assert places.read_bytes(file) == b"new"
    with places.open_binary(file) as handle:
        assert handle.read(1) == b"n"
    assert places.names(places.join(folder, "below")) == ["a.json"]
    assert places.names(folder) == ["below"]
    assert places.is_file(file)
    assert places.is_folder(places.join(folder, "below"))
    places.remove(folder)
    places.remove(folder)
    assert not places.exists(file)
    assert places.names(folder) == []


def test_only_the_first_of_two_makes_a_file(folder):
    file = places.join(folder, "claim")
    assert places.create_bytes(file, b"first")
    assert not places.create_bytes(file, b"second")
    assert places.read_bytes(file) == b"first"
    assert places.names(folder) == ["claim"]


def test_a_pattern_names_its_files_in_order(folder):
    for name in ("b.vcf", "a.vcf", "c.txt"):
        places.write_bytes(places.join(folder, name), b"")
    found = places.expand(places.join(folder, "*.vcf"))
    assert [path.rsplit("/", 1)[1] for path in found] == ["a.vcf", "b.vcf"]
    assert [places.read_bytes(path) for path in found] == [b"", b""]
    assert places.expand(places.join(folder, "none*")) == []
    assert places.expand(places.join(folder, "a.vcf")) == [places.join(folder, "a.vcf")]


def test_an_unknown_kind_of_url_is_refused():
    with pytest.raises(InputError, match="not a path or URL that can be read here"):
        places.exists("nowhere://a/b")


def test_files_are_listed_with_their_sizes_at_any_depth(folder):
    assert places.files(folder) == {}
    for name, content in (("b", b"1"), ("a/c", b"22"), ("a/b/d", b"333")):
        places.write_bytes(places.join(folder, name), content)
    assert places.files(folder) == {"a/b/d": 3, "a/c": 2, "b": 1}
    assert list(places.files(folder)) == ["a/b/d", "a/c", "b"]
    assert places.size(places.join(folder, "a", "c")) == 2


def test_of_many_threads_one_makes_a_file_and_nobody_sees_a_part(folder):
    file = places.join(folder, "claim")
    content = [bytes([65 + i]) * 100_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda data: places.create_bytes(file, data), content))
    assert sum(made) == 1
    assert places.read_bytes(file) == content[made.index(True)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda data: places.write_bytes(file, data), content))
    assert places.read_bytes(file) in content
    assert places.names(folder) == ["claim"]


@pytest.mark.parametrize("writers", [0, 1])
def test_one_folder_is_removed_by_many_at_once(tmp_path, writers):
    folder = tmp_path / "parts"

    def write() -> None:
        for i in range(50):
            places.write_bytes(folder / f"late-{i}", b"")

    for _ in range(5):
        for i in range(60):
            places.write_bytes(folder / str(i % 3) / f"{i}", b"")
        with ThreadPoolExecutor(8) as pool:
            late = [pool.submit(write) for _ in range(writers)]
            for removed in [pool.submit(places.remove, folder) for _ in range(6)]:
                removed.result()
            wait(late)
        places.remove(folder)
        assert not folder.exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_was_made_is_on_the_disk(tmp_path, monkeypatch, links):
    def link(*_):
        raise OSError(errno.EPERM, "no links here")

    def fsync(descriptor):
        synced.append(os.fstat(descriptor)[:3])
        sync(descriptor)

    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", fsync)
    if not links:
        monkeypatch.setattr(os, "link", link)
    places.create_bytes(tmp_path / "claim", b"first")
    assert (tmp_path / "claim").stat().st_ino in [inode for _, inode, _ in synced]


def test_a_file_system_without_links_still_makes_a_file_once(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    assert places.create_bytes(tmp_path / "claim", b"first")
    assert not places.create_bytes(tmp_path / "claim", b"second")
    assert (tmp_path / "claim").read_bytes() == b"first"
    assert places.names(tmp_path) == ["claim"]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError(errno.ENOSPC, "x"), StoreError, r"the disk \(or quota\) is full; make room"),
        (OSError(errno.EDQUOT, "x"), StoreError, r"the disk \(or quota\) is full; make room"),
        (OSError(errno.EROFS, "x"), InputError, "it is read-only; mend that, or choose another"),
        (OSError(errno.EACCES, "x"), InputError, "permission is denied"),
        (OSError("Forbidden: https://host/b/o secret"), InputError, "permission is denied"),
        (FileNotFoundError("x"), InputError, "there is no such bucket or folder"),
        (NotADirectoryError("x"), InputError, "a file is in the way of a folder"),
        (OSError(errno.EIO, "secret"), InputError, "OSError"),
    ],
)
def test_what_a_system_refuses_is_one_sentence(error, kind, message):
    def refuse():
        with places.writing("there"):
            raise error

    with pytest.raises(kind, match=message) as caught:
        refuse()
    assert str(caught.value).startswith("there cannot be written")
    assert "secret" not in str(caught.value)


def test_other_errors_and_our_own_pass_untouched():
    def fail(error):
        with places.reading("there"):
            raise error

    for error in (KeyError("a bug"), StoreError("said already"), InputError("said already")):
        with pytest.raises(type(error), match=str(error).strip("'")):
            fail(error)


def test_a_place_that_is_not_there_yet_may_be_writable(folder):
    places.require_writable(places.join(folder, "below", "it"))
    assert not places.exists(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts need root")
def test_a_disk_that_is_full_or_read_only_is_named(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(options, capture_output=True).returncode:
        pytest.skip("this machine does not allow mounts")
    try:
        with pytest.raises(StoreError, match="is full"), places.writing(disk):
            places.write_bytes(disk / "large", bytes(2**20))
        assert places.names(disk) == []
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(InputError, match="it is read-only"), places.writing(disk):
            places.create_bytes(disk / "claim", b"")
        with pytest.raises(InputError, match="cannot be written: permission is denied"):
            places.require_writable(disk / "a" / "b")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
