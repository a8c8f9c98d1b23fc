"""Sends the clickstream to Kafka, live or as a replay, and records what was sent.

    python -m generators.produce_clickstream --day 1 --speedup 0

A live run, the default, sends each event at its time, until Ctrl-C. A replay sends a stretch of event time: a day of
the shop's calendar, or any other. The producer is idempotent and messages are keyed by user. So each message is in the
topic once and a user's messages are in order, even if the broker was unavailable for a while. If a message cannot be
delivered, the run ends with an error that says how many are missing.

The run writes two files: a manifest, and a table of the sessions. Their names contain the start of the stretch and the
id of the clickstream. A repeated run replaces the files of the earlier run.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Self

import numpy as np
import pyarrow as pa
import typer
from confluent_kafka import KafkaError, KafkaException, Producer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from generators import demand
from generators.clickstream import (
    DEFECTS,
    FUNNEL,
    KINDS,
    Batch,
    Clickstream,
    ClickstreamPlan,
    SessionAccount,
    Sessions,
    instant,
    instants,
)
from generators.landing import csv_lines, flags, whole_file, whole_numbers
from generators.plan import GeneratorError
from generators.pools import take
from generators.random_streams import Ints
from shared import clock
from shared.errors import ShopMetricsError
from shared.runtime import kafka
from shared.runtime.kafka import TOPIC
from shared.settings import get_settings

SESSION_COLUMNS = (
    "session_id",
    "user_id",
    "session_start_ts",
    "session_end_ts",
    "events",
    "funnel_step",
    "is_converted",
)
"""Header of the table of sessions. The names are those of ``silver.clickstream_sessions``."""

EXAMPLE = "Example: `python -m generators.produce_clickstream --day 1 --rate 5 --speedup 0`"

_HOUR = 3_600_000
_BETWEEN_POLLS = 1_000
"""Number of messages that are handed over between two counts of deliveries."""
_LONGEST_WAIT = 0.1
"""The longest wait for Kafka in one call, in seconds; a Ctrl-C takes effect after it."""
_CONNECT_TIMEOUT = 15.0
_DELIVERY_TIMEOUT = 30.0
"""Seconds after which a message counts as lost if no broker has taken it."""

_REFUSALS = (
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)
_ADVICE_AWAY = "start the broker (`shopmetrics up`), or check KAFKA_BOOTSTRAP_SERVERS and the network"
_ADVICE_TOPIC = "`shopmetrics up` makes it on the local broker; elsewhere make it in the cluster's console"

Config = Mapping[str, str | int | float | bool]


def stretch(
    *,
    day: int | None = None,
    start: datetime | None = None,
    duration: float | None = None,
    hours: str | None = None,
    **arguments: Any,
) -> ClickstreamPlan:
    """Return the plan of a day of the virtual calendar, of any stretch of time, or of a stretch that begins now.

    Args:
        day: this day from midnight to midnight; 0 is the last day of the history. ``duration`` makes it shorter.
        start: any first instant. Without day and start, the stretch begins now, at a whole second.
        duration: seconds of event time. Without it a stretch that is not a day has no end.
        hours: ``even`` or ``shop``; defaults to ``shop`` for a whole day and to ``even`` otherwise.
        arguments: the other arguments of :class:`~generators.clickstream.ClickstreamPlan`.

    Raises:
        GeneratorError: if both a day and a start are given, the duration is longer than the day, or an argument is
            out of range.
    """
    if day is not None:
        if start is not None:
            raise GeneratorError(
                f"day {day} and start {start.isoformat()} are both given, and each says when to begin", "drop one"
            )
        if isinstance(day, bool) or not isinstance(day, int) or day < 0:
            raise GeneratorError(f"day must be a whole number, 0 or more, got {day!r}", "day 1 is 2026-01-01")
        if duration is not None and duration > demand.DAY:
            raise GeneratorError(
                f"a day has {demand.DAY:,} seconds, a duration of {duration:,.0f} was asked for",
                "replay one day after the other, or name the first instant by --start",
            )
        try:
            start = datetime.fromtimestamp(demand.midnight(clock.batch_date(day)), UTC)
        except OverflowError as error:
            raise GeneratorError(f"day {day} is beyond the calendar", "day 1 is 2026-01-01") from error
        hours = hours or ("shop" if duration is None else "even")
        duration = float(demand.DAY) if duration is None else duration
    return ClickstreamPlan(
        start=start or datetime.now(UTC).replace(microsecond=0), duration=duration, hours=hours or "even", **arguments
    )


def produce(
    cluster: Config,
    *,
    seed: int = 42,
    scale: float = 1.0,
    day: int | None = None,
    start: datetime | None = None,
    rate: float = 1.0,
    duration: float | None = None,
    speedup: float = 1.0,
    hours: str | None = None,
    duplicates: float = 0.01,
    late: float = 0.01,
    malformed: float = 0.002,
    schema_version: int = 1,
    topic: str = TOPIC,
    manifest_dir: Path | str | None = None,
    progress: bool = True,
) -> ClickstreamManifest:
    """Send a stretch of the clickstream to a topic, and return the manifest once every message is delivered.

    The messages, their order and their keys depend only on the arguments other than ``cluster``, ``speedup`` and
    ``topic``: a repeated replay sends the same messages again. Ctrl-C, in the main thread, ends the stretch at the
    last sent message. The waiting late messages are then sent, all deliveries are awaited, and the manifest describes
    the shorter stretch. A second Ctrl-C aborts the run, and no manifest is written.

    Args:
        cluster: configuration of a ``confluent_kafka`` client, such as ``kafka.connect().client_config()``.
        seed: the seed of every random stream.
        scale: determines the customers and products, as for ``generate``.
        day: replay this day of the virtual calendar.
        start: replay from this instant on. Without day and start the run is live: it begins now.
        rate: events per second of event time, as the mean over a day.
        duration: seconds of event time.
        speedup: the speed of event time as a multiple of the clock's; 0 means as fast as possible.
        hours: ``even`` or ``shop``, see :func:`stretch`.
        duplicates: share of the events that are sent twice.
        late: share of the events that are sent 2 to 120 minutes of event time late.
        malformed: malformed messages, as a share of the events.
        schema_version: 1, or 2 with the field ``campaign``.
        topic: the topic, which must exist.
        manifest_dir: the folder of the manifest; defaults to ``raw/clickstream`` in the home.
        progress: show a progress bar on a terminal if the run takes longer than a second.

    Raises:
        GeneratorError: if an argument is out of range, or the manifest cannot be written. Also if the cluster does not
            answer, refuses the credentials, has no such topic, or did not take every message. In the last case the
            manifest is still written.

    Example:
        >>> produce(kafka.connect().client_config(), day=1, speedup=0).delivered        # doctest: +SKIP
        87411
    """
    if not speedup >= 0:
        raise GeneratorError(f"speedup must be 0 or more, got {speedup!r}", "0 is as fast as possible, 1 the clock's")
    live = day is None and start is None
    if live and speedup != 1:
        raise GeneratorError(
            f"a live run has the speed of the clock, and a speedup of {speedup:g} was asked for: "
            "event times would lie in the future",
            "name what to replay, for example --day 1 or --start 2026-01-01T09:00:00Z",
        )
    plan = stretch(
        day=day,
        start=start,
        duration=duration,
        hours=hours,
        seed=seed,
        scale=scale,
        rate=rate,
        duplicates=duplicates,
        late=late,
        malformed=malformed,
        schema_version=schema_version,
    )
    folder = get_settings().raw / "clickstream" if manifest_dir is None else Path(manifest_dir)
    with _interrupts() as interrupted:
        sender = _Sender(cluster, topic, interrupted, prompt=speedup != 0)
        sender.check_topic()
        with _Account(plan, topic, folder) as account, _Progress(plan, progress) as bar:
            _send(Clickstream(plan), sender, account, bar, _Pace(plan, speedup, live))
            sender.finish()
            account.finish(sender)
        manifest = account.manifest(sender)
        manifest.save()
    if manifest.end == "failed":
        raise _undelivered(manifest, sender)
    return manifest


def _send(stream: Clickstream, sender: _Sender, account: _Account, bar: _Progress, pace: _Pace) -> None:
    """Send the stretch, until its end, until Ctrl-C or until a message is lost."""
    end = stream.plan.start_ms
    for batch in stream.batches():
        sent = sender.send(batch, pace.due, bar.show)
        account.add(batch, sent)
        end = batch.send_at[sent - 1] + 1 if sent else end
        if sent < len(batch):
            account.until = min(end, stream.plan.end_ms)
            if not sender.problem:
                account.end = "interrupted"
                rest = stream.rest(batch, sent, end)
                account.add(rest, sender.send(rest))
            return


class _Pace:
    """Calculates on the monotonic clock when a message is due."""

    def __init__(self, plan: ClickstreamPlan, speedup: float, live: bool) -> None:
        self._per_ms = 0.001 / speedup if speedup else 0.0
        self._start = plan.start_ms
        # A live stretch begins at a whole second, which is slightly in the past.
        self._begun = time.monotonic() - (time.time() - plan.start_ms / 1_000 if live else 0)

    def due(self, send_at: int) -> float:
        """Return when a message must be sent, on the monotonic clock."""
        return self._begun + (send_at - self._start) * self._per_ms


class _Sender:
    """Hands messages to Kafka, and counts the delivered and the refused ones."""

    def __init__(self, cluster: Config, topic: str, interrupted: threading.Event, prompt: bool) -> None:
        self.sent = 0
        """Messages handed over: delivered, refused, or still on their way."""
        self.delivered = 0
        self.refused: Counter[str] = Counter()
        """The number of undelivered messages by Kafka's name of the error."""
        self.problem: KafkaError | None = None
        """The first error after which the run must stop sending."""
        self._hopeless = False
        """Whether all waiting messages will fail with this error too."""
        self._topic = topic
        self._interrupted = interrupted
        self._servers = cluster.get("bootstrap.servers", "")
        self._producer = Producer(
            {
                "enable.idempotence": True,
                "acks": "all",
                # This chooses the same partition for a key as Kafka's own clients. Messages without a key all go to
                # one fixed partition, so that a replay fills the partitions in the same way.
                "partitioner": "murmur2",
                "compression.type": "lz4",
                "linger.ms": 5 if prompt else 20,
                "message.timeout.ms": round(_DELIVERY_TIMEOUT * 1_000),
                # The topic is known to exist. If it is missing later, it was deleted, so a long wait for it is useless.
                "topic.metadata.propagation.max.ms": 10_000,
                # The client retries failed attempts. `_on_error` and `_on_delivery` report the final errors.
                "log_level": 0,
                **cluster,
                "error_cb": self._on_error,
            }
        )

    def check_topic(self) -> None:
        """Wait for the cluster, and make sure that it has the topic.

        Raises:
            GeneratorError: if the cluster does not answer, refuses the credentials, or has no such topic.
        """
        deadline = time.monotonic() + _CONNECT_TIMEOUT
        while True:
            try:
                topics = sorted(
                    name for name in self._producer.list_topics(timeout=1.0).topics if not name.startswith("__")
                )
                break
            except KafkaException as error:
                self._producer.poll(0)
                if self._interrupted.is_set():
                    raise KeyboardInterrupt from error
                if self.problem:
                    raise GeneratorError(*self.why()) from error
                if time.monotonic() > deadline:
                    raise GeneratorError(
                        f"Kafka at {self._servers} does not answer within {_CONNECT_TIMEOUT:g} s", _ADVICE_AWAY
                    ) from error
        if self._topic not in topics:
            raise GeneratorError(
                f"the topic {self._topic} is not there; topics: {', '.join(topics) or 'none'}", _ADVICE_TOPIC
            )

    def send(
        self,
        batch: Batch,
        due: Callable[[int], float] | None = None,
        show: Callable[[int, int], None] | None = None,
    ) -> int:
        """Hand over the messages of a batch, each when it is due, and return how many were handed over.

        The number is smaller than the batch if a message was lost or, unless ``due`` is None, after Ctrl-C.

        Args:
            batch: the messages.
            due: returns the planned time of a message on the monotonic clock; without it all are sent at once.
            show: called from time to time with the number of messages handed over and the event time reached.
        """
        sent = self._send(batch, due, show or (lambda sent, send_at: None))
        self.sent += sent
        return sent

    def _send(self, batch: Batch, due: Callable[[int], float] | None, show: Callable[[int, int], None]) -> int:
        produce, poll, topic, on_delivery = self._producer.produce, self._producer.poll, self._topic, self._on_delivery
        now = 0.0
        for at, (key, value, send_at) in enumerate(zip(batch.keys, batch.values, batch.send_at, strict=True)):
            if due is not None:
                moment = due(send_at)
                while moment > now and moment > (now := time.monotonic()) and not self._interrupted.is_set():
                    show(self.sent + at, send_at)
                    poll(min(moment - now, _LONGEST_WAIT))
                    if self.problem:
                        return at
                if self._interrupted.is_set():
                    return at
            if at % _BETWEEN_POLLS == 0:
                poll(0)
                show(self.sent + at, send_at)
            if self.problem:
                return at
            while True:
                try:
                    produce(topic, value, key, on_delivery=on_delivery)
                    break
                except BufferError:
                    # The queue is full. A delivery makes room in it. Without deliveries, messages finally time out.
                    poll(_LONGEST_WAIT)
                except KafkaException as error:
                    self._on_delivery(error.args[0], None)
                    return at + 1
        return len(batch)

    def finish(self) -> None:
        """Wait until each message is delivered or lost."""
        while self._producer.flush(_LONGEST_WAIT):
            if self._hopeless:
                self._producer.purge()

    def why(self) -> tuple[str, str]:
        """Return the problem, and what to do about it."""
        if self.problem is None:
            raise ValueError("nothing is wrong")
        return _said(self.problem, self._topic, self._servers)

    def _on_delivery(self, error: KafkaError | None, _: object) -> None:
        if error is None:
            self.delivered += 1
            return
        if self.problem is None:
            self.problem = error
        self._hopeless |= error.code() == KafkaError._MSG_TIMED_OUT
        purged = error.code() in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)
        self.refused[(self.problem if purged else error).name()] += 1

    def _on_error(self, error: KafkaError) -> None:
        # The client tries an unavailable broker again. Refused credentials and a fenced producer are final.
        if error.fatal() or error.code() in _REFUSALS:
            self._hopeless = True
            self.problem = self.problem or error


