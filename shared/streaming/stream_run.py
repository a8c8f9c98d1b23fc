"""The clickstream end to end: everything that is there, once; or live, until somebody stops it."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pyspark.errors import PySparkException, StreamingQueryException
from pyspark.sql import functions as F

from shared import catalog, run_log
from shared.errors import BrokerError, PipelineError, ShopMetricsError, first_line, is_engine_gone
from shared.interpreted import configured, interpreted
from shared.run_log import Read, TableRun
from shared.runtime import kafka
from shared.runtime.kafka import TOPIC
from shared.settings import Settings, get_settings
from shared.streaming import gaps, queries
from shared.streaming.contracts import BRONZE, EVENTS, LOG, MADE_FROM, SESSIONS
from shared.streaming.gaps import Gap
from shared.streaming.queries import TO_BRONZE, TO_GOLD

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming import StreamingQuery

    from shared.runtime.kafka import Cluster
    from shared.streaming.queries import Stream

LOOK_SECONDS = 5.0
"""How often a running stream is asked how far it is."""

STALL_SECONDS = 30.0
"""A stream that has made no progress for so long, though it should have, is looked at; a live one is called stalled."""

TELL_SECONDS, GIVE_UP_SECONDS = 120.0, 600.0
"""A run whose stream has written nothing for so long says so, and ends. From one of its tables to the next, a
micro-batch takes seconds."""

_ONE_TASK = {"spark.sql.shuffle.partitions": "1"}
"""For a live micro-batch: a second task costs more than it takes off the first, and makes another small file."""

LIVE_INTERVAL = 2.0
"""Seconds between the micro-batches of a live stream, at least. The streams share the cores: bronze, if it ran more
often, would keep gold waiting."""

SMALL_TOPIC = 50_000
"""A run of fewer messages than this, counting all that its topic ever had, is interpreted."""

COUNT_SECONDS = 5.0
"""How often the open sessions are counted for a live stream's status, at most: what is asked takes from the streams."""

_DATA_LOSS = ("data loss", "data may have been lost", "offset was changed", "OffsetOutOfRange", "UnknownTopic")

_PYTHON_ERROR = re.compile(r"^(\w[\w.]*(?:Error|Exception): .+)$", re.MULTILINE)
"""The last line of a traceback: in the engine's words it stands below a line that only says that Python failed."""


@dataclass(frozen=True)
class StreamRun:
    """What one run of the streams did."""

    run_id: str
    seconds: float
    tables: tuple[TableRun, ...]
    """One for each table, in the order in which events pass through them; ``ops.run_log`` holds the same."""
    gaps: tuple[Gap, ...] = ()
    """What Kafka had deleted before it was read, and this run was told to accept; also in ``ops.stream_gaps``."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for ``--json``."""
        tables = [asdict(table) | {"rows_changed": table.rows_changed} for table in self.tables]
        gaps = [asdict(gap) for gap in self.gaps]
        return {"run_id": self.run_id, "seconds": round(self.seconds, 3), "tables": tables, "gaps": gaps}


@dataclass(frozen=True)
class Status:
    """How a live stream stands."""

    seconds: float
    """Since it was started."""
    messages: int
    """Read from Kafka since then."""
    messages_per_second: float
    """In the newest micro-batch of bronze."""
    lag: int
    """Messages in the topic, as far as Kafka has said, that are not in bronze yet."""
    latency_median: float | None
    """Seconds from the producer's timestamp to the row in gold, in the newest micro-batch; None before the first."""
    latency_p99: float | None
    open_sessions: int
    """Some seconds ago."""
    stalled: str | None
    """What is the matter, if Kafka does not answer, or if messages wait and none has been read for ``STALL_SECONDS``,
    or no table written in the middle of a micro-batch for twice as long."""


