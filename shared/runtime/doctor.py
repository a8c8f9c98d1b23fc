"""Examine a machine: report what works, what does not, and how to repair it."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import psutil

from shared.errors import EngineError, ShopMetricsError
from shared.runtime import jars, java, kafka, setup, spark, startup_cache
from shared.runtime.memory import kill_counter, memory
from shared.runtime.process import choose_port, log_tail, read_record
from shared.settings import CHECKOUT, Settings, get_settings

Verdict = Literal["ok", "warning", "problem"]

LOW_DISK_GB = 2.0
LOW_MEMORY_GB = {"standard": 2.5, "small": 1.2}


@dataclass(frozen=True)
class Finding:
    """The result of one check: the verdict, what was found, and what to do if something is wrong."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


def examine(settings: Settings | None = None) -> list[Finding]:
    """Return a finding for everything that a run depends on; starts and changes nothing."""
    settings = settings or get_settings()
    return [
        _python(),
        _packages(),
        _java(settings),
        *_spark_home(),
        _jars(settings),
        _startup_cache(settings),
        _home(settings),
        _memory(settings),
        _engine(settings),
        _kafka(settings),
    ]


def _python() -> Finding:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    return Finding("Python", "ok", found)


def _packages() -> Finding:
    """Compare what is installed with the committed lock."""
    differing = []
    for line in (CHECKOUT / "constraints.txt").read_text().splitlines():
        pinned, _, marker = line.partition(" ; ")
        name, _, wanted = pinned.partition("==")
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue  # pinned for another platform, or needed only for development
        if installed != wanted and not marker:
            differing.append(f"{name} {installed} instead of {wanted}")
    if differing:
        return Finding("Packages", "warning", ", ".join(differing[:5]), "run `make setup` for the tested versions")
    return Finding("Packages", "ok", f"pyspark {version('pyspark')}, delta-spark {version('delta-spark')}, as locked")


def _java(settings: Settings) -> Finding:
    try:
        chosen = java.find_java(settings)
    except ShopMetricsError as error:
        return Finding("Java", "problem", error.problem, error.hint)
    others = [f"{other.source}: {java.describe(other)}" for other in java.candidates(settings) if other != chosen]
    passed_over = f"; not used: {', '.join(others)}" if others else ""
    return Finding("Java", "ok", f"Java {chosen.major}, {chosen.source}, {chosen.home}{passed_over}")


def _spark_home() -> list[Finding]:
    home = os.environ.get("SPARK_HOME")
    if not home:
        return []
    advice = "harmless here, the engine does not look at it; other Spark tools in this shell do"
    return [Finding("SPARK_HOME", "warning", f"{home}, not the installed pyspark", advice)]


def _jars(settings: Settings) -> Finding:
    wanting = [jar.filename for jar in jars.wanting(settings)]
    if wanting:
        return Finding("Jars", "problem", f"missing or damaged: {', '.join(wanting)}", "run `make setup`")
    listed = sum(len(jars.listed_jars(server)) for server in jars.SERVERS)
    return Finding("Jars", "ok", f"{listed} jars in {settings.cache_dir / 'jars'}, checksums match")


def _startup_cache(settings: Settings) -> Finding:
    try:
        chosen = java.find_java(settings)
        cache = startup_cache.cache_path(settings, chosen, spark.class_path_if_complete(settings))
    except (ShopMetricsError, FileNotFoundError):
        return Finding("Start-up cache", "warning", "cannot exist before Java and jars do", "run `make setup`")
    obstacle = startup_cache.why_not(settings, chosen)
    if obstacle:
        return Finding("Start-up cache", "warning", f"none: {obstacle}", "the engine starts more slowly, else the same")
    if cache.is_file():
        return Finding("Start-up cache", "ok", f"{cache} ({cache.stat().st_size / 2**20:.0f} MB)")
    if startup_cache.is_being_made(settings):
        return Finding("Start-up cache", "ok", "being made in the background; until then the engine starts without it")
    log = setup.log_path(settings)
    failed = f"; the last attempt failed:\n{log_tail(log)}" if log.is_file() and "error" in log.read_text() else ""
    return Finding("Start-up cache", "warning", f"none for this engine{failed}", "run `make setup`")


def _home(settings: Settings) -> Finding:
    existing = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    free = shutil.disk_usage(existing).free / 2**30
    found = f"{settings.home}, {free:.0f} GB free"
    if not os.access(existing, os.W_OK):
        return Finding("Home", "problem", f"{existing} cannot be written", "set SHOPMETRICS_HOME to another directory")
    if free < LOW_DISK_GB:
        return Finding("Home", "warning", found, "free some space, or set SHOPMETRICS_HOME to another disk")
    return Finding("Home", "ok", found)


def _memory(settings: Settings) -> Finding:
    available = psutil.virtual_memory().available / 2**30
    here = memory(settings)
    killed = kill_counter().count
    killings = f"; the system has killed {killed} processes for lack of memory so far" if killed else ""
    found = f"{here}; {available:.1f} GB are available{killings}"
    try:
        here.check()
    except EngineError as error:
        return Finding("Memory", "problem", error.problem, error.hint)
    if available < LOW_MEMORY_GB[here.profile.name] and not spark.running(settings):
        return Finding("Memory", "warning", found, "close something, or lower SHOPMETRICS_SERVER_MEMORY")
    return Finding("Memory", "ok", found)


def _engine(settings: Settings) -> Finding:
    remote = spark.named()
    if remote:
        where = spark.without_token(remote)
        if spark.accepts(remote):
            return Finding("Engine", "ok", f"SPARK_REMOTE names {where}, which accepts connections")
        return Finding("Engine", "problem", f"nobody answers at {where}", "check SPARK_REMOTE, or unset it")
    path = spark.record_path(settings)
    record = spark.running(settings)
    if record:
        return Finding("Engine", "ok", f"running, pid {record.pid}, port {record.port}, {record.memory_mb():.0f} MB")
    if read_record(path):
        advice = "the next use waits for it, or replaces it"
        return Finding("Engine", "warning", "its process lives but does not answer, or not yet", advice)
    try:
        choose_port(settings.spark_port, "SHOPMETRICS_SPARK_PORT")
    except ShopMetricsError as error:
        return Finding("Engine", "problem", error.problem, error.hint)
    return Finding("Engine", "ok", "not running; the first use starts it")


def _kafka(settings: Settings) -> Finding:
    try:
        if kafka.named(settings):
            cluster = kafka.connect(settings)
            brokers = len(kafka.metadata(cluster).brokers)
            return Finding("Kafka", "ok", f"{cluster.bootstrap_servers}, {brokers} brokers, credentials accepted")
        record = kafka.running(settings)
        if record:
            return Finding("Kafka", "ok", f"running, pid {record.pid}, port {record.port}, {record.memory_mb():.0f} MB")
        choose_port(settings.kafka_port, "SHOPMETRICS_KAFKA_PORT")
    except ShopMetricsError as error:
        return Finding("Kafka", "problem", error.problem, error.hint)
    if read_record(kafka.record_path(settings)):
        return Finding("Kafka", "warning", "its process lives but does not answer", "the next use replaces it")
    return Finding("Kafka", "ok", "not running; the first use starts it")
