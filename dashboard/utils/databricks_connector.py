"""The dashboard's connection to gold: one Streamlit connection in front of three sources.

Asked in this order: Databricks SQL, if its secrets are there; the lakehouse of this home, if gold has been built in it;
the snapshot in the repository. A page is filled from one source, never from two: figures of different days side by side
would contradict each other.

Databricks has :data:`PATIENCE` seconds for a whole page. If it is out of reach, late, or refuses the token, it is left
alone for :data:`REST` seconds, the page is filled from the next source, and says so (AC-011).

    gold = connect()
    sales = gold.ask("daily_sales")
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import date
from threading import Lock
from typing import Any

import pyarrow as pa
import streamlit as st
from pydantic import SecretStr
from streamlit.connections import BaseConnection

from dashboard.utils.sources import Ask, DashboardError, Databricks, Lakehouse, OutOfReach, Snapshot, Source
from shared import secrets
from shared.errors import ShopMetricsError
from shared.settings import get_settings

PATIENCE = 4.0
"""Seconds that Databricks has for the questions of one page; with the fallback the page is there within five."""

REST = 60.0
"""Seconds for which a source out of reach is not asked again, so that not every click waits for it."""

SECRETS = {
    "server_hostname": "DATABRICKS_SERVER_HOSTNAME",
    "http_path": "DATABRICKS_HTTP_PATH",
    "access_token": "DATABRICKS_TOKEN",
}
"""What Databricks needs: names in ``[connections.gold]`` of Streamlit's secrets, and elsewhere."""


@dataclass(frozen=True)
class Sources:
    """What can be asked."""

    databricks: Databricks | None
    lakehouse: Lakehouse
    snapshot: Snapshot


class GoldConnection(BaseConnection[Sources]):
    """Hands out the answers to the pages' questions as Arrow tables, from the best source that there is.

    Answers are kept for ten minutes, 64 of them and 150 MB at most, and belong to a table's version: one that has a
    new version is asked again at once, in milliseconds for the log and without reading a row of an old one.
    """

    def _connect(self, **kwargs: Any) -> Sources:
        self._why = ""
        self._rested_at = 0.0
        self._kept = Kept()
        self._used: tuple[Source, ...] = ()
        return Sources(self._databricks(), Lakehouse(get_settings().lakehouse), Snapshot())

    def source(self) -> Source:
        """Return the source that a page asks now."""
        there = self._instance
        local = there.lakehouse if there.lakehouse.is_there() else there.snapshot
        order = self._used or (*filter(None, [there.databricks]), local)
        resting = time.monotonic() < self._rested_at
        return next((one for one in order if not (resting and isinstance(one, Databricks))), order[-1])

    def use(self, *sources: Source) -> None:
        """Ask these sources from now on, the first one that can be reached, and no others. None: the usual ones again.

        For every session of this process. A notebook and a check choose what a page is filled from by this.

        Example:
            >>> connect().use(Snapshot())
        """
        self._used, self._why, self._rested_at = sources, "", 0.0

    @property
    def used(self) -> tuple[Source, ...]:
        """What :meth:`use` was given last; empty: the usual sources."""
        return self._used

    def why_not_databricks(self) -> str:
        """Return why Databricks is not in use although it should be; nothing if it is, or if none is configured."""
        return self._why if self.source().name != "databricks" else ""

    def ask(self, *questions: str | Ask, within: float = PATIENCE) -> list[pa.Table | DashboardError]:
        """Answer questions, in their order; a question without an answer has its error in its place.

        Args:
            questions: names, or names with values as :func:`with_values` makes them.
            within: seconds that Databricks has for all of them.

        Raises:
            OutOfReach: if the source just failed; what is asked next comes from another one. A page starts again then,
                so that all its figures are from one source.
        """
        asks = tuple((question, ()) if isinstance(question, str) else question for question in questions)
        source = self.source()
        keys = {ask: (f"{source.name} {source.version((ask,))}", ask) for ask in asks}
        found: dict[Ask, pa.Table | DashboardError] = {
            ask: table for ask, key in keys.items() if (table := self._kept.get(key)) is not None
        }
        if missing := tuple(ask for ask in asks if ask not in found):
            try:
                found |= source.answers(missing, within)
            except OutOfReach as error:
                self._why, self._rested_at = error.problem, time.monotonic() + REST
                raise
            for ask in missing:
                # An error is not kept: what it is about may be mended in a moment.
                if not isinstance(found[ask], DashboardError):
                    self._kept.put(keys[ask], found[ask])
            if source.name == "databricks":
                self._why = ""
        return [found[ask] for ask in asks]

    def _databricks(self) -> Databricks | None:
        """Return the workspace that the secrets name: Streamlit's, else those of ``shared.secrets``."""
        own = dict(self._secrets)
        try:
            found = {key: own.get(key) or _secret(name) for key, name in SECRETS.items()}
        except ShopMetricsError as error:  # a secrets file that others may read
            self._why = error.problem
            return None
        if not all(found.values()):
            return None
        return Databricks(
            hostname=str(found["server_hostname"]).removeprefix("https://").rstrip("/"),
            http_path=str(found["http_path"]),
            token=SecretStr(str(found["access_token"])),
            catalog=str(own.get("catalog") or get_settings().catalog),
            uri=own.get("uri"),
        )


def connect() -> GoldConnection:
    """Return the connection, the same one for every session of this process."""
    return st.connection("gold", type=GoldConnection)


def with_values(question: str, **values: date | str) -> Ask:
    """Return a question together with what its parameters stand for.

    >>> with_values("customer_orders", customer_id="C-00000057")
    ('customer_orders', (('customer_id', 'C-00000057'),))
    """
    return question, tuple(sorted(values.items()))


class Kept:
    """Answers that are kept for a while: a bounded number, of bounded size, the ones used longest ago go first.

    Arrow tables cannot be changed, so sessions share them without a copy, which Streamlit's own cache would make.
    """

    def __init__(self, seconds: float = 600.0, entries: int = 64, most_bytes: int = 150_000_000) -> None:
        self._seconds, self._entries, self._most_bytes = seconds, entries, most_bytes
        self._kept: OrderedDict[tuple[str, Ask], tuple[float, pa.Table]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[str, Ask]) -> pa.Table | None:
        """Return an answer, None if it is not kept or too old."""
        with self._lock:
            since, table = self._kept.get(key, (0.0, None))
            if table is None or time.monotonic() - since > self._seconds:
                self._kept.pop(key, None)
                return None
            self._kept.move_to_end(key)
            return table

    def put(self, key: tuple[str, Ask], table: pa.Table) -> None:
        """Keep an answer, and drop others until number and size fit."""
        with self._lock:
            self._kept[key] = (time.monotonic(), table)
            self._kept.move_to_end(key)
            while len(self._kept) > self._entries or (len(self._kept) > 1 and self.bytes() > self._most_bytes):
                self._kept.popitem(last=False)

    def bytes(self) -> int:
        """Return the size of what is kept."""
        return sum(table.nbytes for _, table in self._kept.values())


def _secret(name: str) -> str:
    found = secrets.find(name)
    return found.get_secret_value() if found else ""
