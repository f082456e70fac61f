"""The import contract, and docstrings on the statistics."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

import mrscale
import mrscale.sampling
import mrscale.stats

CHECKOUT = Path(mrscale.__file__).parent.parent


def test_layers_import_one_way_and_engines_stay_in_their_places():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def imported(file):
    """Every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(package):
    sources = [*(CHECKOUT / "mrscale").rglob("*.py"), *(CHECKOUT / "pipelines").rglob("*.py")]
    return {
        file.relative_to(CHECKOUT).parts[:2]
        for file in sources
        if any(f"{name}.".startswith(f"{package}.") for name in imported(file))
    }


@pytest.mark.parametrize(
    ("package", "home"),
    [
        ("torch.distributed", {("mrscale", "train")}),
        ("dask", {("mrscale", "stream")}),
        ("distributed", {("mrscale", "stream")}),
        ("rich", {("mrscale", "cli"), ("mrscale", "progress.py")}),
        ("pickle", set()),
    ],
)
def test_a_package_is_imported_in_its_home_only(package, home):
    assert importers(package) <= home


def public_names(package):
    for info in walk_packages(package.__path__, f"{package.__name__}."):
        module = import_module(info.name)
        yield info.name, module
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == info.name
            if not name.startswith("_") and own and (inspect.isclass(value) or callable(value)):
                yield f"{info.name}.{name}", value


@pytest.mark.parametrize("package", [mrscale.stats, mrscale.sampling], ids=lambda p: p.__name__)
def test_everything_public_is_documented(package):
    assert [name for name, value in public_names(package) if not inspect.getdoc(value)] == []


def test_the_statistics_import_without_engines():
    modules = [name for name, _ in public_names(mrscale.stats) if name.count(".") == 2]
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "dask", "distributed", "zarr", "xarray", "hail", "pyspark"}
