"""Week 1: what stands after the workspace, the tour, the generators and bronze."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import unquote, urlsplit

from generators.defects import ROW_KINDS
from shared import catalog
from shared.bronze.contracts import AUDIT_COLUMNS, SOURCES
from shared.bronze.landing import landed, opened
from shared.clock import batch_date
from shared.course import days
from shared.course.checks.registry import Context, Finding, check, finding
from shared.settings import on_databricks

FIRST_TABLE = "ops.first_table"
"""The table on which day 1 shows what Delta does. It is created, filled, and changed at least once."""

COURSE_DAYS = "ops.course_days"
"""The table that day 2 hands over: :func:`shared.course.days.as_rows`, as it is."""

SEVERAL_VERSIONS = 3

LINEAGE_TIMEOUT = 15.0
"""Seconds to wait for a lineage event: the engine writes them after a query has been answered."""

# --- Day 1: workspace -----------------------------------------------------------------------------------------------


@check(
    1,
    "The four schemas exist, each with its comment and its directory",
    cause="catalog.create_schemas(spark) was not run, or a schema was made by hand",
)
def _schemas(context: Context) -> Finding:
    known = {row[0] for row in context.spark.sql("SHOW SCHEMAS").collect()}
    right, wrong = [], []
    for name, comment in catalog.SCHEMAS.items():
        if name not in known:
            wrong.append(f"{name} is missing")
            continue
        rows = context.spark.sql(f"DESCRIBE SCHEMA {name}").collect()
        facts = {row[0]: row[1] for row in rows}
        if facts.get("Comment") != comment:
            wrong.append(f"{name} has the comment {facts.get('Comment')!r}")
        elif not on_databricks() and _path_of(facts.get("Location", "")) != context.settings.lakehouse / name:
            wrong.append(f"{name} is kept in {facts.get('Location')}")
        else:
            right.append(name)
    return Finding("; ".join(wrong) or ", ".join(right), ", ".join(catalog.SCHEMAS))


def _path_of(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


@check(1, "The landing volume is there", cause="the cell that makes the directory was not run")
def _volume(context: Context) -> Finding:
    return Finding("a directory" if context.landing.is_dir() else "nothing", "a directory")


@check(
    1,
    f"{FIRST_TABLE} was created, filled and changed",
    cause="the cells that write to the table were not all run; start again with the one that creates it",
)
def _versions(context: Context) -> Finding:
    newest = catalog.version(context.spark, FIRST_TABLE)
    expected = f"at least {SEVERAL_VERSIONS} versions"
    return Finding(f"versions 0 to {newest}", expected, ok=newest >= SEVERAL_VERSIONS - 1)


@check(
    1,
    f"The log of {FIRST_TABLE} has one entry per version and adds up to the rows of the table",
    cause="a file in _delta_log was changed or removed by hand; drop the table and create it again",
    local_only=True,
)
def _log_agrees(context: Context) -> Finding:
    log = sorted((catalog.table_path(FIRST_TABLE, context.settings) / "_delta_log").glob("*.json"))
    expected = [f"{version:020d}.json" for version in range(catalog.version(context.spark, FIRST_TABLE) + 1)]
    rows = context.spark.table(FIRST_TABLE).count()
    return Finding(
        f"{len(log)} entries, {_rows_in_log(log)} rows",
        f"{len(expected)} entries, {rows} rows",
        ok=[entry.name for entry in log] == expected and _rows_in_log(log) == rows,
    )


def _rows_in_log(log: list[Path]) -> int:
    """Replay a Delta log: each ``add`` brings a file with its rows, each ``remove`` takes one away."""
    rows: dict[str, int] = {}
    for entry in log:
        for line in entry.read_text(encoding="utf-8").splitlines():
            action = json.loads(line)
            if "add" in action:
                rows[action["add"]["path"]] = json.loads(action["add"]["stats"])["numRecords"]
            elif "remove" in action:
                rows.pop(action["remove"]["path"], None)
    return sum(rows.values())


@check(
    1,
    f"Lineage has a completed event whose output is {FIRST_TABLE}",
    cause="the engine was started without its lineage listener; `shopmetrics down`, then run the notebook again",
    local_only=True,
)
def _lineage(context: Context) -> Finding:
    events = context.settings.lineage / "events.jsonl"
    expected = f"COMPLETE -> {FIRST_TABLE}"
    deadline = time.monotonic() + LINEAGE_TIMEOUT
    while FIRST_TABLE not in _outputs(events):
        if time.monotonic() > deadline:
            return Finding(f"no such event within {LINEAGE_TIMEOUT:g} s in {events.name}", expected)
        Event().wait(0.1)
    return Finding(expected, expected)


def _outputs(events: Path) -> set[str]:
    """Return the tables that completed events name as their outputs."""
    names = set()
    for event in _events(events):
        if event["eventType"] == "COMPLETE":
            for output in event["outputs"]:
                links = output.get("facets", {}).get("symlinks", {}).get("identifiers", [])
                names |= {link["name"] for link in links}
    return names


def _events(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):  # the engine may be writing the last one right now
                yield json.loads(line)


# --- Day 2: project tour --------------------------------------------------------------------------------------------


@check(
    2,
    f"{COURSE_DAYS} lists every day of the course once",
    cause="the cell that writes the table was not run, or the course has grown since; run the notebook again",
)
def _course_days(context: Context) -> Finding:
    columns, expected = days.COLUMNS, days.as_rows()
    frame = context.spark.table(COURSE_DAYS)
    names = ", ".join(f"{field.name} {field.dataType.simpleString().upper()}" for field in frame.schema.fields)
    if names != columns:
        return Finding(f"columns {names}", f"columns {columns}")
    found, listed = Counter(tuple(row) for row in frame.collect()), set(expected)
    # Counted, not listed: the course has thirty days.
    wrong = {
        "days there more than once": sum(count > 1 for count in found.values()),
        "days missing or different": len(listed - found.keys()),
        "rows that are no day of the course": len(found.keys() - listed),
    }
    return finding(wrong, f"{len(expected)} days, each once and as listed")


# --- Day 3: generators ----------------------------------------------------------------------------------------------

DAY_3_SOURCES = ("customers", "orders")

DEFECT_TOLERANCE = 0.1
"""Relative; a defect that doubles a row makes the file longer than the rows that the rate refers to."""


@check(
    3,
    "The manifest lists files of customers and orders, the historical load first",
    cause="a generator was not run, or stopped before its end; run it again, it goes on where it stopped",
)
def _manifest(context: Context) -> Finding:
    historical = batch_date(0).isoformat()
    found = {source: sorted(context.manifest.tables.get(source, {})) for source in DAY_3_SOURCES}
    text = "; ".join(f"{source}: {_batches(dates)}" for source, dates in found.items())
    expected = f"{' and '.join(DAY_3_SOURCES)}: the same batches, {historical} first"
    first, second = found.values()
    return Finding(text, expected, ok=bool(first) and first == second and first[0] == historical)


def _batches(dates: list[str]) -> str:
    return f"{len(dates)} batches, {dates[0]} to {dates[-1]}" if dates else "no batch"


@check(
    3,
    "Every listed file is there, with the bytes and the lines that the manifest states",
    cause="a file was edited, truncated or removed; delete the landing volume's folder and generate again",
)
def _files(context: Context) -> Finding:
    listed, wrong = context.manifest.files(), []
    for file in listed:
        path = context.landing / file.path
        if not path.is_file():
            wrong.append(f"{file.path} is missing")
            continue
        size, lines, digest = _measured(path)
        if size != file.bytes:
            wrong.append(f"{file.path} has {size:,} bytes, not {file.bytes:,}")
        elif digest != file.sha256:
            wrong.append(f"{file.path} has other content")
        elif lines - 1 != file.rows:
            wrong.append(f"{file.path} has {lines - 1:,} lines below its header, not {file.rows:,}")
    expected = "every file as listed"
    return Finding("; ".join(wrong[:5]) if wrong else expected, expected)


def _measured(path: Path) -> tuple[int, int, str]:
    """Return the size of a file in bytes, its number of line feeds, and its SHA-256, reading it once."""
    size, lines, digest = 0, 0, hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size += len(block)
            lines += block.count(b"\n")
            digest.update(block)
    return size, lines, digest.hexdigest()


@check(
    3,
    "The historical load has defects at the stated rate",
    cause="the files were generated with another rate; generate into an empty landing volume",
)
def _defect_rate(context: Context) -> Finding:
    plan, historical = context.manifest.plan, batch_date(0).isoformat()
    ok = True
    shares: list[str] = []
    for source in DAY_3_SOURCES:
        if historical not in context.manifest.tables.get(source, {}):
            ok, shares = False, [*shares, f"no historical load of {source}"]
            continue
        rows = context.manifest.rows(source, historical)
        struck = context.manifest.defects(source, historical)
        defects, kinds = sum(struck.values()), ROW_KINDS[source]
        # Each kind's number is rounded by chance, so the sum may be off by one per kind.
        slack = DEFECT_TOLERANCE * plan.defects * rows + (len(kinds) if plan.defects else 0)
        ok &= set(struck) >= set(kinds) and abs(defects - plan.defects * rows) <= slack
        shares.append(f"{source} {100 * defects / rows:.2f} %")
    return Finding(", ".join(shares), f"{100 * plan.defects:.2f} % of the rows, every kind counted", ok=ok)


# --- Day 4: bronze --------------------------------------------------------------------------------------------------


@check(
    4,
    "AC-001: the columns and types of every bronze table are those of the data model",
    cause="the table was made by hand or by an earlier version; `shopmetrics reset <table>`, then ingest again",
)
def _bronze_schemas(context: Context) -> Finding:
    wrong = []
    for source in SOURCES.values():
        expected = [(column.name, _plain_type(column.type)) for column in (*source.columns, *AUDIT_COLUMNS)]
        schema = context.spark.table(source.bronze_table).schema
        found = [(field.name, _plain_type(field.dataType.simpleString())) for field in schema.fields]
        missing = [f"{name} {kind}" for name, kind in expected if (name, kind) not in found]
        surplus = [f"{name} {kind}" for name, kind in found if (name, kind) not in expected]
        if found != expected:
            parts = [f"without {', '.join(missing)}"] * bool(missing) + [f"with {', '.join(surplus)}"] * bool(surplus)
            wrong.append(f"{source.bronze_table} {' and '.join(parts) or 'in another order'}")
    expected_text = ", ".join(
        f"{source.name} {len(source.columns) + len(AUDIT_COLUMNS)}" for source in SOURCES.values()
    )
    return Finding("; ".join(wrong) or f"columns: {expected_text}", f"columns: {expected_text}")


def _plain_type(name: str) -> str:
    return name.lower().replace(" ", "")


@check(
    4,
    "AC-001: every bronze table has as many rows as its files have lines, by the manifest",
    cause="not every file was ingested, or one was ingested twice; run bronze.ingest(spark) again and see which file",
)
def _bronze_rows(context: Context) -> Finding:
    listed = {source: {file.path for file in context.manifest.files(source)} for source in SOURCES}
    found = {
        source: sum(rows for file, (rows, _) in context.ingested[source].items() if file in listed[source])
        for source in SOURCES
    }
    expected = {source: context.manifest.rows(source) for source in SOURCES}
    return Finding(_counts(found), _counts(expected))


@check(
    4,
    "Every file in the landing volume was ingested, and exactly once",
    cause="the table and its checkpoint were reset one without the other; `shopmetrics reset <table>`, ingest again",
)
def _once(context: Context) -> Finding:
    wrong, ingested = [], 0
    for source in SOURCES:
        lies_there = landed(context.landing, SOURCES[source])
        known = {file.path: file.rows for file in context.manifest.files(source)}
        rows = context.ingested[source]
        wrong += [f"{file}: {problem}" for file, problem in lies_there.refused.items()]
        files = sorted(file.path for file in lies_there.files)
        wrong += [f"{file} is not in the landing volume" for file in sorted(rows.keys() - files)]
        for file in files:
            lines = known[file] if file in known else _data_lines(context.landing / file)
            if rows.get(file, (0, 0))[0] != lines:
                wrong.append(f"{file}: {rows.get(file, (0, 0))[0]:,} rows for {lines:,} lines")
            else:
                ingested += 1
    expected = f"{ingested + len(wrong)} files, each once"
    return Finding("; ".join(wrong[:5]) if wrong else expected, expected)


def _data_lines(path: Path) -> int:
    with opened(path) as file:
        return sum(1 for line in file.read().splitlines() if line.strip()) - 1


@check(
    4,
    "Malformed lines are kept, as many as were injected",
    cause="lines that do not fit were dropped, or good ones taken for bad: look at _malformed IS NOT NULL",
)
def _malformed(context: Context) -> Finding:
    found, expected = {}, {}
    for source in SOURCES:
        # The copy in a file that was delivered again is counted there as a redelivery, whatever its lines look like.
        originals = {file.path for file in context.manifest.files(source) if file.redelivery_of is None}
        rows = context.ingested[source].items()
        found[source] = sum(malformed for file, (_, malformed) in rows if file in originals)
        expected[source] = context.manifest.defects(source).get("malformed_line", 0)
    return Finding(_counts(found), _counts(expected))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())
