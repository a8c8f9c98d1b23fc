"""One Spark Connect server for everything: notebooks, commands, tests and streams of one home directory.

``connect()`` is the entry point. It returns a session to the first of these that exists: the engine that Databricks
provides; the address in ``SPARK_REMOTE``; a local server, which it starts once and leaves running. One JVM instead of
one per notebook means that a notebook starts in seconds, that tables and streams survive a kernel restart, and that
the same code uses the same protocol on Databricks serverless.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil
from filelock import FileLock

from shared.errors import EngineError, OutOfMemoryError, first_line
from shared.private import private_directory, write_private
from shared.runtime import startup_cache
from shared.runtime.jars import ensure_jars, jar_paths, pyspark_jar_paths, shared_pyspark_jars
from shared.runtime.java import Java, find_java
from shared.runtime.memory import KillCounter, kill_counter, memory
from shared.runtime.process import (
    LOOPBACK,
    ServerRecord,
    choose_port,
    is_listening,
    launch,
    log_tail,
    quoted,
    read_record,
    started,
    stop,
    write_record,
)
from shared.runtime.python_worker import write_launcher
from shared.runtime.waiting import waiting_for
from shared.settings import Settings, get_settings, on_databricks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

REMOTE_TIMEOUT = 10.0
"""Seconds in which the port of a ``SPARK_REMOTE`` must accept a connection; the client itself retries for minutes."""

DEFAULT_CONNECT_PORT = 15002

LOCAL_RETRIES = 4
"""The client tries again after 50, 200, 800 and 3,200 ms."""

TOKEN = "SPARK_CONNECT_AUTHENTICATE_TOKEN"
"""The variable that gives the server its token.

The token is no Spark setting: Spark copies every setting into the Hadoop configuration of each query, broadcasts it,
and writes the broadcast into a file when memory is short. ``SET`` shows settings too.
"""

MAIN_CLASS = "org.apache.spark.sql.connect.service.SparkConnectServer"

# Spark reaches into these packages; the list is the one that Spark's own launcher passes (JavaModuleOptions).
_OPENED_PACKAGES = (
    "java.base/java.lang",
    "java.base/java.lang.invoke",
    "java.base/java.lang.reflect",
    "java.base/java.io",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.base/sun.nio.cs",
    "java.base/sun.util.calendar",
    "java.security.jgss/sun.security.krb5",
)


NOT_STOCK = {
    "spark.ui.enabled": ("true", "The web interface takes memory and a port, and no lesson needs it."),
    "spark.sql.ui.retainedExecutions": (
        "1000",
        "Spark keeps what the web interface would show, even without one: of a thousand queries 27 MB.",
    ),
    "spark.ui.retainedJobs": ("1000", "The same, for jobs."),
    "spark.ui.retainedStages": ("1000", "The same, for stages."),
    "spark.connect.session.manager.defaultSessionTimeout": (
        "60m",
        "A notebook that is left over lunch, or over night, finds its session again.",
    ),
    "spark.sql.connect.serverStacktrace.enabled": (
        "true",
        "A failed query says in one sentence what is wrong; the stack trace is in the engine's log.",
    ),
    "spark.sql.session.timeZone": ("the machine's", "The same instants are shown on every machine."),
    "spark.sql.sources.default": ("parquet", "Every table here is a Delta table."),
    "spark.sql.parquet.outputTimestampType": (
        "INT96",
        "Other Delta readers take the old format for nanoseconds, which end in the year 2262.",
    ),
    "spark.sql.shuffle.partitions": (
        "200",
        "Every task costs some milliseconds. With this little data, 200 of them cost more than the work.",
    ),
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": (
        "10000",
        "Directories are listed by a Spark job; on one machine it needs few tasks.",
    ),
    "spark.sql.codegen.cache.maxEntries": (
        "100",
        "A nightly run has some hundred stages, the same each night. In a smaller cache each would be compiled again.",
    ),
    "spark.databricks.delta.snapshotPartitions": ("50", "The log of a small table is read in one task."),
    "spark.sql.streaming.noDataMicroBatches.enabled": (
        "true",
        "No empty micro-batch runs after the last one. A watermark that has moved takes effect with the next data.",
    ),
}
"""Settings that change what a query does or shows: the default of Spark or Delta, and why it is not used here.