def run(
    spark: SparkSession,
    settings: Settings | None = None,
    cluster: Cluster | None = None,
    topic: str = TOPIC,
    accept_loss: bool = False,
) -> StreamRun:
    """Bring bronze, silver and gold up to what the topic holds now.

    Guarantees that every committed record is in bronze once and every event in silver once, and that sessions and hours
    are what a batch computation over them gives; also after a run that was killed, at whatever point. A table that
    somebody else has changed since is put right first.

    Args:
        spark: the session.
        settings: the home; defaults to this process's settings.
        cluster: where the topic is; defaults to what :func:`shared.runtime.kafka.connect` returns.
        topic: the topic.
        accept_loss: if Kafka has deleted messages that were never read, go on from what is there, and record the gap.

    Raises:
        BrokerError: if Kafka does not answer, refuses, or has no such topic.
        PipelineError: if a stream fails or does nothing for ``GIVE_UP_SECONDS``, if a checkpoint does not belong to
            its tables, if messages that were never read are gone, or if the streams already run. What was done until
            then is in ``ops.run_log``, as failed.

    Example:
        >>> for table in streaming.run(shared.connect()).tables:
        ...     print(table.table_name, table.rows_changed)
    """
    settings = settings or get_settings()
    with queries.alone(settings):
        cluster = cluster or kafka.connect(settings)
        with _accounted(spark, settings) as account:
            checkpoint = TO_BRONZE.query_checkpoint(settings)
            begun = gaps.position(checkpoint, topic)
            is_small = sum(kafka.end_offsets(cluster, topic).values()) < SMALL_TOPIC
            with interpreted(spark, is_small):
                query = queries.start_bronze(spark, cluster, settings, topic=topic, accept_loss=accept_loss)
                _finish(spark, TO_BRONZE, query, lambda: kafka.topic_identity(cluster, topic))
                if accept_loss and begun is not None:
                    account.gaps = gaps.settled(spark, cluster, topic, begun, checkpoint)
                account.finished.update(TO_BRONZE.tables)
                _finish(spark, TO_GOLD, queries.start_silver_gold(spark, settings))
        return account.done


