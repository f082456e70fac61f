"""The page: self-contained, escaped, accessible, in order, equal for equal results."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from mrscale.report import render
from mrscale.results import LeftOut, LeftOutVariant, Sensitivity, StudyResult

VOID = {"meta", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Collects elements and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture
def html(study: StudyResult) -> str:
    return render(study)


def test_fetches_nothing(html: str) -> None:
    page = Page(html)
    assert not page.open
    for _, attrs in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert (attrs.get(name) or "#").startswith("#")
    assert not page.named("link")
    (policy,) = [m["content"] for m in page.named("meta") if "http-equiv" in m]
    assert policy is not None
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}'" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"@import|url\((?!#)", html)


def test_ids_are_unique(html: str) -> None:
    ids = [attrs["id"] for _, attrs in Page(html).elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_figures_and_tables_are_accessible(html: str) -> None:
    page = Page(html)
    images = [attrs for _, attrs in page.elements if attrs.get("role") == "img"]
    assert len(images) == len(page.named("svg")) == 11
    assert all(attrs["aria-label"] for attrs in images)
    assert len(page.named("caption")) == len(page.named("table"))
    assert all(attrs.get("scope") in {"row", "col"} for attrs in page.named("th"))


def test_order_of_a_pair(html: str) -> None:
    marks = [
        "Raising exposure by one unit",
        "<svg",
        "Trust in the learned instruments",
        "<h3>Estimates</h3>",
        "<h3>Learned against adjusted</h3>",
        "<h3>Strength of the instruments</h3>",
        "<h3>Diagnostics</h3>",
        "<h3>Inside each environment</h3>",
        "<h3>Sensitivity</h3>",
        "<h3>Anderson-Rubin set",
        "<h3>Instruments</h3>",
        "People and variants</h2>",
        "Encoders</h2>",
        "Limits: what no check here can see</h2>",
        "STROBE-MR</h2>",
        "Provenance</h2>",
    ]
    places = [html.index(mark) for mark in marks]
    assert places == sorted(places)


def test_verdicts_are_words_and_symbols(html: str) -> None:
    assert "✓ passed" in html
    assert "✗ failed" in html
    assert "✓ green" in html
    assert "✗ red" in html


def test_names_are_escaped(study: StudyResult) -> None:
    bad = "<script>alert('x')</script>\"&"
    pair = replace(
        study.pairs[0],
        exposure=bad,
        outcome=bad,
        reasons=(bad,),
        estimates=tuple(replace(e, label=bad, note=bad) for e in study.pairs[0].estimates),
        diagnostics=tuple(
            replace(d, name=bad, meaning=bad, threshold=bad) for d in study.pairs[0].diagnostics
        ),
        per_environment=tuple(
            replace(e, key=f"{bad}{i}") for i, e in enumerate(study.pairs[0].per_environment)
        ),
        without=(LeftOut(bad, 0.5, 0.4, 0.6, 9.0),),
        sensitivity=(Sensitivity(bad, 0.5, 0.4, 0.6, bad),),
        instruments=(replace(study.pairs[0].instruments[0], variant=bad, effect_allele=bad),),
    )
    html = render(
        replace(
            study,
            name=bad,
            pairs=(pair,),
            environments={bad: 20_000},
            people={bad: 1},
            left_out=(LeftOutVariant(bad, bad, bad, bad, bad),),
            variants={bad: 1},
            encoders={bad: study.encoders["flow"]},
            provenance={bad: bad},
        ),
        clock={bad: bad},
    )
    assert len(Page(html).named("script")) == 1
    assert "alert(&#39;x&#39;)" in html
    assert not Page(html).open


def test_people_are_suppressed(study: StudyResult) -> None:
    html = render(replace(study, environments={"a": 19_983, "b": 17}, people={"odd": 13}))
    assert "&lt;=20" in html
    assert "&lt;=20,003" in html
    assert "<li>people in b: shown as &lt;=20</li>" in html
    assert ">17<" not in html
    assert ">13<" not in html


def test_equal_results_give_equal_bytes(study: StudyResult, html: str) -> None:
    assert render(study) == html
    assert "Run times" not in html
    assert "Run times" in render(study, clock={"train": {"seconds": 1.5}})


def test_a_bare_result_renders(study: StudyResult) -> None:
    bare = replace(
        study.pairs[0],
        diagnostics=(),
        per_environment=(),
        anderson_rubin=(),
        reasons=(),
        without=(),
        sensitivity=(),
        instruments=(),
    )
    html = render(StudyResult("bare", (bare,), {"a": 100, "b": 100}, 200, 3, float("nan")))
    assert "an unknown share" in html
    assert "Provenance" not in html


def test_the_scree_plot_is_drawn_once_for_all_methods(study: StudyResult, html: str) -> None:
    assert html.count("Eigenvalues of the correlation matrix of instruments in each fold") == 1
    assert "scree-" in html
    assert "eigenvalues</th>" not in html
    assert "scree-" not in render(replace(study, encoders={}))
