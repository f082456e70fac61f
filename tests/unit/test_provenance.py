"""Digests that tell whether something changed, and files that are never half-written."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from mrscale import __version__, places, provenance
from mrscale.errors import InputError
from mrscale.provenance import (
    Clock,
    digest,
    fingerprint,
    software_versions,
    without_people,
    write_json,
)


def test_digests_of_lists_of_ids_do_not_leave():
    inputs = {name: ["ab" * 32] for name in ("people", "exclude", "kinship", "pedigree")}
    assert without_people({"seed": 1, "inputs": inputs}) == {
        "seed": 1,
        "inputs": {"people": ["ab" * 32]},
    }


def test_digests_do_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [2, None]}) == digest({"b": [2, None], "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert digest(1) != digest("1")
    assert len(digest(None)) == 64


def test_a_files_fingerprint_follows_its_content_not_its_name(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"abc")
    two.write_bytes(b"abc")
    assert fingerprint(one) == fingerprint(two)
    two.write_bytes(b"abd")
    assert fingerprint(one) != fingerprint(str(two))


@pytest.mark.parametrize("place", ["start", "end", "size"])
def test_a_change_at_either_end_of_a_large_file_is_seen(tmp_path, monkeypatch, place):
    monkeypatch.setattr(provenance, "_WHOLE_FILE_LIMIT", 2**20)
    file = tmp_path / "large"
    content = bytearray(3 * 2**20)
    file.write_bytes(content)
    before = fingerprint(file)
    if place == "size":
        content += b"\0"
    else:
        content[0 if place == "start" else -1] = 1
    file.write_bytes(content)
    assert fingerprint(file) != before


def test_a_folders_fingerprint_follows_names_sizes_and_metadata(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "part-0").write_bytes(b"123")
    (tmp_path / "metadata.json.gz").write_bytes(b"meta")
    found = [fingerprint(tmp_path)]
    (tmp_path / "metadata.json.gz").write_bytes(b"atem")
    found.append(fingerprint(tmp_path))
    (tmp_path / "rows" / "part-0").write_bytes(b"1234")
    found.append(fingerprint(tmp_path))
    (tmp_path / "rows" / "part-0").rename(tmp_path / "rows" / "part-1")
    found.append(fingerprint(tmp_path))
    assert len(set(found)) == 4


def test_a_url_has_the_fingerprint_of_the_same_files_here(tmp_path):
    for name, content in (("metadata.json.gz", b"meta"), ("rows/part-0", b"123")):
        for place in (tmp_path / "here", f"memory://{tmp_path.name}/there"):
            places.write_bytes(places.join(place, name), content)
    there = f"memory://{tmp_path.name}/there"
    assert fingerprint(there) == fingerprint(tmp_path / "here")
    assert fingerprint(f"{there}/rows/part-0") == fingerprint(tmp_path / "here/rows/part-0")


@pytest.mark.parametrize("limit", [2**28, 2**20])
def test_a_web_server_need_not_say_how_large_a_file_is(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(provenance, "_WHOLE_FILE_LIMIT", limit)
    content = bytes(range(256)) * 2**13

    class Untold(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            with suppress(ConnectionError):  # the reader may have seen enough
                self.wfile.write(content)

        def log_message(self, *args):
            pass

    (tmp_path / "here").write_bytes(content)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Untold) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = fingerprint(f"http://127.0.0.1:{server.server_port}/there")
        server.shutdown()
    assert found == fingerprint(tmp_path / "here")


def test_nothing_has_no_fingerprint(tmp_path):
    with pytest.raises(InputError, match=r"there is no file or folder at .*absent"):
        fingerprint(tmp_path / "absent")


def test_versions_name_what_makes_the_numbers():
    found = software_versions()
    assert found["mrscale"] == __version__
    assert {"python", "numpy", "scipy", "zarr", "dask", "torch"} <= found.keys()


def test_a_clock_says_when_how_long_and_on_what():
    record = Clock().record()
    assert record["seconds"] >= 0
    assert record["started"].endswith("+00:00")
    assert "cores" in record["machine"]


def test_a_clock_says_how_much_memory_was_used_since_it_was_made():
    large = bytearray(os.urandom(2**20)) * 300
    before = Clock().record()["peak_memory_mib"]
    del large
    small = Clock()
    if sys.platform == "linux":
        assert small.record()["peak_memory_mib"] < before - 200
    more = bytearray(os.urandom(2**20)) * 200
    assert small.record()["peak_memory_mib"] > len(more) // 2**20
    del more


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_clock_says_how_much_memory_its_children_used():
    hold = "x = bytearray(b'1') * 2**28; print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        alive = Clock().record()["largest_child_mib"]
        child.communicate(b"\n")
    assert alive >= 256
    assert Clock().record()["largest_child_mib"] >= 256


def test_json_replaces_a_file_whole_and_leaves_nothing_behind(tmp_path):
    file = tmp_path / "new" / "value.json"
    write_json(file, {"b": 1, "a": [None, "é"]})
    write_json(file, {"b": 2})
    assert json.loads(file.read_text()) == {"b": 2}
    assert os.listdir(file.parent) == ["value.json"]  # noqa: PTH208 - hidden files count


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path):
    file = tmp_path / "value.json"
    write_json(file, 1)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(file, float("nan"))
    assert json.loads(file.read_text()) == 1
