"""Look at the machine: what is there, what is missing, and the command that mends it."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from mrscale.errors import MrscaleError
from mrscale.stream.engine import MEMORY_LIMIT
from mrscale.workflow.checkup import Check
from mrscale.workflow.workbench_checkup import examine_workbench

GIB = 2**30
NEEDED_DISK_GIB = 5
NEEDED_MEMORY_GIB = 4
SPARK_EXTRA = "pip install 'mrscale[spark]'"
TESTED = {"hail": "0.2.139", "pyspark": "3.5"}
"""Versions (or how they begin) of the engines that the tests run on."""


def examine() -> list[Check]:
    """Run every check; none of them changes the machine.

    The network is used only where the variables of a workbench are set.
    """
    checks: list[Callable[[], Check]] = [
        _python,
        _java,
        lambda: _package("Spark", "pyspark", SPARK_EXTRA),
        lambda: _package("Hail", "hail", SPARK_EXTRA),
        _torch,
        _dask,
        _disk,
        _memory,
        lambda: _package("Simulation (msprime)", "msprime", "pip install 'mrscale[simulate]'"),
        lambda: _package("Simulation (pysam)", "pysam", "pip install 'mrscale[simulate]'"),
    ]
    return [*(check() for check in checks), *examine_workbench()]


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("Python", ok, platform.python_version(), "" if ok else "install Python 3.11+")


def _java() -> Check:
    try:
        from pipelines.spark import find_java

        java = find_java()
    except MrscaleError as error:
        return Check("Java", False, str(error), SPARK_EXTRA)
    return Check("Java", True, f"Java {java.version} from {java.source}")


def _package(name: str, package: str, fix: str) -> Check:
    try:
        module = __import__(package)
    except ImportError:
        return Check(name, False, f"{package} is not installed", fix)
    except Exception as error:  # whatever a package raises when it finds half of what it needs
        return Check(name, False, f"{package} cannot be imported ({type(error).__name__})", fix)
    try:
        found = version(package)
    except PackageNotFoundError:  # it lies on the PYTHONPATH, as Spark's own PySpark does
        found = str(getattr(module, "__version__", "of unknown version"))
    tested = TESTED.get(package, "")
    other = tested and not f"{found}.".startswith(f"{tested}.")
    note = f"tested with {tested}; if it fails: {fix}" if other else ""
    return Check(name, True, f"{package} {found}", note=note)


def _torch() -> Check:
    import torch

    gpus = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(gpus)) or "no GPU (not needed)"
    return Check("PyTorch", bool(torch.ones(2).sum() == 2), f"torch {torch.__version__}, {names}")


def _dask() -> Check:
    from mrscale.stream.engine import engine

    with engine() as client:
        ok = client.submit(sum, [1, 2]).result() == 3
        threads = sum(client.nthreads().values())
    return Check("Dask", ok, f"dask {version('dask')}, {threads} threads")


def _disk() -> Check:
    free = shutil.disk_usage(".").free / GIB
    ok = free >= NEEDED_DISK_GIB
    fix = "" if ok else f"free {NEEDED_DISK_GIB} GiB, or work on another disk"
    return Check("Disk", ok, f"{free:.0f} GiB free in this folder", fix)


def _memory() -> Check:
    total = MEMORY_LIMIT / GIB
    ok = total >= NEEDED_MEMORY_GIB
    fix = "" if ok else f"use a machine with {NEEDED_MEMORY_GIB} GiB or more"
    return Check("Memory", ok, f"{total:.0f} GiB", fix)
