"""Day 20: fewer files read for the same answer, no file deleted too early, and the tags in their places."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

from shared import catalog, gold, silver, tags
from shared.bronze.contracts import SOURCES
from shared.course.checks.registry import Context, Finding, check, finding, numbers
from shared.maintenance import RETENTION, waits_for_layout

FILES_READ = "ops.files_read"
"""What the notebook measured: a row for each layout and filter."""

UNORDERED, ORDERED = "as it arrived", ("ZORDER BY", "CLUSTER BY")
BY_COLUMN = ("first column", "second column")

LAYOUT = "layout"
"""Schema of the tables that the notebook experiments with."""

GOLD = tuple(one.target for one in gold.TABLES.declared())
BATCH = (
    *(source.bronze_table for source in SOURCES.values()),
    *(one.target for one in silver.TABLES.declared()),
    *GOLD,
)

_INTERVAL = re.compile(r"(?:interval )?(\d+) (hour|day|week)s?", re.IGNORECASE)


@check(
    20,
    "The same answer from fewer files: ZORDER and clustering read less than the unordered files, for both columns",
    cause="the cells that measure were not all run; run the notebook again from its top",
)
def _fewer_files(context: Context) -> Finding:
    several, as_many, measured, missing = numbers(
        context,
        f"""
        WITH plain AS (SELECT * FROM {FILES_READ} WHERE layout = '{UNORDERED}')
        SELECT (SELECT count(*) FROM (SELECT filter FROM {FILES_READ} GROUP BY filter
                  HAVING count(DISTINCT struct(orders, revenue)) > 1)),
               count_if(m.files_read * p.files_there >= p.files_read * m.files_there), count(*),
               {len(ORDERED) * len(BY_COLUMN)} - count(*)
        FROM {FILES_READ} AS m JOIN plain AS p USING (filter)
        WHERE m.layout IN {ORDERED} AND filter IN {BY_COLUMN}
        """,
    )
    wrong = {
        "filters with different answers": several,
        "measurements that read no smaller share of the files": as_many,
        "measurements missing": missing,
    }
    return finding(wrong, f"a smaller share of the files in {measured} of {measured}, the same answers")


@check(
    20,
    "FR-011: no file that was replaced in the last seven days is missing, and no table keeps its files for less",
    cause="VACUUM ran with the check of the retention switched off, or a file was deleted by hand; "
    "`shopmetrics pipeline run --full` makes silver and gold again",
    local_only=True,
)
def _retention(context: Context) -> Finding:
    since = time.time() - RETENTION.total_seconds()
    wrong = []
    for table in BATCH:
        path = catalog.table_path(table, context.settings)
        missing, keeps = _missing(path, since), _kept_for(path)
        wrong += [f"{table}: {missing:,} files missing"] * bool(missing)
        wrong += [f"{table} keeps its files for {keeps}"] * bool(keeps)
    expected = f"every file of {len(BATCH)} tables"
    return Finding("; ".join(wrong) or expected, expected)


def _missing(table: Path, since: float) -> int:
    """Return how many files are gone that a version of a table needs, or needed after that moment."""
    needed: set[str] = set()
    for commit in sorted((table / "_delta_log").glob("*.json")):
        for line in commit.read_text(encoding="utf-8").splitlines():
            action = json.loads(line)
            if added := action.get("add"):
                needed.add(added["path"])
            if (removed := action.get("remove")) and removed.get("deletionTimestamp", 0) < since * 1000:
                needed.discard(removed["path"])
    return sum(not (table / unquote(path)).exists() for path in needed)


def _kept_for(table: Path) -> str:
    """Return for how long a table keeps replaced files, by its newest metadata, if that is less than seven days."""
    kept = ""
    for commit in sorted((table / "_delta_log").glob("*.json")):
        for line in commit.read_text(encoding="utf-8").splitlines():
            if line.startswith('{"metaData"'):
                kept = json.loads(line)["metaData"]["configuration"].get("delta.deletedFileRetentionDuration", "")
    found = _INTERVAL.fullmatch(kept)
    return kept if kept and not (found and timedelta(**{f"{found[2].lower()}s": int(found[1])}) >= RETENTION) else ""


@check(
    20,
    "FR-011: every table of gold is laid out as it is declared, since its rows changed last",
    cause="gold has changed since; `shopmetrics maintain` lays it out",
)
def _laid_out(context: Context) -> Finding:
    waiting = [table for table in GOLD if waits_for_layout(context.spark, table)]
    expected = f"{len(GOLD)} tables laid out"
    return Finding("; ".join(f"{table} waits" for table in waiting) or expected, expected)


@check(
    20,
    "FR-012: every table of bronze, silver and gold has the tags that are declared for it and its columns",
    cause="a table was made again, or a tag was taken off; `shopmetrics tags --apply` sets what is missing",
)
def _tags(context: Context) -> Finding:
    missing, there = [], 0
    for table in BATCH:
        found = set(tags.of_table(context.spark, table))
        for tag in tags.declared(table, context.spark.table(table).columns):
            there += 1
            if tag not in found:
                missing.append(f"{table} lacks {'.'.join(filter(None, (tag.column, tag.name)))}")
    expected = f"{there} tags of {len(BATCH)} tables"
    return Finding("; ".join(missing) or expected, expected)


@check(
    20,
    "The tables of the experiments are gone",
    cause="the notebook stopped before its last section; DROP SCHEMA layout CASCADE",
)
def _cleaned_up(context: Context) -> Finding:
    left = context.spark.catalog.databaseExists(LAYOUT)
    return Finding(f"the schema {LAYOUT}" if left else "none left", "none left")
