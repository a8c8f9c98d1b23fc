"""Prepare a machine: fetch the jars, then let the JVM record what a start of the engine loads.

``make setup`` ends with this. Running it again when everything is there takes a fraction of a second.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from shared.runtime import spark, startup_cache
from shared.runtime.jars import ensure_jars, wanting
from shared.runtime.java import find_java
from shared.runtime.process import stop
from shared.settings import Settings, get_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DUMP_TIMEOUT = 180.0
"""Seconds that the JVM may take to write its cache when it ends."""


def prepare(settings: Settings | None = None, *, quiet: bool = False) -> None:
    """Make everything ready that a first start needs; leaves nothing running.

    Args:
        settings: of this process by default.
        quiet: say only what takes time or did not work.

    Raises:
        EngineError: if the jars cannot be had. A start-up cache that cannot be made is reported, not raised:
            the engine works without one.
    """
    settings = settings or get_settings()
    java = find_java(settings)
    missing = wanting(settings)
    if missing:
        print(f"Fetching {len(missing)} jars ({sum(jar.bytes for jar in missing) / 2**20:.0f} MB)", flush=True)
    jars = ensure_jars(settings)
    if not quiet:
        print(f"Java {java.major}, {java.source}; {len(jars)} jars verified")
    if not settings.startup_cache or java.major < startup_cache.OLDEST_JAVA:
        if not quiet:
            why = "switched off" if not settings.startup_cache else f"needs Java {startup_cache.OLDEST_JAVA}"
            print(f"No start-up cache: {why}")
        return
    class_path = spark.class_path_if_complete(settings)
    cache = startup_cache.cache_path(settings, java, class_path)
    with FileLock(settings.cache_dir / ".startup-cache.lock"):
        if not cache.is_file():
            print("Recording the engine's start-up cache, about a minute, once", flush=True)
            _train(settings, cache)
            if not cache.is_file():
                print("No start-up cache was written; the engine starts without one, some seconds slower")
                return
            startup_cache.remove_others(cache, class_path)
    if not quiet:
        print(f"Start-up cache ready ({cache.stat().st_size / 2**20:.0f} MB)")


def _train(settings: Settings, cache: Path) -> None:
    """Run what a first day runs, so that the JVM records the classes it needs, and let it write them down."""
    scratch = cache.with_suffix(f".{os.getpid()}")
    with tempfile.TemporaryDirectory(prefix="shopmetrics-setup-") as home:
        rehearsal = settings.model_copy(update={"home": Path(home), "spark_port": 0})
        server = spark.start(rehearsal, startup_cache.record(scratch))
        try:
            session = spark.session(server)
            _rehearse(session, Path(home))
            session.stop()
        finally:
            stop(server, timeout=DUMP_TIMEOUT)
        if scratch.is_file():
            os.replace(scratch, cache)


def _rehearse(session: SparkSession, home: Path) -> None:
    source = home / "raw"
    source.mkdir()
    (source / "rows.csv").write_text("id,name,amount\n1,a,1.50\n2,,2.25\n")
    session.sql("CREATE TABLE ops.rehearsal AS SELECT id, id * 2 AS twice FROM range(1000)")
    stream = (
        session.readStream.schema("id INT, name STRING, amount DECIMAL(12,2)")
        .csv(str(source), header=True)
        .selectExpr("id", "amount", "_metadata.file_path AS source_file")
        .writeStream.format("delta")
        .option("checkpointLocation", str(home / "checkpoints" / "rehearsal"))
        .trigger(availableNow=True)
        .toTable("ops.rehearsal_rows")
    )
    stream.awaitTermination()
    for _ in range(2):
        session.sql(
            "MERGE INTO ops.rehearsal AS t USING (SELECT 5L AS id, 7L AS twice) AS s ON t.id = s.id "
            "WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *"
        )
        session.sql(
            "SELECT r.amount, count(*) AS n, sum(t.twice) AS s FROM ops.rehearsal t "
            "JOIN ops.rehearsal_rows r ON t.id = r.id GROUP BY ALL ORDER BY ALL"
        ).toPandas()
    session.sql("DESCRIBE HISTORY ops.rehearsal").toPandas()
    session.sql("DESCRIBE TABLE ops.rehearsal").toPandas()
    session.createDataFrame([(1, "x")], "id INT, name STRING").toPandas()
    session.sql("DROP TABLE ops.rehearsal")


if __name__ == "__main__":
    prepare()