def _said(error: KafkaError, topic: str, servers: object) -> tuple[str, str]:
    """Return the meaning of a Kafka error for this producer, and what to do about it."""
    match error.code():
        case KafkaError._AUTHENTICATION | KafkaError.SASL_AUTHENTICATION_FAILED:
            return (
                f"Kafka at {servers} refuses the credentials",
                "check KAFKA_API_KEY and KAFKA_API_SECRET; `shopmetrics secret KAFKA_API_SECRET` replaces one",
            )
        case KafkaError.TOPIC_AUTHORIZATION_FAILED | KafkaError.CLUSTER_AUTHORIZATION_FAILED:
            return f"Kafka at {servers} does not let this key write to {topic}", "give the key the right to write to it"
        case KafkaError.UNKNOWN_TOPIC_OR_PART | KafkaError._UNKNOWN_TOPIC | KafkaError._UNKNOWN_PARTITION:
            return f"the topic {topic} is not there any more", _ADVICE_TOPIC
        case KafkaError.MSG_SIZE_TOO_LARGE | KafkaError.RECORD_LIST_TOO_LARGE:
            return f"a message is larger than {topic} takes", "raise max.message.bytes of the topic"
        case KafkaError._MSG_TIMED_OUT:
            return f"Kafka at {servers} took no message for too long", _ADVICE_AWAY
        case _:
            return f"Kafka says: {error.str()}", "see whether the broker is well (`shopmetrics doctor`)"