``shared.course.engine_settings`` makes lesson 1's table from it.
"""


def spark_conf(settings: Settings) -> dict[str, str]:
    """Return the engine's Spark configuration: Spark's defaults are meant for clusters, these for one machine.

    ``NOT_STOCK`` gives the reason for each value that differs from Spark's default.
    """
    cores = settings.server_cores or len(
        psutil.Process().cpu_affinity() if psutil.LINUX else range(os.cpu_count() or 2)
    )
    return {
        "spark.master": f"local[{cores}]",
        "spark.app.name": "shopmetrics",
        "spark.driver.host": LOOPBACK,
        "spark.driver.bindAddress": LOOPBACK,
        "spark.connect.grpc.binding.address": LOOPBACK,
        "spark.sql.connect.serverStacktrace.enabled": "false",
        "spark.sql.pyspark.jvmStacktrace.enabled": "false",
        "spark.connect.session.manager.defaultSessionTimeout": "12h",
        "spark.ui.enabled": "false",
        "spark.sql.ui.retainedExecutions": "10",
        "spark.ui.retainedJobs": "10",
        "spark.ui.retainedStages": "10",
        "spark.ui.showConsoleProgress": "false",
        "spark.local.dir": str(scratch(settings)),
        "spark.sql.warehouse.dir": str(settings.lakehouse),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.sources.default": "delta",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.shuffle.partitions": str(max(2, min(4, cores))),
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "5",
        "spark.sql.codegen.cache.maxEntries": "1000",
        "spark.databricks.delta.snapshotPartitions": "1",
        # Other Delta readers (DuckDB, delta-rs, the dashboard) read these tables too. Silver gets them once large.
        "spark.databricks.delta.properties.defaults.enableDeletionVectors": "false",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.streaming.noDataMicroBatches.enabled": "false",
        **(_lineage_conf(settings) if settings.lineage_events else {}),
        **settings.spark_options,
    }


def _lineage_conf(settings: Settings) -> dict[str, str]:
    """Return what lets the engine write START and COMPLETE events of its queries, one JSON document a line."""
    return {
        "spark.extraListeners": "io.openlineage.spark.agent.OpenLineageSparkListener",
        "spark.openlineage.transport.type": "file",
        "spark.openlineage.transport.location": str(settings.lineage / "events.jsonl"),
        "spark.openlineage.namespace": "shopmetrics",
    }


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def class_path(settings: Settings) -> list[Path]:
    """Return the engine's jars in a fixed order: pyspark's own, then those of the committed list."""
    listed = ensure_jars(settings, "engine")
    return [*shared_pyspark_jars(settings), *listed]


def class_path_if_complete(settings: Settings) -> list[Path]:
    """Return the class path without verifying or fetching anything."""
    return [*pyspark_jar_paths(settings), *jar_paths(settings, "engine")]


def java_options(settings: Settings, java: Java, jars: list[Path]) -> list[str]:
    """Return the JVM's options, including its class path. They contain no secret."""
    log4j = Path(__file__).parent / "log4j2.properties"
    available = memory(settings)
    options = [
        f"-Xmx{available.heap}",
        "-Xss4m",
        *available.profile.engine,
        # Memory that compilers and buffers have freed goes back to the system every 30 s; the C library would keep it.
        "-XX:TrimNativeHeapInterval=30000",
        # Map the start-up cache at the address it was written for: most of its pages are then shared with the file. The
        # default is another address: each start then spends 0.5 s on changing 200 MB of pages, which become private.
        "-XX:+UnlockDiagnosticVMOptions",
        "-XX:ArchiveRelocationMode=0",
        "-XX:+IgnoreUnrecognizedVMOptions",
        "-Djdk.reflect.useDirectMethodHandle=false",
        "-Dio.netty.tryReflectionSetAccessible=true",
        f"-Dlog4j2.configurationFile={log4j.as_uri()}",
        *(f"--add-opens={package}=ALL-UNNAMED" for package in _OPENED_PACKAGES),
    ]
    if java.major >= 24:
        # From Java 24 on, Arrow cannot reach its off-heap memory without these options.
        options += ["--sun-misc-unsafe-memory-access=allow", "-Dio.netty.noUnsafe=false"]
        options += ["--enable-native-access=ALL-UNNAMED"]
    return [*options, "-cp", os.pathsep.join(map(str, jars))]