class Live:
    """The streams at work, one micro-batch after the other, until the ``with`` block ends.

    Args:
        spark: the session.
        settings: the home; defaults to this process's settings.
        cluster: where the topic is; defaults to what :func:`shared.runtime.kafka.connect` returns.
        topic: the topic.
        interval: seconds between micro-batches, at least.
        accept_loss: as for :func:`run`.

    Raises:
        BrokerError: on entering, as :func:`run` does; and by :meth:`status`, once a stream has failed because of Kafka.
        PipelineError: likewise; and by :meth:`status`, once a stream has failed.

    Example:
        >>> with streaming.Live(shared.connect()) as live:
        ...     time.sleep(60)
        ...     print(live.status().latency_median)
    """

    def __init__(
        self,
        spark: SparkSession,
        settings: Settings | None = None,
        cluster: Cluster | None = None,
        topic: str = TOPIC,
        interval: float = LIVE_INTERVAL,
        accept_loss: bool = False,
    ) -> None:
        self._spark, self._settings, self._topic, self._interval = spark, settings or get_settings(), topic, interval
        self._given, self._accept_loss = cluster, accept_loss
        self.done: StreamRun | None = None
        """What the streams did, once they have ended."""

    def __enter__(self) -> Live:
        with ExitStack() as entered:
            entered.enter_context(queries.alone(self._settings))
            self._cluster = self._given or kafka.connect(self._settings)
            self._account = entered.enter_context(_accounted(self._spark, self._settings))
            self._from = gaps.position(TO_BRONZE.query_checkpoint(self._settings), self._topic)
            # Before it begins, it stands where Kafka does; and it reads nothing of what is gone.
            kept = kafka.first_offsets(self._cluster, self._topic)
            self._first = sum(max(offset, (self._from or {}).get(partition, 0)) for partition, offset in kept.items())
            # A live micro-batch is some hundred rows. Until the end: the steps of a micro-batch have the settings that
            # the session has when they run.
            entered.enter_context(interpreted(self._spark))
            entered.enter_context(configured(self._spark, _ONE_TASK))
            bronze = queries.start_bronze(
                self._spark,
                self._cluster,
                self._settings,
                topic=self._topic,
                interval=self._interval,
                accept_loss=self._accept_loss,
            )
            entered.callback(_stop, bronze)
            gold = queries.start_silver_gold(self._spark, self._settings, interval=self._interval)
            entered.callback(_stop, gold)
            self._entered = entered.pop_all()
        self._queries = (bronze, gold)
        self._watch = _Watch(self._spark, TO_GOLD, gold)
        self._begun = self._moved = time.monotonic()
        self._read = self._end = self._first
        self._open, self._counted = 0, -math.inf
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None and error[0] is not KeyboardInterrupt:
            self._entered.__exit__(*error)
            return
        with self._entered:
            bronze, gold = self._queries
            bronze.stop()
            # Stopped in the middle of a micro-batch, it may write a moment longer, beside the run that finishes.
            patience = time.monotonic() + STALL_SECONDS
            while gold.status["isTriggerActive"] and time.monotonic() < patience:
                time.sleep(0.1)
            gold.stop()
            if self._accept_loss and self._from is not None:
                checkpoint = TO_BRONZE.query_checkpoint(self._settings)
                self._account.gaps = gaps.settled(self._spark, self._cluster, self._topic, self._from, checkpoint)
            # What bronze holds by now goes on to gold, so that both end at the same event.
            _finish(self._spark, TO_GOLD, queries.start_silver_gold(self._spark, self._settings))
        self.done = self._account.done

    def status(self) -> Status:
        """Return how the streams stand.

        Raises:
            BrokerError: if the one from Kafka has failed, and Kafka does not answer, refuses, or has no such topic.
            PipelineError: if one of them has failed, with the cause.
        """
        bronze, gold = self._queries
        for query in self._queries:
            failure = query.exception()
            if failure or not query.isActive:
                if query is bronze:
                    # Of what is wrong with Kafka, the engine has the words of a client deep inside it.
                    kafka.topic_identity(self._cluster, self._topic)
                raise _failed(query.name or "the stream", failure)
        read = self._position()
        stalled = None
        try:
            self._end = sum(kafka.end_offsets(self._cluster, self._topic).values())
        except BrokerError as error:
            # It may come back, as after a restart: the stream goes on then, and fails by itself if it does not.
            stalled = error.problem
        now, patience = time.monotonic(), STALL_SECONDS + self._interval
        lag = max(0, self._end - read)
        if read != self._read or not lag:
            self._read, self._moved = read, now
        elif now - self._moved > patience:
            stalled = stalled or f"{lag:,} messages wait, and none has been read for {now - self._moved:.0f} s"
        idle = self._watch.idle(may_rest=True)
        # Its tables are looked at for half the time: a micro-batch of many events takes long, and is at work.
        if idle > STALL_SECONDS + patience:
            stalled = stalled or _standstill(gold, idle)
        progress = bronze.lastProgress
        newest = self._spark.table(LOG).orderBy(F.col("finished_at").desc()).limit(1).collect()
        is_ours = bool(newest) and newest[0]["batch_id"] > self._account.last_batch
        if now - self._counted > COUNT_SECONDS:
            self._open, self._counted = self._spark.table(SESSIONS).where("is_open").count(), now
        return Status(
            seconds=now - self._begun,
            messages=read - self._first,
            messages_per_second=float(progress["processedRowsPerSecond"] or 0.0) if progress else 0.0,
            lag=lag,
            latency_median=newest[0]["latency_median"] if is_ours else None,
            latency_p99=newest[0]["latency_p99"] if is_ours else None,
            open_sessions=self._open,
            stalled=stalled,
        )

    def _position(self) -> int:
        """Return how many records of the topic the stream to bronze has read, all partitions together."""
        progress = self._queries[0].lastProgress
        if not progress:
            return self._first
        offsets = progress["sources"][0]["endOffset"]
        offsets = json.loads(offsets) if isinstance(offsets, str) else offsets
        read: dict[str, int] = offsets[self._topic]
        return sum(read.values())