def _undelivered(manifest: ClickstreamManifest, sender: _Sender) -> GeneratorError:
    why, advice = sender.why()
    reasons = ", ".join(f"{count:,} x {reason}" for reason, count in sorted(manifest.failed_by_reason.items()))
    return GeneratorError(
        f"{manifest.failed:,} of {manifest.sent:,} messages were not delivered to {manifest.topic}"
        + (f" ({reasons})" if reasons else "")
        + f": {why}",
        f"{advice}, then send the stretch again: --start {instant(manifest.plan.start_ms)} "
        f"--rate {manifest.plan.rate:g} --hours {manifest.plan.hours}. What is sent twice has the same event_id",
    )


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Provide an event that the first Ctrl-C sets; the second Ctrl-C raises KeyboardInterrupt as usual."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # only the main thread can handle signals
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


# --- the account ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HourAccount:
    """The counts of one hour of event time."""

    events: int
    """Valid events, each once."""
    sessions: int
    """Sessions whose first event lies in the hour."""
    purchases: int


@dataclass(frozen=True)
class ClickstreamManifest:
    """The record of one run: what a consumer must find in the topic.

    Example:
        >>> manifest = ClickstreamManifest.load(path)                                   # doctest: +SKIP
        >>> manifest.sent == manifest.events + manifest.added                           # doctest: +SKIP
        True
    """

    path: Path
    plan: ClickstreamPlan
    topic: str
    end: str
    """``complete``, ``interrupted`` by Ctrl-C, or ``failed``."""
    until: str
    """First instant after the events, ISO 8601; the end of the stretch, unless the run ended earlier."""
    sent: int
    """Messages handed to Kafka: the delivered and the failed ones."""
    delivered: int
    failed_by_reason: dict[str, int]
    """The number of undelivered messages by Kafka's name of the error."""
    events: int
    """Valid events, each once."""
    sessions: int
    purchases: int
    first_event_ts: str | None
    last_event_ts: str | None
    defects: dict[str, int]
    """The number of messages by kind; :data:`generators.clickstream.DEFECTS` describes the messages of each kind."""
    hours: dict[str, HourAccount]
    """The counts of each hour, by its start in ISO 8601."""

    @property
    def failed(self) -> int:
        """Messages that were not delivered."""
        return sum(self.failed_by_reason.values())

    @property
    def added(self) -> int:
        """Messages without a new event: duplicates and malformed messages."""
        return sum(count for kind, count in self.defects.items() if kind != "late")

    @property
    def sessions_path(self) -> Path:
        """The path of the sessions, a CSV file with the header :data:`SESSION_COLUMNS`."""
        return sessions_path(self.path)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the file."""
        content = asdict(self)
        del content["path"]
        content["plan"]["start"] = instant(self.plan.start_ms)
        return content

    def save(self) -> None:
        """Write the manifest atomically.

        Raises:
            GeneratorError: if the operating system refuses.
        """
        with whole_file(self.path) as write:
            write((json.dumps(self.as_dict(), indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: Path | str) -> ClickstreamManifest:
        """Read a manifest.

        Raises:
            GeneratorError: if the manifest is missing or cannot be read.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            start = datetime.fromisoformat(content["plan"].pop("start"))
            content["plan"] = ClickstreamPlan(start=start, **content["plan"])
            content["hours"] = {hour: HourAccount(**counts) for hour, counts in content["hours"].items()}
            return cls(path=path, **content)
        except FileNotFoundError as error:
            raise GeneratorError(
                f"{path} does not exist: no clickstream was produced here", "shopmetrics produce"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GeneratorError(
                f"{path} is not a manifest of this producer: {error!r}", "delete it, and produce again"
            ) from error


def manifest_path(folder: Path, plan: ClickstreamPlan) -> Path:
    """Return where the manifest of a stretch is: ``clickstream-20260101T000000Z-6c93ee35.json``."""
    second, milliseconds = f"{plan.start:%Y%m%dT%H%M%S}", plan.start_ms % 1_000
    start = f"{second}.{milliseconds:03}Z" if milliseconds else f"{second}Z"
    return folder / f"clickstream-{start}-{plan.clickstream}.json"


class _Account:
    """Counts what is sent. A complete session is written to the file at once, so memory does not grow with the run."""

    def __init__(self, plan: ClickstreamPlan, topic: str, folder: Path) -> None:
        self.end = "complete"
        self.until = plan.end_ms
        self._plan, self._topic = plan, topic
        self._path = manifest_path(folder, plan)
        self._sessions = 0
        self._kinds: Counter[str] = Counter()
        self._first_ts, self._last_ts = demand.FAR_FUTURE, -1
        self._events_in: Counter[int] = Counter()
        self._sessions_in: Counter[int] = Counter()
        self._purchases_in: Counter[int] = Counter()
        self._unfinished = SessionAccount()
        self._file = whole_file(sessions_path(self._path))

    def __enter__(self) -> Self:
        self._write = self._file.__enter__()
        self._write((",".join(SESSION_COLUMNS) + "\n").encode())
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def add(self, batch: Batch, sent: int) -> None:
        """Count the first ``sent`` messages of a batch."""
        rows = batch.rows[:sent]
        self._kinds.update(dict(zip(KINDS, np.bincount(rows.kind, minlength=len(KINDS)).tolist(), strict=True)))
        events = rows[rows.carries_event]
        if len(events):
            self._first_ts = min(self._first_ts, int(events.event_ts.min()))
            self._last_ts = max(self._last_ts, int(events.event_ts.max()))
            _count_hours(self._events_in, events.event_ts)
            _count_hours(self._purchases_in, events.event_ts[events.is_purchase])
        self._write_out(self._unfinished.add(rows))

    def finish(self, sender: _Sender) -> None:
        """Write the incomplete sessions to the file, after all messages are sent and delivered or lost."""
        self._write_out(self._unfinished.close())
        if sender.problem:
            self.end = "failed"
        # The old manifest describes sessions that are about to be replaced.
        self._path.unlink(missing_ok=True)

    def manifest(self, sender: _Sender) -> ClickstreamManifest:
        """Return the manifest of what was sent."""
        hours = range(min(self._events_in, default=0), max(self._events_in, default=-1) + 1)
        return ClickstreamManifest(
            path=self._path,
            plan=self._plan,
            topic=self._topic,
            end=self.end,
            until=instant(self.until),
            sent=sender.sent,
            delivered=sender.delivered,
            failed_by_reason=dict(sorted(sender.refused.items())),
            events=self._events_in.total(),
            sessions=self._sessions,
            purchases=self._purchases_in.total(),
            first_event_ts=instant(self._first_ts) if self._events_in else None,
            last_event_ts=instant(self._last_ts) if self._events_in else None,
            defects={kind: self._kinds[kind] for kind in DEFECTS},
            hours={
                instant(hour * _HOUR): HourAccount(
                    self._events_in[hour], self._sessions_in[hour], self._purchases_in[hour]
                )
                for hour in hours
            },
        )

    def _write_out(self, sessions: Sessions) -> None:
        self._sessions += len(sessions)
        _count_hours(self._sessions_in, sessions.first)
        lines = csv_lines(
            [
                self._plan.session_ids(sessions.session),
                self._plan.user_ids(sessions.customer, sessions.session),
                instants(sessions.first),
                instants(sessions.last),
                whole_numbers(sessions.events),
                take(pa.array(FUNNEL), sessions.step),
                flags(sessions.converted),
            ]
        )
        self._write("".join(lines.to_pylist()).encode())


def sessions_path(manifest: Path) -> Path:
    """Return where the sessions of a manifest are."""
    return manifest.with_name(manifest.name.removesuffix(".json") + ".sessions.csv")


def _count_hours(counts: Counter[int], moments: Ints) -> None:
    for hour, count in zip(*np.unique(moments // _HOUR, return_counts=True), strict=True):
        counts[int(hour)] += int(count)


class _Progress:
    """A progress bar on standard error, if that is a terminal and the run takes longer than a second."""

    _PATIENCE = 1.0
    _BETWEEN_LOOKS = 0.2

    def __init__(self, plan: ClickstreamPlan, wanted: bool) -> None:
        self._wanted = wanted and sys.stderr.isatty()
        self._plan = plan
        self._begun = time.monotonic()
        self._next_look = self._begun + self._PATIENCE
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, sent: int, send_at: int) -> None:
        """Show how many messages are sent, and which event time is reached."""
        now = time.monotonic()
        if not self._wanted or now < self._next_look:
            return
        self._next_look = now + self._BETWEEN_LOOKS
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            endless = self._plan.duration is None
            self._bar.add_task("", total=None if endless else self._plan.end_ms - self._plan.start_ms)
            self._bar.start()
        rate = sent / (now - self._begun)
        self._bar.update(
            self._bar.task_ids[0],
            completed=send_at - self._plan.start_ms,
            description=f"{instant(send_at)[:19]}  {sent:,} sent, {rate:,.0f}/s",
        )


# --- the command line ----------------------------------------------------------------------------------------------


class Hours(StrEnum):
    """How sessions spread over a day."""

    even = "even"
    shop = "shop"


def command(
    day: Annotated[int | None, typer.Option(help="Replay this day of the shop's calendar; 1 is 2026-01-01.")] = None,
    start: Annotated[
        str | None, typer.Option(help="Replay from this instant on, for example 2026-01-01T09:00:00Z; UTC.")
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(help="Seconds of event time. Default: a day to its end, everything else until Ctrl-C."),
    ] = None,
    rate: Annotated[float, typer.Option(help="Events per second of event time.")] = 1.0,
    speedup: Annotated[
        float,
        typer.Option(
            help="For a replay: event time runs so many times as fast as the clock; 0 is as fast as possible."
        ),
    ] = 1.0,
    hours: Annotated[
        Hours | None,
        typer.Option(help="Sessions spread evenly, or as orders do. Default: shop for a whole day, else even."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same events. Default: SHOPMETRICS_SEED.")] = None,
    scale: Annotated[
        float | None, typer.Option(help="1 is 10,000 customers and 1,000 products. Default: SHOPMETRICS_SCALE.")
    ] = None,
    duplicates: Annotated[float, typer.Option(help="Share of the events that are sent twice.")] = 0.01,
    late: Annotated[float, typer.Option(help="Share of the events sent 2 to 120 minutes late.")] = 0.01,
    malformed: Annotated[float, typer.Option(help="Malformed messages, as a share of the events.")] = 0.002,
    schema_version: Annotated[int, typer.Option(help="2 adds the field campaign.")] = 1,
    topic: Annotated[str, typer.Option(help="Must exist.")] = TOPIC,
    manifest_dir: Annotated[
        Path | None, typer.Option(help="Where the account is written. Default: raw/clickstream in the home.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Send the clickstream to Kafka: live until Ctrl-C, or a replay of what happened before.

    Without options about one event a second is sent, as it happens. Ctrl-C ends the run in an orderly way.
    """
    values = get_settings()
    begun = time.monotonic()
    manifest = produce(
        kafka.connect(values).client_config(),
        seed=values.seed if seed is None else seed,
        scale=values.scale if scale is None else scale,
        day=day,
        start=None if start is None else _parse_start(start),
        rate=rate,
        duration=duration,
        speedup=speedup,
        hours=hours,
        duplicates=duplicates,
        late=late,
        malformed=malformed,
        schema_version=schema_version,
        topic=topic,
        manifest_dir=manifest_dir,
        progress=not as_json,
    )
    if as_json:
        typer.echo(json.dumps(manifest.as_dict(), indent=2))
    else:
        Console().print(overview(manifest, time.monotonic() - begun))
        typer.echo(f"account in {manifest.path}")


def overview(manifest: ClickstreamManifest, seconds: float) -> Table:
    """Return a table for display: what was sent, and how fast."""
    view = Table(title=f"{manifest.topic}  {manifest.end}", title_justify="left", show_edge=False, show_header=False)
    view.add_column("what")
    view.add_column("count", justify="right")
    counts = {
        "messages sent": manifest.sent,
        "messages delivered": manifest.delivered,
        "events, each once": manifest.events,
        "sessions": manifest.sessions,
        "purchases": manifest.purchases,
        **manifest.defects,
    }
    for what, count in counts.items():
        view.add_row(what, f"{count:,}")
    view.add_row("seconds", f"{seconds:,.1f}")
    view.add_row("messages/s", f"{manifest.sent / seconds:,.0f}")
    view.add_row("event time", f"{instant(manifest.plan.start_ms)} to {manifest.until}")
    return view


def _parse_start(text: str) -> datetime:
    try:
        start = datetime.fromisoformat(text)
    except ValueError as error:
        raise GeneratorError(f"start must be an instant, got {text!r}", "for example 2026-01-01T09:00:00Z") from error
    return start if start.tzinfo else start.replace(tzinfo=UTC)


def main() -> None:
    """Run the command line.

    If not everything was delivered, it prints the error message without a traceback and exits with status 1.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    app.command(epilog=EXAMPLE)(command)
    try:
        app()
    except ShopMetricsError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