def java_command(
    settings: Settings, java: Java, jars: list[Path], conf: dict[str, str], extra: list[str], argfile: Path
) -> list[str]:
    """Return the command that starts the server; its options go to a private file.

    They are not on the command line, because every user of a machine can list its processes, and a setting that a
    learner adds may be a secret.
    """
    options = [*java_options(settings, java, jars), *extra]
    options += [*(f"-D{key}={value}" for key, value in conf.items()), MAIN_CLASS]
    write_private(argfile, "\n".join(map(quoted, options)) + "\n")
    return [str(java.executable), f"@{argfile}"]


def named() -> str | None:
    """Return the address of the Spark Connect server in ``SPARK_REMOTE``; None if this home's own engine is used."""
    return os.environ.get("SPARK_REMOTE") or None


def without_token(address: str) -> str:
    """Return the address of a Spark Connect server without its token, to be shown."""
    return address.split(";")[0]


def accepts(address: str) -> bool:
    """Return whether something accepts connections at the address of a Spark Connect server."""
    try:
        _knock(address)
    except OSError:
        return False
    return True


def _knock(address: str) -> None:
    """Raise OSError, with the cause, if nothing accepts connections at this address."""
    target = urlsplit(address)
    socket.create_connection((target.hostname, target.port or DEFAULT_CONNECT_PORT), REMOTE_TIMEOUT).close()


def scratch(settings: Settings) -> Path:
    """Return the directory of the engine's temporary files, which are useless once the engine has ended."""
    return settings.run / "scratch"


def log_path(settings: Settings) -> Path:
    """Return where the server writes its log."""
    return settings.run / "engine.log"


def record_path(settings: Settings) -> Path:
    """Return where the record of the running server is kept."""
    return settings.run / "engine.json"


def running(settings: Settings | None = None) -> ServerRecord | None:
    """Return the record of this home's server if it is alive and answers, else None."""
    settings = settings or get_settings()
    record = read_record(record_path(settings))
    # A record without a token belongs to a server that is starting: its tables are not in the catalog yet.
    return record if record and record.token and is_listening(record.port) else None


def up(settings: Settings | None = None) -> ServerRecord:
    """Make sure that this home's server runs, and return its record.

    Any number of processes may call this at once: one starts the server, the others wait for it.

    Raises:
        EngineError: if it does not come up, with the end of its log and what to do.
    """
    settings = settings or get_settings()
    record = running(settings)
    if record:
        return record
    private_directory(settings.run)
    with FileLock(settings.run / "engine.lock"):
        record = running(settings)
        if record is None:
            stale = read_record(record_path(settings))
            if stale:  # alive, but no longer listening, or not ready when its starter was killed
                stop(stale)
            with waiting_for("The engine starts"):
                record = start(settings)
    return record


def start(settings: Settings, jvm_options: list[str] | None = None) -> ServerRecord:
    """Start a server for this home, write its record, and return the record; most callers need :func:`up` instead.

    If a server already runs in this home, it continues, but its record is overwritten and nothing finds it any more.
    """
    available = memory(settings)
    available.check()
    java = find_java(settings)
    port = choose_port(settings.spark_port, "SHOPMETRICS_SPARK_PORT")
    token = secrets.token_urlsafe(32)
    for directory in (settings.lakehouse, settings.lineage):
        directory.mkdir(parents=True, exist_ok=True)
    # A killed engine leaves temporary files, which the next engine cannot use.
    shutil.rmtree(scratch(settings), ignore_errors=True)
    private_directory(scratch(settings))
    conf = spark_conf(settings) | {
        "spark.connect.grpc.binding.port": str(port),
        "java.io.tmpdir": str(scratch(settings)),
    }
    jars = class_path(settings)  # once: it reads every listed jar to verify it
    if jvm_options is None:
        cached = not startup_cache.why_not(settings, java)
        jvm_options = startup_cache.use(startup_cache.cache_path(settings, java, jars)) if cached else []
    log = log_path(settings)
    command = java_command(settings, java, jars, conf, jvm_options, settings.run / "engine.args")
    # The engine's Python code, such as the steps of a stream, runs with this Python. Rows reach it in its local time;
    # in UTC no hour of the autumn occurs twice.
    python = write_launcher(settings.run / "python")
    variables = {"PYSPARK_PYTHON": str(python), "TZ": "UTC", TOKEN: token, **available.profile.variables}
    killed = kill_counter()
    child = launch(command, log, settings.run, variables)
    line = " ".join(command)
    record = ServerRecord("engine", child.pid, started(child.pid), port, token, line, killed.path, killed.count)
    try:
        # If this process is killed before the server is ready, the next one finds the record and replaces the server.
        write_record(record_path(settings), replace(record, token=""))
        _await(child, record, settings, log)
        # The in-memory catalog starts seconds faster than a Hive metastore. It is filled from the tables' directories.
        from shared.catalog import register_tables

        first = session(record)
        register_tables(first, settings)
        first.stop()
        write_record(record_path(settings), record)
    except BaseException:
        stop(record)
        raise
    return record