@dataclass
class _Account:
    run_id: str
    started_at: datetime
    clock: float
    versions: dict[str, int]
    last_batch: int
    finished: set[str] = field(default_factory=set)
    """Tables whose stream has ended well, whatever comes after."""
    mended: dict[str, str] = field(default_factory=dict)
    """Table to what was put right in it before the streams began."""
    gaps: list[Gap] = field(default_factory=list)
    done: StreamRun = field(init=False)


@contextmanager
def _accounted(spark: SparkSession, settings: Settings) -> Iterator[_Account]:
    """Make the tables, and write into the run log what was done to them meanwhile; also if it ends with an error."""
    mended = queries.mend(spark, settings)
    queries.create_tables(spark)
    run_log.create_tables(spark)
    names = [table for stream in queries.STREAMS for table in stream.tables]
    before = {table: catalog.version(spark, table) for table in names}
    account = _Account(run_log.new_run_id(), datetime.now(UTC), time.perf_counter(), before, _last_batch(spark))
    account.mended = mended
    try:
        yield account
    except (Exception, KeyboardInterrupt) as error:
        if not is_engine_gone(error):  # else there is nobody left to ask
            reason = error.problem if isinstance(error, ShopMetricsError) else first_line(error)
            # What has failed first is what is to be told.
            with suppress(Exception):
                _close(spark, account, reason or type(error).__name__)
        raise
    _close(spark, account)


def _close(spark: SparkSession, account: _Account, failure: str = "") -> None:
    """Write an account into the run log; after a failure, as failed those tables whose stream has not ended well."""
    batches = spark.table(LOG).where(F.col("batch_id") > account.last_batch)
    counted = ("rows_read", "rows_quarantined")
    each = batches.groupBy("batch_id").agg(*(F.max(name).alias(name) for name in counted))
    counts = each.agg(*(F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in counted)).first()
    assert counts is not None
    seconds = time.perf_counter() - account.clock
    runs = []
    now = {table: catalog.identity(spark, table) for table in account.versions}
    for table, version in account.versions.items():
        rows = catalog.changes_since(spark, table, version)
        done = TableRun(
            run_id=account.run_id,
            table_name=table,
            status="succeeded" if any(rows.values()) or table in account.mended else "unchanged",
            reason=account.mended.get(table, ""),
            started_at=account.started_at,
            seconds=round(seconds, 3),
            rows_inserted=rows["inserted"],
            rows_updated=rows["updated"],
            rows_deleted=rows["deleted"],
            from_version=version,
            to_version=now[table][1],
            table_id=now[table][0],
            # The checkpoint is the cursor of a stream; the versions say what there was to read.
            reads=tuple(Read(one, now[one][0], account.versions[one], now[one][1]) for one in MADE_FROM.get(table, ())),
        )
        if failure and table not in account.finished:
            done = replace(done, status="failed", reason=failure)
        if table == BRONZE:
            done = replace(done, rows_read=rows["inserted"], rows_accepted=rows["inserted"])
            if account.gaps and not done.error:
                lost = "; ".join(map(str, account.gaps))
                done = replace(done, reason="; ".join(filter(None, (done.reason, f"accepted as lost: {lost}"))))
        elif table == EVENTS:
            # Not what the batches say: one that was killed and run again found its own events there already. And one
            # that was cut short has written events, but not yet what it has read.
            read = max(counts["rows_read"], rows["inserted"] + counts["rows_quarantined"])
            done = replace(
                done,
                rows_read=read,
                rows_accepted=rows["inserted"],
                rows_quarantined=counts["rows_quarantined"],
                rows_duplicate=read - rows["inserted"] - counts["rows_quarantined"],
            )
        runs.append(done)
    run_log.write(spark, runs)
    account.done = StreamRun(account.run_id, seconds, tuple(runs), tuple(account.gaps))


