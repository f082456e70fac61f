"""The documentation: it builds without a warning, its links lead somewhere, and it is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import mrscale
from mrscale.config import Section, Study

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
REMOTE = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]+"')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_the_site_builds_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = {page: page.read_text() for page in site.rglob("*.html")}
    assert len(pages) == len(PAGES)  # a page that is not found beside those of docs/, no README
    assert [page.parent.name for page, text in pages.items() if REMOTE.search(text)] == []


def test_docstrings_are_rendered_as_they_are_meant(site: Path) -> None:
    text = "".join((site / page / "index.html").read_text() for page in ("api", "results"))
    assert "array-like, shape (N, M)" in text
    assert re.findall(r":(?:attr|class|data|func|meth|mod):|array - like|&lt;autoref", text) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_function_has_its_place_on_the_page_of_functions() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    places = re.findall(r"^::: (\S+)\n    options:\n      heading: mr\.(\w+)$", page, re.M)
    homes = {name: ".".join(mrscale._HOMES[name]) for name in mrscale.__all__}
    assert {name: home for home, name in places} == homes


def keys(section: type[Section], name: str = "Top level") -> Iterator[tuple[str, str]]:
    """Every key of a part of the study file and of its parts, with the heading it stands under."""
    for key, field in section.model_fields.items():
        inner = (field.annotation, *getattr(field.annotation, "__args__", ()))
        parts = [part for part in inner if isinstance(part, type) and issubclass(part, Section)]
        if parts:
            yield from keys(parts[0], f"`[{key}]`")
        else:
            yield name, key


def test_the_page_of_the_study_file_names_every_key() -> None:
    text = (ROOT / "docs" / "study-file.md").read_text()
    under = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    wanted = list(keys(Study))
    assert len(wanted) > 50
    assert [(name, key) for name, key in wanted if f"\n| `{key}` |" not in under[name]] == []


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == mrscale.__version__
    assert citation["references"][0]["url"] in (ROOT / "docs/learned-instruments.md").read_text()