def _await(child: subprocess.Popen[bytes], record: ServerRecord, settings: Settings, log: Path) -> None:
    # pyspark takes as long to import as the JVM needs to open its port: do both at once.
    import pyspark.sql.connect.session  # noqa: F401

    deadline = time.monotonic() + settings.start_timeout
    while not is_listening(record.port):
        try:
            code = child.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
            raise EngineError(
                f"The Spark server did not answer on {LOOPBACK}:{record.port} within {settings.start_timeout:g} s.\n"
                f"{log_tail(log)}",
                f"read {log}, or give it longer with SHOPMETRICS_START_TIMEOUT",
            ) from None
        raise EngineError(
            f"The Spark server ended with exit code {code} before it answered.\n{log_tail(log)}",
            f"read {log}, then run `shopmetrics doctor`",
        )


def down(settings: Settings | None = None) -> bool:
    """Stop this home's server and wait until its process has ended. Tables stay. Returns whether it was running."""
    settings = settings or get_settings()
    path = record_path(settings)
    if not path.parent.is_dir():
        return False
    with FileLock(settings.run / "engine.lock"):
        record = read_record(path)
        ended = stop(record) if record else False
        path.unlink(missing_ok=True)
        (settings.run / "engine.args").unlink(missing_ok=True)
    return ended


_sessions: dict[Path | str, tuple[str, SparkSession]] = {}
"""This process's session to each engine, by home or remote address, with the address for which it was created."""


def connect(settings: Settings | None = None) -> SparkSession:
    """Return a Spark session to the engine. If no engine runs, start the local one.

    The session is created once per process. It is created again if its engine has ended or no longer knows it: an
    engine closes a session that is unused for half a day. So a notebook may call this in any cell.

    Raises:
        EngineError: if no engine can be reached; the message gives the cause and what to do.

    Example:
        >>> spark = shared.connect()
        >>> spark.sql("SELECT 1 AS one").show()
    """
    if on_databricks():
        return _databricks_session(settings or get_settings())
    settings = settings or get_settings()
    remote = named()
    record = None if remote else up(settings)
    engine, address = (settings.home, _address(record)) if record else (str(remote), str(remote))
    known_address, session = _sessions.get(engine, ("", None))
    if session is None or known_address != address or not _is_known(session):
        if session is not None:
            # The old engine is gone. The client is closed first, so that stop() sends no request. Without stop() the
            # session would stay pyspark's default session, which checkpoints would use instead of the new one.
            session.client.close()  # type: ignore[attr-defined]
            session.stop()
        session = _session_at(address, partial(_raise_if_out_of_memory, record, settings) if record else None)
        if remote:
            _prepare(session, settings)
        _sessions[engine] = (address, session)
    return session


def _is_known(session: SparkSession) -> bool:
    """Return whether the engine still keeps this session."""
    from pyspark.errors import PySparkException

    if session.is_stopped:  # type: ignore[attr-defined]
        return False
    try:
        # Takes some milliseconds. A request for the version would not do: an engine answers it for any session.
        session.conf.get("spark.sql.session.timeZone")
    except PySparkException as error:
        if "INVALID_HANDLE" in str(error):
            return False
        raise
    return True


