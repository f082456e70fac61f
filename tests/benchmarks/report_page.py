"""How large the report and a notebook of a big study are, and how fast a browser shows the report.

    python tests/benchmarks/report_page.py [--write docs/benchmarks.md]

Simulates a biobank, runs the study, opens the report in Chromium and executes a notebook that shows
the store, the result and its figures. Fails above the limits.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from measuring import machine
from nbclient import NotebookClient
from page import insert, markdown
from playwright.sync_api import sync_playwright

LIMIT_BYTES, LIMIT_SECONDS = 5 * 10**6, 2.0
ROUNDS = 7
PAINTED = """() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(
    () => done(performance.now() / 1000))))"""
"""Seconds from the navigation to the second frame after loading."""
CELLS = (
    "import mrscale as mr\nresult = mr.run('study.toml', quiet=True)\nresult",
    "mr.open('run/store.zarr')",
    "mr.describe('run/store.zarr')",
    "pair = result.pairs[0]\npair.plot_forest().figure",
    "pair.plot_environments().figure",
    "pair.plot_leave_one_out().figure",
    "pair.plot_scatter().figure",
    "pair.plot_first_stage().figure",
)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--variants", type=int, default=500)
    parser.add_argument("--folder", type=Path, help="a study that was simulated and run before")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mrscale-bench-") as temporary:
        folder = options.folder or Path(temporary) / "biobank"
        if not options.folder:
            run_study(folder, options.people, options.variants)
        text = measure(folder, options.people, options.variants)
    print(text)
    if options.write:
        insert(options.write, "report page", text)


def run_study(folder: Path, num_people: int, num_variants: int) -> None:
    """Simulate a biobank and run its study."""
    sizes = ["--people", str(num_people), "--variants", str(num_variants)]
    for words in (
        ["simulate", "--out", str(folder), *sizes],
        ["run", str(folder / "study.toml")],
    ):
        subprocess.run([sys.executable, "-m", "mrscale", *words, "--quiet"], check=True)


def measure(folder: Path, num_people: int, num_variants: int) -> str:
    """Sizes and times beside their limits; a table in Markdown."""
    told, report = machine(), folder / "run" / "report.html"
    page, notebook = report.stat().st_size, executed(folder)
    found = [
        ("report", f"{page / 1e6:.2f} MB", "5 MB", page / LIMIT_BYTES),
        ("notebook with 5 figures", f"{notebook / 1e6:.2f} MB", "5 MB", notebook / LIMIT_BYTES),
    ]
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium:
        seconds = shown(report, chromium)
        share = seconds / LIMIT_SECONDS
        found.append(("report shown in Chromium", f"{seconds:.2f} s", "2 s", share))
    broken = [name for name, _, _, share in found if share > 1]
    if broken:
        raise SystemExit(f"over the limit: {', '.join(broken)}")
    rows = [[name, size, limit, f"{share:.2f}"] for name, size, limit, share in found]
    return (
        f"## Report of {num_people:,} people and {num_variants:,} variants\n\n"
        f"`python tests/benchmarks/report_page.py` ({told}). From the navigation to the second "
        f"frame, median of {ROUNDS} loads of a local file; in Chromium, where the system has it."
        f"\n\n{markdown(['what', 'found', 'limit', 'found / limit'], rows)}\n"
    )


def shown(report: Path, chromium: str) -> float:
    """Seconds until the report is on the screen."""
    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(ROUNDS):
            page = browser.new_page()
            page.goto(report.absolute().as_uri(), wait_until="load")
            found.append(page.evaluate(PAINTED))
            page.close()
        browser.close()
    return statistics.median(found)


def executed(folder: Path) -> int:
    """Bytes of an executed notebook that shows the study."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    started = time.perf_counter()
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    print(f"notebook executed in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return len(nbformat.writes(notebook).encode())


if __name__ == "__main__":
    main()
