"""Passwords and tokens in URLs: in no message, no description and no provenance."""

from __future__ import annotations

import functools
import http.server
import json
import threading

import pytest

from mrscale.errors import EngineError, InputError, without_secrets
from mrscale.provenance import fingerprint
from mrscale.store.reader import open_store
from mrscale.study_file import parse_study
from mrscale.workflow.describing import describe
from pipelines import identity, people

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"s3://key:{SECRET}@bucket/a.tsv", "s3://bucket/a.tsv"),
        (f"https://host/a.tsv?sig={SECRET}&b=1, and more", "https://host/a.tsv, and more"),
        (f"(tls://me:{SECRET}@host:8786)", "(tls://host:8786)"),
        ("gs://bucket/chr?.vcf.bgz", "gs://bucket/chr?.vcf.bgz"),
        ("is it so? yes = 1", "is it so? yes = 1"),
        ("me@home.org", "me@home.org"),
        ("/a/b@c/d.tsv", "/a/b@c/d.tsv"),
    ],
)
def test_urls_are_shown_without_secrets(text, shown):
    assert without_secrets(text) == shown
    assert str(EngineError(text)) == shown


@pytest.fixture
def url(tmp_path):
    """A table of people behind a URL with a token."""
    rows = [f"{i}\t{'ab'[i % 2]}\t{i}\t{i % 7}" for i in range(100)]
    (tmp_path / "p.tsv").write_text("\n".join(["person_id\tsite\tldl\tchd", *rows]))
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/p.tsv?token={SECRET}"
    server.shutdown()
    server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def study(url, exposure="ldl"):
    return parse_study(
        {
            "people": {"phenotypes": url, "environment_column": "site"},
            "traits": {"exposure": [exposure], "outcome": ["chd"]},
        }
    )


def test_provenance_has_inputs_by_content_and_no_url(url):
    settings = identity.settings(study(url), [])
    assert settings["inputs"]["people"] == [fingerprint(url)]
    assert SECRET not in json.dumps(settings)
    assert "127.0.0.1" not in json.dumps(settings)


def test_refusals_name_a_table_without_its_token(url):
    for wrong in (study(url, "bmi"), study(url.replace("p.tsv", "q.tsv"))):
        with pytest.raises(InputError) as caught:
            people.read_phenotypes(wrong)
        assert SECRET not in str(caught.value)
        assert "tsv" in str(caught.value)


def test_a_description_may_be_shared(small_store):
    store = open_store(small_store)
    assert SECRET not in str(type(store)(f"s3://key:{SECRET}@bucket/s.zarr", store.manifest))
    assert describe(small_store).store == str(small_store)
