"""The reports of checks; and day 3's checks, which need only files, each against files with a mistake."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from generators import generate
from generators.manifest import Manifest
from shared.bronze.contracts import SOURCES
from shared.course import checks, days
from shared.course.checks import Result, check_day, raise_if_failed, registry, results, week1
from shared.course.checks.registry import Finding
from shared.errors import CourseError, SourceError
from shared.settings import Settings

NO_ENGINE = cast(Any, None)


def result(ok: bool, name: str = "The file is there") -> Result:
    return Result(3, name, ok, found="nothing", expected="a file", cause="it was not written")


@pytest.fixture
def only_check(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Finding]], None]:
    """Makes one function the only check of day 3."""
    monkeypatch.setattr(registry, "BY_DAY", {})
    return lambda function: registry.check(3, "It holds", cause="it does not")(function) and None


def test_every_day_has_checks_whose_names_are_sentences() -> None:
    for day in days.DAYS:
        entries = checks.BY_DAY[day.number]
        assert len({entry.name for entry in entries}) == len(entries) > 0
        assert all(" " in entry.name and entry.cause for entry in entries)


def test_every_law_says_which_tables_it_speaks_of() -> None:
    entries = [entry for of_day in checks.BY_DAY.values() for entry in of_day]
    laws = {entry.name.partition(":")[0] for entry in entries if entry.tables}
    assert laws == {f"Law {number}" for number in (1, 2, 3, 5, 6)}
    assert laws == {entry.name.partition(":")[0] for entry in entries if entry.name.startswith("Law ")}


def test_a_check_passes_if_what_was_found_is_what_was_expected(only_check: Any, settings: Settings) -> None:
    only_check(lambda context: Finding("3 rows", "3 rows"))
    assert [entry.ok for entry in check_day(3, NO_ENGINE, settings)] == [True]


@pytest.mark.parametrize("finding", [Finding("2 rows", "3 rows"), Finding("3 rows", "3 rows", ok=False)])
def test_a_check_fails_otherwise(only_check: Any, settings: Settings, finding: Finding) -> None:
    only_check(lambda context: finding)
    (found,) = check_day(3, NO_ENGINE, settings)
    assert not found.ok
    assert (found.found, found.expected, found.cause) == (finding.found, finding.expected, "it does not")


@pytest.mark.parametrize("error", [SourceError("no file", "write it"), FileNotFoundError("no file")])
def test_what_cannot_be_read_fails_the_check(only_check: Any, settings: Settings, error: Exception) -> None:
    def check(context: registry.Context) -> Finding:
        raise error

    only_check(check)
    (found,) = check_day(3, NO_ENGINE, settings)
    assert (found.ok, found.found) == (False, "no file")


def test_a_session_is_made_only_where_a_check_asks_for_one(
    only_check: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Settings] = []
    monkeypatch.setattr(registry, "connect", lambda settings: made.append(settings) or "a session")
    only_check(lambda context: Finding("nothing asked", "nothing asked"))
    assert [entry.ok for entry in check_day(3, settings=settings)] == [True]
    assert made == []
    only_check(lambda context: Finding(f"{context.spark} {context.spark}", "a session a session"))
    assert [entry.ok for entry in check_day(3, settings=settings)] == [True, True]
    assert made == [settings]
    assert [entry.ok for entry in check_day(3, cast(Any, "given"), settings)] == [True, False]
    assert made == [settings]


def test_a_mistake_in_a_check_is_not_taken_for_a_finding(only_check: Any, settings: Settings) -> None:
    only_check(lambda context: context.no_such_thing)
    with pytest.raises(AttributeError):
        check_day(3, NO_ENGINE, settings)


def test_a_day_without_a_check_is_refused(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setattr(registry, "BY_DAY", {})
    with pytest.raises(CourseError, match="Day 3 has no check"):
        check_day(3, NO_ENGINE, settings)


def test_the_table_says_what_was_found_and_leaves_the_reasons_to_the_error() -> None:
    passed = results.as_table([result(True)])
    assert passed.columns == ["check", "result", "found"]
    assert passed.title == "Day 3: 1 of 1 checks passed"
    failed = results.as_table([result(True), result(False)])
    assert failed.columns == ["check", "result", "found"]
    assert failed.title == "Day 3: 1 of 2 checks passed"
    assert [[cell.text for cell in row[1:]] for row in failed.rows] == [["passed", "nothing"], ["FAILED", "nothing"]]


def test_all_failures_are_raised_together() -> None:
    raise_if_failed([result(True)])
    with pytest.raises(CourseError) as caught:
        raise_if_failed([result(True), result(False, "First"), result(False, "Second")])
    assert caught.value.problem.startswith("Day 3: 2 of 3 checks failed.\n  - First\n")
    assert "  - Second\n      found:       nothing\n      expected:    a file\n" in caught.value.problem


@pytest.mark.parametrize("ok", [True, False])
def test_a_report_leaves_a_receipt_also_if_it_fails(
    only_check: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch, ok: bool
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, **options: shown.append(bundle))
    only_check(lambda context: Finding("", "", ok=ok))
    if ok:
        checks.report(3, NO_ENGINE, settings)
    else:
        with pytest.raises(CourseError, match="Day 3: 1 of 1 checks failed"):
            checks.report(3, NO_ENGINE, settings)
    assert f"Day 3: {int(ok)} of 1 checks passed" in shown[0]["text/plain"]
    assert [entry["ok"] for entry in json.loads(checks.receipt_path(3, settings).read_text())] == [ok]


# Day 3: files. They are generated once, and each test makes a mistake in its own copy.

MANIFEST = "The manifest lists files of customers and orders, the historical load first"
FILES = "Every listed file is there, with the bytes and the lines that the manifest states"
DEFECTS = "The historical load has defects at the stated rate"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    landing = tmp_path_factory.mktemp("generated")
    generate(landing, scale=0.02, seed=42, defects=0.05, days=2, progress=False)
    return landing


@pytest.fixture
def landing(generated: Path, settings: Settings) -> Path:
    shutil.copytree(generated, settings.raw)
    return settings.raw


def failures(settings: Settings) -> dict[str, str]:
    return {entry.name: entry.found for entry in check_day(3, NO_ENGINE, settings) if not entry.ok}


def csv(landing: Path) -> Path:
    (file,) = (landing / "orders" / "2025-12-31").glob("*.csv")
    return file


def edit(landing: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = landing / "manifest.json"
    content = json.loads(manifest.read_text())
    change(content)
    manifest.write_text(json.dumps(content))


def test_day_3_passes_on_what_the_generators_wrote(landing: Path, settings: Settings) -> None:
    assert failures(settings) == {}


def test_day_3_passes_on_clean_files(settings: Settings) -> None:
    generate(settings.raw, scale=0.02, seed=42, defects=0, days=1, progress=False)
    assert failures(settings) == {}


def test_day_3_fails_if_nothing_was_generated(settings: Settings) -> None:
    assert set(failures(settings)) == {MANIFEST, FILES, DEFECTS}


def test_day_3_fails_if_a_generator_was_left_out(landing: Path, settings: Settings) -> None:
    edit(landing, lambda content: content["tables"].pop("orders"))
    assert set(failures(settings)) == {MANIFEST, DEFECTS}
    assert "no historical load of orders" in failures(settings)[DEFECTS]


def test_day_3_fails_if_the_generators_ran_for_different_days(landing: Path, settings: Settings) -> None:
    edit(landing, lambda content: content["tables"]["orders"].pop("2026-01-02"))
    assert set(failures(settings)) == {MANIFEST}


def test_day_3_fails_if_a_file_is_missing(landing: Path, settings: Settings) -> None:
    file = csv(landing)
    file.unlink()
    assert failures(settings) == {FILES: f"orders/2025-12-31/{file.name} is missing"}


def test_day_3_fails_if_a_line_was_lost(landing: Path, settings: Settings) -> None:
    file = csv(landing)
    file.write_bytes(file.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[0] + b"\n")
    assert set(failures(settings)) == {FILES}
    assert "bytes, not" in failures(settings)[FILES]


def test_day_3_fails_if_a_value_was_changed(landing: Path, settings: Settings) -> None:
    file = csv(landing)
    content = file.read_bytes()
    file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    assert failures(settings) == {FILES: f"orders/2025-12-31/{file.name} has other content"}


def test_day_3_fails_if_the_manifest_miscounts(landing: Path, settings: Settings) -> None:
    edit(landing, lambda content: content["tables"]["orders"]["2025-12-31"]["files"][0].update(rows=1))
    assert "lines below its header, not 1" in failures(settings)[FILES]


@pytest.mark.parametrize("change", [{"defects": 0.1}, {"defects": 0.0}])
def test_day_3_fails_if_the_defects_are_not_at_the_stated_rate(
    landing: Path, settings: Settings, change: dict[str, float]
) -> None:
    edit(landing, lambda content: content.update(change))
    assert set(failures(settings)) == {DEFECTS}


def test_day_3_fails_if_a_kind_of_defect_was_not_counted(landing: Path, settings: Settings) -> None:
    edit(landing, lambda content: content["tables"]["customers"]["2025-12-31"]["defects"].pop("tie"))
    assert set(failures(settings)) == {DEFECTS}


# Day 1: lineage. Day 4: counts. The tests give the engine's answers.


def outcome(day: int, name: str, settings: Settings, **known: Any) -> tuple[bool, str]:
    """Return whether the check of this name passes, and its finding, in a context with these answers."""
    context = registry.Context(NO_ENGINE, settings)
    vars(context).update(known)
    (entry,) = [entry for entry in checks.BY_DAY[day] if entry.name == name]
    found = entry.run(context)
    return (found.found == found.expected if found.ok is None else found.ok), found.found


LINEAGE = "Lineage has a completed event whose output is ops.first_table"


def event(kind: str, table: str) -> str:
    output = {"name": "/lake/x", "facets": {"symlinks": {"identifiers": [{"name": table}]}}}
    return json.dumps({"eventType": kind, "outputs": [output]}) + "\n"


@pytest.mark.parametrize(
    ("events", "ok"),
    [
        (event("START", "ops.first_table") + event("COMPLETE", "ops.first_table"), True),
        (event("START", "ops.first_table"), False),
        (event("COMPLETE", "ops.other"), False),
        (json.dumps({"eventType": "COMPLETE", "outputs": [{"name": "/lake/x"}]}) + "\n", False),
        (event("COMPLETE", "ops.first_table")[:-1], False),  # still being written
        (None, False),
    ],
)
def test_day_1_wants_a_completed_event_for_its_table(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, events: str | None, ok: bool
) -> None:
    monkeypatch.setattr(week1, "LINEAGE_TIMEOUT", 0.05)
    if events is not None:
        settings.lineage.mkdir(parents=True)
        (settings.lineage / "events.jsonl").write_text(events)
    assert outcome(1, LINEAGE, settings)[0] is ok


ROWS = "AC-001: every bronze table has as many rows as its files have lines, by the manifest"
ONCE = "Every file in the landing volume was ingested, and exactly once"
MALFORMED = "Malformed lines are kept, as many as were injected"

Ingested = dict[str, dict[str, tuple[int, int]]]


def as_ingested(landing: Path) -> Ingested:
    """Return the content of bronze after a correct ingestion: for each file its rows, and how many are malformed."""
    manifest = Manifest.load(landing)
    ingested: Ingested = {}
    for source, batches in manifest.tables.items():
        ingested[source] = {}
        for batch in batches.values():
            malformed = batch.defects.get("malformed_line", 0)
            for file in batch.files:
                # A redelivered file has the same malformed row as the original.
                ingested[source][file.path] = (file.rows, 1 if file.redelivery_of else malformed)
                malformed = malformed if file.redelivery_of else 0
    return ingested


def verdicts(settings: Settings, ingested: Ingested) -> dict[str, str]:
    outcomes = {name: outcome(4, name, settings, ingested=ingested) for name in (ROWS, ONCE, MALFORMED)}
    return {name: found for name, (ok, found) in outcomes.items() if not ok}


def test_day_4_passes_if_every_line_is_there_once(landing: Path, settings: Settings) -> None:
    ingested = as_ingested(landing)
    assert any(file.redelivery_of for file in Manifest.load(landing).files())
    assert verdicts(settings, ingested) == {}


def test_day_4_fails_if_a_row_is_lost(landing: Path, settings: Settings) -> None:
    ingested = as_ingested(landing)
    file, (rows, malformed) = next(iter(ingested["orders"].items()))
    ingested["orders"][file] = (rows - 1, malformed)
    found = verdicts(settings, ingested)
    assert set(found) == {ROWS, ONCE}
    assert found[ONCE] == f"{file}: {rows - 1:,} rows for {rows:,} lines"


def test_day_4_fails_if_one_file_is_there_twice_and_as_many_rows_of_another_are_lost(
    landing: Path, settings: Settings
) -> None:
    ingested = as_ingested(landing)
    by_size = sorted(ingested["orders"].items(), key=lambda item: item[1])
    (small, (few, bad)), (large, (many, worse)) = by_size[0], by_size[-1]
    ingested["orders"] |= {small: (2 * few, bad), large: (many - few, worse)}
    assert set(verdicts(settings, ingested)) == {ONCE}


def test_day_4_fails_if_a_file_was_left_out(landing: Path, settings: Settings) -> None:
    ingested = as_ingested(landing)
    file = next(iter(ingested["products"]))
    del ingested["products"][file]
    assert verdicts(settings, ingested)[ONCE].startswith(f"{file}: 0 rows for")


@pytest.mark.parametrize("change", [-1, 1])
def test_day_4_fails_if_malformed_lines_are_not_those_injected(landing: Path, settings: Settings, change: int) -> None:
    ingested = as_ingested(landing)
    file, (rows, malformed) = next(iter(ingested["orders"].items()))
    ingested["orders"][file] = (rows, malformed + change)
    assert set(verdicts(settings, ingested)) == {MALFORMED}


def test_day_4_allows_a_file_of_the_learners_own_and_counts_it(landing: Path, settings: Settings) -> None:
    ingested = as_ingested(landing)
    own = landing / "products" / "2026-01-01" / "own.csv"
    own.write_text(f"{','.join(SOURCES['products'].column_names)}\nP-1\nP-2\n\n")
    name = "products/2026-01-01/own.csv"
    assert verdicts(settings, ingested) == {ONCE: f"{name}: 0 rows for 2 lines"}
    ingested["products"][name] = (2, 0)
    assert verdicts(settings, ingested) == {}
    own.unlink()
    assert verdicts(settings, ingested) == {ONCE: f"{name} is not in the landing volume"}