def _last_batch(spark: SparkSession) -> int:
    row = spark.table(LOG).agg(F.max("batch_id").alias("last")).first()
    return int(row["last"]) if row is not None and row["last"] is not None else -1


class _Watch:
    """Sees when a stream gets on: ends a micro-batch, or in the middle of one writes to a table."""

    def __init__(self, spark: SparkSession, stream: Stream, query: StreamingQuery) -> None:
        self._spark, self._tables, self._query = spark, stream.tables, query
        self._batch: int | None = None
        self._written: list[int] = []
        self._moved = time.monotonic()

    def idle(self, *, may_rest: bool = False) -> float:
        """Return for how many seconds it has not got on; its tables are looked at after ``STALL_SECONDS``.

        Args:
            may_rest: whether the time between two micro-batches does not count.
        """
        progress = self._query.lastProgress
        batch = progress["batchId"] if progress else None
        now = time.monotonic()
        if batch != self._batch or (may_rest and _rests(self._query)):
            self._batch, self._written, self._moved = batch, [], now
        elif now - self._moved > STALL_SECONDS:
            # Not before, since to ask takes from the streams.
            written = [catalog.version(self._spark, table) for table in self._tables]
            if self._written and written != self._written:
                self._moved = now
            self._written = written
        return now - self._moved


def _rests(query: StreamingQuery) -> bool:
    """Whether a query is between two micro-batches, or looks in vain for something to do."""
    status = query.status
    return not (status["isTriggerActive"] and status["isDataAvailable"])


def _standstill(query: StreamingQuery, seconds: float) -> str:
    message = query.status["message"]
    return f"the stream {query.name} has written nothing for {seconds:.0f} s; the engine says of it: {message}"


def _finish(
    spark: SparkSession, stream: Stream, query: StreamingQuery, check: Callable[[], Any] = lambda: None
) -> None:
    """Wait until a query has read what is there.

    Args:
        spark: the session.
        stream: what the query is a run of.
        query: the query.
        check: asked when there is no progress for long, or the query fails; raises if its source is to blame.

    Raises:
        PipelineError: if the query fails, or does nothing for ``GIVE_UP_SECONDS``.
    """
    watch, told = _Watch(spark, stream, query), False
    try:
        while not query.awaitTermination(LOOK_SECONDS):  # type: ignore[arg-type]
            idle = watch.idle()
            if idle > STALL_SECONDS:
                check()
            if idle > GIVE_UP_SECONDS:
                raise PipelineError(
                    f"The run was ended, since {_standstill(query, idle)}",
                    "run again: what was done is not done twice; if it comes to a standstill again, `shopmetrics down` "
                    "ends the engine, and the next run starts another",
                )
            if idle > TELL_SECONDS and not told:
                print(f"waiting: {_standstill(query, idle)}", file=sys.stderr, flush=True)
            told = idle > TELL_SECONDS
    except StreamingQueryException as error:
        check()
        raise _failed(query.name or "the stream", error) from error
    except BaseException:
        # Ctrl-C, or a source that is gone. Without this the query would run on in the engine.
        _stop(query)
        raise


def _stop(query: StreamingQuery) -> None:
    with suppress(PySparkException):
        query.stop()


def _failed(name: str, error: BaseException | None) -> PipelineError:
    text = str(error)
    if isinstance(error, StreamingQueryException):
        # A sink may wrap what a task said; only the causes below it name Kafka then.
        text += f"\n{error.getStackTrace() or ''}"
    if any(sign.lower() in text.lower() for sign in _DATA_LOSS):
        return gaps.stopped([])
    raised = _PYTHON_ERROR.findall(text)
    cause = raised[-1] if raised else first_line(error) if error else "it was stopped from elsewhere"
    return PipelineError(
        f"The stream {name} has ended: {cause}",
        "mend the cause and run again; what was done is not done twice, and nothing is lost",
    )