def _prepare(session: SparkSession, settings: Settings) -> None:
    """Give a session to an engine that others have configured the same meaning as a session to the local engine.

    Its tables are the tables of this home, which must be at the same path on every machine of that engine.
    """
    for name in ("spark.sql.session.timeZone", "spark.sql.ansi.enabled", "spark.sql.sources.default"):
        session.conf.set(name, spark_conf(settings)[name])
    if not session.catalog.databaseExists("ops"):  # its catalog knows nothing of this home yet
        from shared.catalog import register_tables

        register_tables(session, settings)


def _databricks_session(settings: Settings) -> SparkSession:
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    session: SparkSession = SparkSession.builder.getOrCreate()
    try:
        session.sql(f"USE CATALOG `{settings.catalog}`")
        if not session.catalog.databaseExists("ops"):
            from shared.catalog import create_schemas

            create_schemas(session, settings)
    except PySparkException as error:
        raise EngineError(
            f"The catalog {settings.catalog} cannot be used: {first_line(error)}",
            "make it in Catalog Explorer, or name one that you may write to: a line SHOPMETRICS_CATALOG=... in .env, "
            "beside README.md",
        ) from error
    return session


def session(record: ServerRecord) -> SparkSession:
    """Return a new session to this server; the caller stops it."""
    return _session_at(_address(record))


def _address(record: ServerRecord) -> str:
    # "localhost", not 127.0.0.1: only for that name does the client send a token without TLS.
    return f"sc://localhost:{record.port}/;token={record.token}"


def _raise_if_out_of_memory(record: ServerRecord, settings: Settings) -> None:
    """Raise OutOfMemoryError if the server of this record has ended because memory was short."""
    if record.process():
        return
    available = memory(settings)
    again = "then run this again: nothing is lost or doubled"
    if KillCounter(record.kills_path, record.kills).now() > record.kills:
        other = "a lower value than it has" if settings.server_memory else f"less than {available.heap}"
        raise OutOfMemoryError(
            f"The system killed the engine, because everything together needed more than {available.limit}.",
            f"shut down the kernels of notebooks that you do not use, {again}; if that is not enough, "
            f"set SHOPMETRICS_SERVER_MEMORY to {other} in a file .env, or give the machine or container more memory",
        ) from None
    if "java.lang.OutOfMemoryError" in log_tail(log_path(settings), lines=100):
        raise OutOfMemoryError(
            f"The engine ended, because what it was asked needs more than its heap of {available.heap}.",
            f"set SHOPMETRICS_SERVER_MEMORY to more in a file .env, or use fewer rows (`scale`), {again}",
        ) from None


def _session_at(address: str, explain_end: Callable[[], None] | None = None) -> SparkSession:
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession
    from pyspark.sql.connect.client.retries import DefaultPolicy

    class LocalPolicy(DefaultPolicy):  # type: ignore[misc]
        """Decides for each failed request whether to try again; raises the cause if it is known."""

        def can_retry(self, e: BaseException) -> bool:
            retry: bool = super().can_retry(e)
            if retry and explain_end:
                explain_end()
            return retry

    # For every failed query pyspark logs a page of JSON, in addition to the exception that it raises.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    try:
        _knock(address)
        session: Any = SparkSession.builder.remote(address).create()
        # Close the client before the interpreter's own clean-up does. If the server is gone, that clean-up retries for
        # minutes, and then waits for a gRPC thread that has already ended.
        atexit.register(session.client.close)
        if urlsplit(address).hostname == "localhost":
            # A local server that does not answer for some seconds is gone. A remote server gets pyspark's ten minutes.
            session.client.set_retry_policies([LocalPolicy(max_retries=LOCAL_RETRIES)])
        session.version  # noqa: B018  the first request: a wrong token shows here, not in a later cell
    except (PySparkException, OSError) as error:
        raise EngineError(
            f"No Spark Connect server answers at {without_token(address)}: {str(error).splitlines()[0][:200]}",
            "check SPARK_REMOTE, or unset it to use the local engine",
        ) from error
    return session  # type: ignore[no-any-return]
