"""Files by path and by URL behave alike."""

from __future__ import annotations

import pytest

from mrscale import places
from mrscale.errors import InputError


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
