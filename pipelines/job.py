"""Jobs on the engines: progress by what appears on disk, failures as one sentence."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mrscale.errors import EngineError, InputError, MrscaleError, StoreError
from pipelines.spark import cancel_jobs, import_hail, is_engine_error

_OURS = {kind.__name__: kind for kind in (InputError, StoreError, EngineError)}
_RAISED = re.compile(rf"mrscale\.errors\.({'|'.join(_OURS)}): (.+)")
_DISK_FULL = "No space left on device"
_NOT_INSTALLED = re.compile(r"ModuleNotFoundError: No module named '(\w+)")
_POLL_SECONDS = 0.5


def spread(items: Sequence[int]) -> Any:
    """Item numbers as a Spark RDD, one task for each."""
    spark_context = import_hail().spark_context()
    return spark_context.parallelize(items, len(items))


@contextmanager
def watched(
    num_done: Callable[[], int], total: int, advance: Callable[[float], None]
) -> Iterator[None]:
    """Report parts of a job as they appear on disk: Spark's own call returns only at the end.

    Parameters
    ----------
    num_done : callable
        Parts that are finished.
    total : int
        Parts of the whole job.
    advance : callable
        Called with shares that add up to 1.
    """
    stop, seen = threading.Event(), 0

    def report(done: int) -> None:
        nonlocal seen
        if done > seen:
            advance((done - seen) / total)
            seen = done

    def watch() -> None:
        while not stop.wait(_POLL_SECONDS):
            # a look may fail, of which the job itself hears if it lasts
            with suppress(MrscaleError, OSError):
                report(num_done())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    report(total)


@contextmanager
def engine_errors(log: Path) -> Iterator[None]:
    """Turn engine failures into one sentence: Hail quotes input lines, with people's genotypes.

    What our own code raised in a Spark task is raised again as what it was. After Ctrl-C the jobs
    are ended too.
    """
    try:
        yield
    except KeyboardInterrupt:
        cancel_jobs()
        raise
    except MrscaleError:
        raise
    except Exception as error:
        if not is_engine_error(error):
            raise
        raise _in_one_sentence(error, log) from None


def _in_one_sentence(error: Exception, log: Path) -> MrscaleError:
    text = str(error)
    if ours := _RAISED.search(text):
        return _OURS[ours[1]](ours[2].strip())
    if module := _NOT_INSTALLED.search(text):
        return EngineError(
            f"the Python of Spark's workers has no module {module[1]!r}; install "
            "'mrscale[spark]' on every machine of the cluster, and let the environment variable "
            "PYSPARK_PYTHON name the Python that has it before Hail is started"
        )
    if _DISK_FULL in text:
        return EngineError(
            f"Spark's scratch folder is full (the cause is in {log}); make room, or name another "
            "folder in the environment variable SPARK_LOCAL_DIRS, and run the same command again, "
            "it continues where it stopped"
        )
    return EngineError(
        f"Hail could not finish ({type(error).__name__}); the cause is in {log}. Too little "
        "memory shows there as OutOfMemoryError: raise [genotypes] memory_gib (on a cluster, "
        "spark.driver.memory and spark.executor.memory), or use fewer variants"
    )
