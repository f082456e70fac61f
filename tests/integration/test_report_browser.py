"""The report in a real browser: no errors, no requests, sortable, downloadable, dark, printable."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise

import pytest

from mrscale.report import render
from mrscale.results import (
    Diagnostic,
    Estimate,
    Instrument,
    LeftOut,
    LeftOutVariant,
    PairResult,
    Sensitivity,
    StudyResult,
)

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")


def estimate(key: str, value: float, num_obs: int = 1000) -> Estimate:
    return Estimate(key, key.upper(), value, 0.1, value - 0.2, value + 0.2, 0.01, num_obs, 7, 50.0)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A report of two pairs with everything that a report may hold."""
    pair = PairResult(
        exposure="ldl",
        outcome="chd",
        estimates=(estimate("ols", 0.9), estimate("tsls_pc", 0.5), estimate("flow_controls", -0.4)),
        headline="tsls_pc",
        trust="amber",
        reasons=("one reason",),
        diagnostics=(Diagnostic("a check", 0.3, ">= 0.05", "pass", "what it says"),),
        per_environment=(estimate("north", 0.4, 600), estimate("south", 0.6, 400)),
        anderson_rubin=((0.1, 0.9),),
        without=(LeftOut("north", 0.6, 0.4, 0.8, 30.0), LeftOut("south", 0.4, 0.2, 0.6, 30.0)),
        sensitivity=(Sensitivity("robustness value", 0.3, 0.1, 0.5, "a share"),),
        instruments=tuple(
            Instrument(f"rs{i}", f"1:{i}", "A", "C", 0.2, 0.1, 0.01 * i, 0.05, 0.02)
            for i in range(1, 4)
        ),
    )
    result = StudyResult(
        name="a study",
        pairs=(pair, replace(pair, outcome="stroke")),
        environments={"north": 600, "south": 400},
        num_people=1000,
        num_variants=3,
        missing_rate=0.01,
        variants={"kept": 3, "palindromic": 1},
        left_out=(LeftOutVariant("rs9", "2:77", "A,T", "palindromic", "frequency 0.49"),),
        people={"in both": 1000},
        encoders={"flow": {"latent_dim": 1, "factors": 2}},
        provenance={"seed": 0},
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(result), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium from the system's packages."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        # as root in a container, Chromium has no sandbox to use
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser, file):
    """The report, opened; what went wrong and what was fetched are in ``page.said``."""
    opened = browser.new_page(accept_downloads=True)
    said = {"console": [], "requests": [], "errors": []}
    opened.on("console", lambda message: said["console"].append(message.text))
    opened.on("request", lambda request: said["requests"].append(request.url))
    opened.on("pageerror", lambda error: said["errors"].append(str(error)))
    opened.goto(file.as_uri(), wait_until="networkidle")
    yield opened
    assert said == {"console": [], "requests": [file.as_uri()], "errors": []}
    opened.close()


def first_column(table):
    return [row.inner_text().split("\n")[0] for row in table.locator("tbody tr th").all()]


def test_tables_are_sorted_by_the_column_that_is_pressed(page):
    table = page.get_by_role("table").filter(has_text="Effect on chd").first
    before = first_column(table)
    head = table.get_by_role("button", name="Estimate", exact=True)
    head.click()
    assert first_column(table) == ["FLOW_CONTROLS", "▶ TSLS_PC", "OLS"]
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    head.click()
    assert first_column(table) == before == ["OLS", "▶ TSLS_PC", "FLOW_CONTROLS"]
    table.get_by_role("button", name="Estimator", exact=True).click()
    assert first_column(table) == ["FLOW_CONTROLS", "OLS", "▶ TSLS_PC"]


def test_every_table_is_downloaded_as_tsv(page, tmp_path):
    tables, buttons = page.locator("table").all(), page.get_by_text("Download as TSV").all()
    assert len(tables) == len(buttons) > 10
    names = [f"{table.get_attribute('data-name')}.tsv" for table in tables]
    assert len(set(names)) == len(names)
    # Chromium asks its reader before an eleventh file of one page, so a few stand for all
    for button, name in [*zip(buttons, names, strict=True)][::5]:
        with page.expect_download() as waiting:
            button.click()
        assert waiting.value.suggested_filename == name
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download as TSV: Effect on chd per unit").click()
    waiting.value.save_as(tmp_path / "estimates.tsv")
    head, *rows = (tmp_path / "estimates.tsv").read_text().splitlines()
    assert head.split("\t")[:2] == ["Estimator", "Estimate"]
    assert [row.split("\t")[1] for row in rows] == ["0.90", "0.50", "-0.40"]


def test_everything_has_a_name(page):
    for role in ("img", "region", "button", "link", "table", "navigation"):
        found = page.get_by_role(role).all()
        assert found, role
        for element in found:
            named = element.get_attribute("aria-label") or element.inner_text()
            labelled = element.get_attribute("aria-labelledby")
            assert named.strip() or page.locator(f"#{labelled}").inner_text().strip()
    levels = [int(h.evaluate("e => e.tagName[1]")) for h in page.locator("h1,h2,h3").all()]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_dark_where_the_reader_wants_it_and_plain_on_paper(page):
    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert background() == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    assert background() == "rgb(21, 25, 30)"
    page.emulate_media(media="print", color_scheme="dark")
    assert background() == "rgb(255, 255, 255)"
    assert not page.get_by_text("Download as TSV").first.is_visible()
    assert page.pdf()[:4] == b"%PDF"


def test_nothing_is_wider_than_a_narrow_screen(page):
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_scripts_the_page_is_complete(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.get_by_role("table").count() > 10
    assert page.get_by_text("Download as TSV").count() == 0
    context.close()
