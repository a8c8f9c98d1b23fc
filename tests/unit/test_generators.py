"""The guarantees of the generated files: the same bytes, a plausible shop, and defects that can be counted."""

from __future__ import annotations

import contextlib
import csv
import doctest
import hashlib
import importlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import faker
import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from generators import defects, demand, generate, landing, pools, random_streams
from generators.manifest import Manifest
from generators.plan import TABLES, GeneratorError
from shared import clock

COLUMNS = {
    "customers": [
        "customer_id",
        "first_name",
        "last_name",
        "email",
        "phone",
        "address",
        "city",
        "state",
        "postal_code",
        "country",
        "segment",
        "signup_date",
        "is_deleted",
        "updated_at",
    ],
    "products": ["product_id", "product_name", "category", "brand", "list_price", "is_active", "updated_at"],
    "orders": [
        "order_id",
        "customer_id",
        "product_id",
        "order_ts",
        "quantity",
        "unit_price",
        "discount_pct",
        "status",
        "payment_method",
        "updated_at",
    ],
}
LIVES = (
    ("pending", "confirmed", "shipped", "delivered", "returned"),
    ("pending", "confirmed", "cancelled"),
    ("pending", "cancelled"),
)
Row = dict[str, str]


def csv_files(out: Path) -> dict[str, str]:
    """The SHA-256 of every CSV file below a directory, by path."""
    files = sorted(out.rglob("*.csv"))
    return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def lines(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.reader(file)


def batches(out: Path, table: str) -> dict[str, list[list[str]]]:
    """The lines of all files of each batch date, without headers."""
    found: dict[str, list[list[str]]] = {}
    for folder in sorted((out / table).glob("*")):
        found[folder.name] = []
        for path in sorted(folder.glob("*.csv")):
            header, *rest = lines(path)
            assert header == COLUMNS[table]
            found[folder.name] += rest
    return found


def rows(out: Path, table: str, days: Iterable[int] | None = None) -> list[Row]:
    """The rows of clean files, of all batches or of some days."""
    chosen = None if days is None else {clock.batch_date(day).isoformat() for day in days}
    return [
        dict(zip(COLUMNS[table], line, strict=True))
        for batch_date, found in batches(out, table).items()
        if chosen is None or batch_date in chosen
        for line in found
    ]


def timestamp(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S")


PARSERS = {
    "order_ts": timestamp,
    "updated_at": timestamp,
    "signup_date": date.fromisoformat,
    "quantity": int,
    "discount_pct": int,
    "unit_price": Decimal,
    "list_price": Decimal,
    "is_deleted": ["false", "true"].index,
    "is_active": ["false", "true"].index,
}


def fits(table: str, line: list[str]) -> bool:
    if len(line) != len(COLUMNS[table]):
        return False
    try:
        for column, field in zip(COLUMNS[table], line, strict=True):
            PARSERS.get(column, str)(field)
    except (ValueError, ArithmeticError):
        return False
    return True


def find_defects(out: Path) -> dict[str, dict[str, Counter[str]]]:
    """Find defects by the descriptions in ``HOW_TO_FIND``; the search uses nothing of the generators."""
    found: dict[str, dict[str, Counter[str]]] = {}
    delivered_keys: dict[str, dict[str, set[str]]] = {}
    for table in TABLES:
        found[table], delivered_keys[table] = {}, {}
        earlier: set[tuple[str, ...]] = set()
        newest: dict[str, str] = {}
        keys: set[str] = set()
        for batch_date, delivered in batches(out, table).items():
            counts: Counter[str] = Counter()
            seen: set[tuple[str, ...]] = set()
            versions: set[tuple[str, str]] = set()
            for line in delivered:
                row = dict(zip(COLUMNS[table], line, strict=False))
                if tuple(line) in earlier:
                    counts["redelivered_file"] += 1
                    continue
                if not fits(table, line):
                    counts["malformed_line"] += 1
                    continue
                key = line[0]
                keys |= {key} - {""}
                if key == "":
                    counts["null_key"] += 1
                elif table == "customers" and row["email"] == "":
                    counts["null_email"] += 1
                elif table == "customers" and not re.fullmatch(r"[^@ ]+@[^@ ]+\.[^@ ]+", row["email"]):
                    counts["malformed_email"] += 1
                elif table == "orders" and int(row["quantity"]) <= 0:
                    counts["non_positive_quantity"] += 1
                elif table == "orders" and row["product_id"] not in delivered_keys["products"][batch_date]:
                    counts["unknown_product"] += 1
                elif table == "orders" and row["customer_id"] not in delivered_keys["customers"][batch_date]:
                    counts["early_arriving_customer"] += 1
                elif table == "orders" and row["status"] not in defects.STATUSES:
                    counts["impossible_status"] += 1
                elif tuple(line) in seen:
                    counts["duplicate_row"] += 1
                elif (key, row["updated_at"]) in versions:
                    counts["tie"] += 1
                elif row["updated_at"] < newest.get(key, ""):
                    counts["late_update"] += 1
                seen.add(tuple(line))
                versions.add((key, row["updated_at"]))
            earlier |= {tuple(line) for line in delivered}
            for key, updated_at in versions:
                newest[key] = max(newest.get(key, ""), updated_at)
            found[table][batch_date] = counts
            delivered_keys[table][batch_date] = set(keys)
    return found


def injected(manifest: Manifest) -> dict[str, dict[str, Counter[str]]]:
    return {
        table: {batch_date: +Counter(entry.defects) for batch_date, entry in entries.items()}
        for table, entries in manifest.tables.items()
    }


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clean")
    generate(out, scale=0.2, seed=7, defects=0, days=6)
    return out


@pytest.fixture(scope="module")
def flawed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("flawed")
    generate(out, scale=0.2, seed=7, defects=0.03, days=8)
    return out


# --- the same bytes ---------------------------------------------------------------------------------------


def test_bytes_are_those_of_every_machine(tmp_path: Path) -> None:
    """If this test fails, the same seed gives other files than before: raise VERSION in generators/plan.py."""
    generate(tmp_path, scale=0.02, seed=42, defects=0.05, days=3)
    digest = {table: hashlib.sha256() for table in TABLES}
    for name, sha256 in csv_files(tmp_path).items():
        digest[name.split("/")[0]].update(f"{name} {sha256}\n".encode())
    assert {table: d.hexdigest() for table, d in digest.items()} == {
        "customers": "cf69e5143fd33dfb7f2a5a6b088053963a0889e766927384e58296c9959e4969",
        "products": "7d676746301cc45c76cb50a53ea96eed03a8b263169948d4c8816409ba31b1cf",
        "orders": "5c0cec47764d851f2713bbbb494aae15008cf95076b7752a33c6566c9a743ded",
    }


def test_manifest_describes_the_files_as_they_are(flawed: Path) -> None:
    manifest = Manifest.load(flawed)
    listed = manifest.files()
    assert {file.path: file.sha256 for file in listed} == csv_files(flawed)
    for file in listed:
        assert (flawed / file.path).stat().st_size == file.bytes
        assert sum(1 for _ in lines(flawed / file.path)) - 1 == file.rows
    assert sum(file.rows for file in listed) == sum(manifest.rows(table) for table in TABLES)


def test_format_is_utf8_with_line_feeds_and_quotes_only_where_needed(flawed: Path) -> None:
    for path in flawed.rglob("*.csv"):
        content = path.read_bytes()
        assert b"\r" not in content
        assert content.endswith(b"\n")
        content.decode("utf-8")
    text = (flawed / "customers/2025-12-31/customers_historical.csv").read_text(encoding="utf-8")
    quoted = re.findall(r'"([^"]*)"', text)
    assert quoted
    assert all("," in field for field in quoted)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_alone_has_the_same_files_as_with_the_others(table: str, tmp_path: Path) -> None:
    generate(tmp_path / "all", scale=0.02, days=3)
    generate(tmp_path / "one", scale=0.02, days=3, tables=[table])
    alone = csv_files(tmp_path / "one")
    assert alone
    assert alone == {name: h for name, h in csv_files(tmp_path / "all").items() if name.startswith(table)}


def test_size_of_chunks_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(tmp_path / "large", scale=0.02, defects=0.1)
    monkeypatch.setattr(landing, "ROWS_PER_CHUNK", 77)
    generate(tmp_path / "small", scale=0.02, defects=0.1)
    assert csv_files(tmp_path / "small") == csv_files(tmp_path / "large")


def test_large_load_is_several_files_with_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generate(tmp_path / "one", scale=0.02, tables=["orders"])
    monkeypatch.setattr(landing, "ROWS_PER_FILE", 900)
    parts = generate(tmp_path / "many", scale=0.02, tables=["orders"])
    names = [Path(file.path).name for file in parts.files()]
    assert names == ["orders_historical_0001.csv", "orders_historical_0002.csv", "orders_historical_0003.csv"]
    assert batches(tmp_path / "many", "orders") == batches(tmp_path / "one", "orders")
    assert parts.rows("orders") == whole.rows("orders")


def test_another_seed_gives_other_files(tmp_path: Path) -> None:
    generate(tmp_path / "a", scale=0.01, seed=1)
    generate(tmp_path / "b", scale=0.01, seed=2)
    assert not set(csv_files(tmp_path / "a").values()) & set(csv_files(tmp_path / "b").values())


def test_stream_is_splitmix64() -> None:
    """Compares the stream with the algorithm in Python's own integers."""
    stream = random_streams.Stream(42, "x")
    key = int.from_bytes(hashlib.sha256(b"42/x").digest()[:8], "little")

    def splitmix64(index: int) -> int:
        mask = (1 << 64) - 1
        word = (index * 0x9E3779B97F4A7C15 + key) & mask
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
        return word ^ (word >> 31)

    index = np.array([0, 1, 2, 10**9], dtype=np.int64)
    assert stream.words(index).tolist() == [splitmix64(i) for i in index.tolist()]


@settings(deadline=None)
@given(population=st.integers(0, 300), count=st.integers(0, 300))
def test_sample_is_of_different_members_in_their_order(population: int, count: int) -> None:
    stream, members = random_streams.Stream(1, "sample"), range(5, 5 + 3 * population, 3)
    sample = stream.sample(members, count).tolist()
    assert len(sample) == min(population, count)
    assert sample == sorted(set(sample))
    assert set(sample) <= set(members)
    assert stream.sample(np.array(members, dtype=np.int64), count).tolist() == sample


def test_pools_are_what_faker_makes() -> None:
    kept = json.loads(pools.POOLS_FILE.read_text(encoding="utf-8"))
    if kept["made_by"] != f"Faker {faker.VERSION}":
        pytest.skip(f"the pools were made by {kept['made_by']}, Faker {faker.VERSION} has other words")
    assert json.loads(json.dumps(pools.make_pools())) == kept


# --- adding days, being interrupted -----------------------------------------------------------------------


def test_more_days_leave_the_earlier_files_untouched(tmp_path: Path) -> None:
    generate(tmp_path, scale=0.02, days=2)
    before = {path: path.stat() for path in tmp_path.rglob("*.csv")}
    generate(tmp_path, scale=0.02, days=5)
    generate(tmp_path / "at once", scale=0.02, days=5)
    for path, stat in before.items():
        after = path.stat()
        assert (after.st_ino, after.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    at_once = csv_files(tmp_path / "at once")
    assert len(at_once) > len(before)
    assert {name: h for name, h in csv_files(tmp_path).items() if not name.startswith("at once")} == at_once
    assert Manifest.load(tmp_path).tables == Manifest.load(tmp_path / "at once").tables


def test_asking_again_writes_nothing(tmp_path: Path) -> None:
    generate(tmp_path, scale=0.01, days=2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    generate(tmp_path, scale=0.01, days=1)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    assert {path: t for path, t in after.items() if path.name != ".generate.lock"} == {
        path: t for path, t in before.items() if path.name != ".generate.lock"
    }


@pytest.mark.parametrize(("name", "other"), [("seed", 8), ("scale", 0.02), ("defects", 0.05)])
def test_other_arguments_in_the_same_directory_are_refused(tmp_path: Path, name: str, other: float) -> None:
    arguments = {"seed": 7, "scale": 0.01, "defects": 0.01}
    generate(tmp_path, **arguments)
    before = csv_files(tmp_path)
    with pytest.raises(GeneratorError) as error:
        generate(tmp_path, **{**arguments, name: other}, days=1)
    assert f"{name}={arguments[name]:g}" in str(error.value)
    assert f"{name}={other:g}" in str(error.value)
    assert "--out" in error.value.hint
    assert csv_files(tmp_path) == before


DIES = """
import os, signal, sys
from generators import generate, landing
landing.ROWS_PER_CHUNK = 500
texts = landing._texts
def dying(header, chunks):
    for n, text in enumerate(texts(header, chunks)):
        yield text
        if header.startswith(b"order_id") and n == 2:
            os.kill(os.getpid(), signal.SIGKILL)
landing._texts = dying
generate(sys.argv[1], scale=0.02, days=2)
"""


def test_a_killed_run_leaves_no_half_file_and_is_completed_by_the_same_call(tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    ended = subprocess.run([sys.executable, "-c", DIES, str(killed)], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in killed.rglob("*.part")] == [".orders_historical.csv.part"]
    assert sorted(csv_files(killed)) == [
        "customers/2025-12-31/customers_historical.csv",
        "products/2025-12-31/products_historical.csv",
    ]
    assert not (killed / "manifest.json").exists()

    with pytest.raises(GeneratorError, match=r"seed=42.*seed=43"):
        generate(killed, scale=0.02, seed=43, days=2)

    manifest = generate(killed, scale=0.02, days=2)
    generate(tmp_path / "whole", scale=0.02, days=2)
    assert csv_files(killed) == csv_files(tmp_path / "whole")
    assert manifest.tables == Manifest.load(tmp_path / "whole").tables
    assert not list(killed.rglob("*.part"))
    assert not list(killed.glob(".unfinished*"))


def test_second_run_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".generate.lock"), pytest.raises(GeneratorError, match=f"another run .* {tmp_path}"):
        generate(tmp_path, scale=0.01)
    assert generate(tmp_path, scale=0.01).rows("orders") > 0


def test_full_disk_is_an_error_that_names_file_and_free_space(tmp_path: Path) -> None:
    """The operating system really refuses the write: no file of this process may be longer than 64 kB."""
    pytest.importorskip("resource")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "from generators import generate; generate(sys.argv[1], scale=0.02, tables=['orders'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True, timeout=60
    )
    assert "GeneratorError" in ended.stderr
    assert str(tmp_path / "orders/2025-12-31/orders_historical.csv") in ended.stderr
    assert re.search(r"[\d,]+ MB free", ended.stderr)
    assert "--scale" in ended.stderr
    assert not list(tmp_path.rglob("*.csv"))
    assert not list(tmp_path.rglob("*.part"))


def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GeneratorError, match=r"file.raw cannot be written.*MB free") as error:
        generate(tmp_path / "file" / "raw", scale=0.01)
    assert "--out" in error.value.hint


def test_listed_file_that_is_missing_or_shorter_is_named(tmp_path: Path) -> None:
    generate(tmp_path, scale=0.01, days=1)
    victim = tmp_path / "orders/2026-01-01/orders_incremental.csv"
    content = victim.read_bytes()
    victim.write_bytes(content[:-1])
    with pytest.raises(GeneratorError, match=f"{victim}.*{len(content)} bytes, but it has {len(content) - 1} bytes"):
        generate(tmp_path, scale=0.01, days=2)
    victim.unlink()
    with pytest.raises(GeneratorError, match=f"{victim}.*it is missing"):
        generate(tmp_path, scale=0.01, days=2)


def test_file_that_changed_is_not_delivered_again(tmp_path: Path) -> None:
    generate(tmp_path, scale=0.01, days=1)
    victim = tmp_path / "customers/2026-01-01/customers_incremental.csv"
    victim.write_bytes(victim.read_bytes().replace(b"example", b"EXAMPLE"))
    with pytest.raises(GeneratorError, match=f"{victim} has changed"):
        generate(tmp_path, scale=0.01, days=2)


def test_manifest_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match="does not exist"):
        Manifest.load(tmp_path)
    for content in ("{", "[]", '{"version": "1"}'):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(GeneratorError, match=r"manifest\.json is not a manifest"):
            generate(tmp_path, scale=0.01)
    (tmp_path / "manifest.json").write_text('{"version": "0"}')
    with pytest.raises(GeneratorError, match="written by version 0"):
        generate(tmp_path, scale=0.01)


def test_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "orders/2025-12-31/orders_historical.csv"
    mine.parent.mkdir(parents=True)
    mine.write_text("order_id\n")
    with pytest.raises(GeneratorError, match=f"{mine} is there already"):
        generate(tmp_path, scale=0.01)
    assert mine.read_text() == "order_id\n"


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"scale": 0}, "scale must be above 0"),
        ({"scale": -1}, "scale must be above 0"),
        ({"scale": float("nan")}, "scale must be above 0"),
        ({"scale": 1e9}, "at most 1000"),
        ({"seed": -1}, "seed must be a whole number, 0 or more"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"days": -1}, "days must be a whole number, 0 or more"),
        ({"days": 1.0}, "days must be a whole number"),
        ({"defects": -0.01}, "defects must be a share from 0 to 0.2"),
        ({"defects": 0.21}, "defects must be a share from 0 to 0.2"),
        ({"tables": ["order"]}, "'order' is not a table, did you mean 'orders'"),
        ({"tables": []}, "no table is chosen"),
    ],
)
def test_bad_argument_is_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, object], expected: str
) -> None:
    with pytest.raises(GeneratorError, match=re.escape(expected)) as error:
        generate(tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert error.value.hint
    assert not (tmp_path / "out").exists()


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )


def test_command_line_writes_one_table_and_keeps_standard_error_empty(tmp_path: Path) -> None:
    ended = run_module("generators.generate_products", "--scale", "0.1", "--days", "1", "--out", str(tmp_path))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "2026-01-01" in ended.stdout
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["products"]


def test_command_line_reports_an_error_without_a_traceback(tmp_path: Path) -> None:
    ended = run_module("generators.generate_orders", "--scale", "0", "--out", str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: scale must be above 0")
    assert "Traceback" not in ended.stderr


def test_bar_is_shown_on_a_terminal_only_if_it_takes_long(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    shown = {}
    for patience in (0, 60):
        code = (
            f"import generators.shop as s; s._Progress._PATIENCE = {patience}\n"
            f"s.generate({str(tmp_path / str(patience))!r}, scale=0.05)"
        )
        reader, terminal = pty.openpty()
        subprocess.run([sys.executable, "-c", code], check=True, stderr=terminal, timeout=60)
        os.close(terminal)
        shown[patience] = b""
        with contextlib.suppress(OSError):  # Linux raises it when the other end is closed
            while chunk := os.read(reader, 65536):
                shown[patience] += chunk
        os.close(reader)
    assert b"orders_historical.csv" in shown[0]
    assert shown[60] == b""


def test_help_has_an_example() -> None:
    ended = run_module("generators.generate_customers", "--help")
    assert ended.returncode == 0
    assert "Example: python -m generators.generate_customers" in ended.stdout


# --- defects ----------------------------------------------------------------------------------------------


def test_rate_0_gives_clean_files(clean: Path) -> None:
    assert not any(sum(counts.values()) for table in find_defects(clean).values() for counts in table.values())
    assert not any(sum(Manifest.load(clean).defects(table).values()) for table in TABLES)


def test_every_kind_is_found_as_often_as_it_was_injected(flawed: Path) -> None:
    manifest = Manifest.load(flawed)
    assert find_defects(flawed) == injected(manifest)
    kinds = {kind for table in TABLES for kind, count in manifest.defects(table).items() if count}
    assert kinds == set(defects.HOW_TO_FIND)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**63),
    scale=st.sampled_from([0.0001, 0.001, 0.01, 0.03]),
    rate=st.sampled_from([0.001, 0.01, 0.2]),
    days=st.integers(0, 4),
)
def test_injected_is_found_at_any_seed_scale_and_rate(
    tmp_path_factory: pytest.TempPathFactory, seed: int, scale: float, rate: float, days: int
) -> None:
    out = tmp_path_factory.mktemp("any")
    manifest = generate(out, seed=seed, scale=scale, defects=rate, days=days)
    assert find_defects(out) == injected(manifest)


def test_kinds_of_products_are_found_in_a_large_catalogue(tmp_path: Path) -> None:
    manifest = generate(tmp_path, scale=10, defects=0.05, days=3, tables=["products"])
    assert find_defects(tmp_path) == {**injected(manifest), "customers": {}, "orders": {}}
    assert all(manifest.defects("products", "2026-01-02").values())


@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_share_of_defective_rows_is_the_rate(tmp_path: Path, rate: float) -> None:
    manifest = generate(tmp_path, scale=1, defects=rate)
    for table, clean_rows in (("customers", 10_000), ("products", 1_000), ("orders", 100_000)):
        assert sum(manifest.defects(table).values()) / clean_rows == pytest.approx(rate, rel=0.05, abs=0.003)


def test_a_batch_of_100_rows_has_every_kind(tmp_path: Path) -> None:
    manifest = generate(tmp_path, scale=1, defects=0.001, days=2, tables=["customers", "orders"])
    for table in ("customers", "orders"):
        assert all(manifest.defects(table, "2026-01-02").values())


def test_redelivered_file_is_a_copy_under_another_name_in_a_later_folder(flawed: Path) -> None:
    copies = [file for file in Manifest.load(flawed).files("orders") if file.redelivery_of]
    assert [(file.path, file.redelivery_of) for file in copies] == [
        ("orders/2026-01-02/orders_incremental_resent.csv", "orders/2026-01-01/orders_incremental.csv"),
        ("orders/2026-01-07/orders_incremental_resent.csv", "orders/2026-01-06/orders_incremental.csv"),
    ]
    for file in copies:
        assert (flawed / file.path).read_bytes() == (flawed / str(file.redelivery_of)).read_bytes()


def test_early_customer_arrives_with_the_next_batch_and_had_signed_up(flawed: Path) -> None:
    customers = batches(flawed, "customers")
    dates = list(customers)
    first_seen: dict[str, int] = {}
    signed_up: dict[str, str] = {}
    for n, batch_date in enumerate(dates):
        for line in customers[batch_date]:
            if fits("customers", line) and line[0]:
                first_seen.setdefault(line[0], n)
                signed_up.setdefault(line[0], min(line[13], signed_up.get(line[0], "9")))
    early = 0
    for n, delivered in enumerate(batches(flawed, "orders").values()):
        for line in delivered:
            if len(line) == 10 and line[4].lstrip("-").isdigit() and first_seen.get(line[1], -1) > n:
                early += 1
                assert first_seen[line[1]] == n + 1
                assert signed_up[line[1]] <= line[3]
    assert early > 50


def test_late_update_of_an_order_brings_the_status_that_was_passed(flawed: Path) -> None:
    newest: dict[str, list[str]] = {}
    earlier: set[tuple[str, ...]] = set()
    late = 0
    for delivered in batches(flawed, "orders").values():
        good = [line for line in delivered if fits("orders", line) and tuple(line) not in earlier]
        for line in good:
            known = newest.get(line[0])
            if known and line[9] < known[9]:
                late += 1
                assert any(is_subsequence([line[7], known[7]], life) for life in LIVES)
        newest |= {line[0]: line for line in sorted(good, key=lambda line: line[9]) if line[0]}
        earlier |= {tuple(line) for line in good}
    assert late == Manifest.load(flawed).defects("orders")["late_update"] > 0


def test_malformed_lines_are_of_three_forms(flawed: Path) -> None:
    forms = Counter(len(line) for line in batches(flawed, "orders")["2025-12-31"] if not fits("orders", line))
    assert set(forms) == {9, 10, 11}


# --- the shop ---------------------------------------------------------------------------------------------


def test_historical_files_have_each_key_once(clean: Path) -> None:
    for table, expected in (("customers", 2_000), ("products", 200), ("orders", 20_000)):
        keys = [row[COLUMNS[table][0]] for row in rows(clean, table, [0])]
        assert len(keys) == len(set(keys)) == expected


def test_batch_holds_what_happened_up_to_its_date(clean: Path) -> None:
    for table in TABLES:
        for day in range(7):
            happened = {row["updated_at"][:10] for row in rows(clean, table, [day])}
            if day:
                assert happened == {clock.batch_date(day).isoformat()}
            else:
                assert min(happened) >= "2025-01-01"
                assert max(happened) <= "2025-12-31"


def test_orders_refer_to_customers_who_had_signed_up_and_to_products(clean: Path) -> None:
    signed_up = {row["customer_id"]: row["signup_date"] for row in rows(clean, "customers")}
    products = {row["product_id"] for row in rows(clean, "products")}
    for row in rows(clean, "orders"):
        assert signed_up[row["customer_id"]] <= row["order_ts"]
        assert row["product_id"] in products


def test_closed_customers_do_not_order_and_some_come_back(tmp_path: Path) -> None:
    generate(tmp_path, scale=1, defects=0, days=9)
    history: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows(tmp_path, "customers", range(1, 10)):
        history[row["customer_id"]].append((row["updated_at"], row["is_deleted"]))
    closed = {customer: h for customer, h in history.items() if ("true" in [deleted for _, deleted in h])}
    assert len(closed) > 50
    came_back = 0
    for row in rows(tmp_path, "orders", range(1, 10)):
        before = [deleted for when, deleted in closed.get(row["customer_id"], []) if when <= row["order_ts"]]
        if row["order_ts"] >= "2026-01-01":
            assert before[-1:] != ["true"]
    for h in closed.values():
        states = [deleted for _, deleted in sorted(h)]
        came_back += "true,false" in ",".join(states)
        assert "true,true" not in ",".join(states)
    assert came_back >= 5


def test_a_day_changes_about_2_percent_of_the_customers(clean: Path) -> None:
    known = {row["customer_id"]: row for row in rows(clean, "customers", [0])}
    kinds: Counter[str] = Counter()
    twice = 0
    for day in range(1, 7):
        delivered = rows(clean, "customers", [day])
        changed = {row["customer_id"] for row in delivered} & set(known)
        added = {row["customer_id"] for row in delivered} - set(known)
        assert len(changed) / len(known) == pytest.approx(0.02, abs=0.004)
        assert added
        twice += len(delivered) - len(changed) - len(added)
        for row in delivered:
            before = known.get(row["customer_id"])
            if before:
                different = {c for c in row if row[c] != before[c]} - {"updated_at"}
                assert row["updated_at"] > before["updated_at"]
                assert "country" not in different
                home = different & {"address", "city", "state", "postal_code"}
                assert not home or {"address", "city"} <= home
                kinds.update(different)
            known[row["customer_id"]] = row
    assert twice > 0
    assert {"email", "phone", "address", "city", "postal_code", "segment", "last_name", "is_deleted"} <= set(kinds)


def test_null_is_a_value_of_some_columns_only(clean: Path) -> None:
    empty = {column for row in rows(clean, "customers") for column, field in row.items() if field == ""}
    assert empty == {"phone", "address", "city", "state", "postal_code", "segment"}
    for table in ("products", "orders"):
        assert not any(field == "" for row in rows(clean, table) for field in row.values())


def test_unit_price_is_the_list_price_at_that_time(clean: Path) -> None:
    price: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows(clean, "products"):
        price[row["product_id"]].append((row["updated_at"], row["list_price"]))
    changed_today = checked = 0
    for row in rows(clean, "orders"):
        known = [p for since, p in price[row["product_id"]] if since <= row["order_ts"]]
        if known:  # otherwise the product changed after the order, and the historical file has only the new price
            assert row["unit_price"] == known[-1]
            checked += 1
            changed_today += len(price[row["product_id"]]) > 1
    assert checked > 3_000
    assert changed_today > 100


def test_late_and_tied_product_rows_do_not_contradict_the_prices_of_orders(tmp_path: Path) -> None:
    generate(tmp_path, scale=1, defects=0.1, days=6)
    price: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for delivered in batches(tmp_path, "products").values():
        for line in delivered:
            if fits("products", line) and line[0]:
                price[line[0]].append((line[6], line[4]))
    assert all(len({p for since, p in known if since == until}) == 1 for known in price.values() for until, _ in known)
    checked = 0
    for delivered in batches(tmp_path, "orders").values():
        for line in delivered:
            if fits("orders", line):
                known = [(since, p) for since, p in price[line[2]] if since <= line[3]]
                if known:
                    assert line[5] == max(known)[1]
                    checked += 1
    assert checked > 10_000


def test_price_of_a_product_changes_at_most_three_times_in_the_history(clean: Path) -> None:
    prices: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows(clean, "orders", [0]):
        prices[row["product_id"]].append((row["order_ts"], row["unit_price"]))
    runs = Counter(sum(1 for _ in itertools.groupby(sorted(p), key=lambda x: x[1])) for p in prices.values())
    assert max(runs) <= 4
    assert sum(runs[n] for n in (2, 3, 4)) > 50


def test_discontinued_products_are_not_sold(clean: Path) -> None:
    gone = {row["product_id"]: row["updated_at"] for row in rows(clean, "products") if row["is_active"] == "false"}
    assert gone
    assert not [row for row in rows(clean, "orders") if row["order_ts"] >= gone.get(row["product_id"], "9")]


def test_status_follows_a_life_cycle(clean: Path) -> None:
    history: dict[str, list[Row]] = defaultdict(list)
    for row in rows(clean, "orders"):
        history[row["order_id"]].append(row)
    moved = 0
    for deliveries in history.values():
        statuses = [row["status"] for row in deliveries]
        moved += len(statuses) > 1
        assert any(is_subsequence(statuses, life) for life in LIVES)
        assert [r["updated_at"] for r in deliveries] == sorted({r["updated_at"] for r in deliveries})
        unchanging = ("customer_id", "product_id", "order_ts", "quantity", "unit_price", "discount_pct")
        assert len({tuple(row[c] for c in unchanging) for row in deliveries}) == 1
    assert moved > 200
    old = [row for row in rows(clean, "orders", [0]) if row["order_ts"] < "2025-12-01"]
    assert {row["status"] for row in old} == {"delivered", "returned", "cancelled"}


def is_subsequence(statuses: list[str], life: tuple[str, ...]) -> bool:
    rest = iter(life)
    return all(status in rest for status in statuses)


def test_tiny_scale_still_has_a_few_of_everything(tmp_path: Path) -> None:
    manifest = generate(tmp_path, scale=0.0001, defects=0, days=3)
    assert (manifest.rows("customers", "2025-12-31"), manifest.rows("orders", "2025-12-31")) == (10, 50)
    assert len({row["category"] for row in rows(tmp_path, "products")}) == 8
    for table in TABLES:
        for day in (1, 2, 3):
            assert manifest.rows(table, clock.batch_date(day).isoformat()) >= 1


# --- realism ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def historical_orders(clean: Path) -> list[Row]:
    return rows(clean, "orders", [0])


def orders_per_day(orders: list[Row]) -> Counter[date]:
    return Counter(date.fromisoformat(row["order_ts"][:10]) for row in orders)


def mean_orders(per_day: Counter[date], days: Iterable[date]) -> float:
    return float(np.mean([per_day[day] for day in days]))


def test_weekends_sell_more(historical_orders: list[Row]) -> None:
    per_day = orders_per_day(historical_orders)
    weeks = [date(2025, 8, 4) + timedelta(days=n) for n in range(10 * 7)]
    weekend = mean_orders(per_day, [d for d in weeks if d.weekday() >= 5])
    assert 1.1 < weekend / mean_orders(per_day, [d for d in weeks if d.weekday() < 5]) < 1.5


@pytest.mark.parametrize("promotion", demand.PROMOTIONS, ids=lambda p: p.name)
def test_promotions_sell_more_at_higher_discounts(historical_orders: list[Row], promotion: demand.Promotion) -> None:
    per_day = orders_per_day(historical_orders)
    first = date(2025, promotion.month, promotion.day)
    during = [first + timedelta(days=n) for n in range(promotion.days)]
    before = [first - timedelta(days=n) for n in range(1, 15)]
    assert mean_orders(per_day, during) / mean_orders(per_day, before) > 1.3
    discount = {
        name: np.mean([int(r["discount_pct"]) for r in historical_orders if r["order_ts"][:10] in days])
        for name, days in (("during", set(map(str, during))), ("before", set(map(str, before))))
    }
    assert discount["during"] > 5 * discount["before"]


def test_evenings_sell_most_and_nights_least(historical_orders: list[Row]) -> None:
    per_hour = Counter(int(row["order_ts"][11:13]) for row in historical_orders)
    assert max(per_hour, key=per_hour.__getitem__) in (19, 20)
    assert min(per_hour, key=per_hour.__getitem__) in (2, 3, 4)


def gini(counts: Iterable[int]) -> float:
    ordered = np.sort(np.array(list(counts), dtype=float))
    n = len(ordered)
    return float(2 * (np.arange(1, n + 1) * ordered).sum() / (n * ordered.sum()) - (n + 1) / n)


def test_few_customers_and_products_make_most_orders(clean: Path, historical_orders: list[Row]) -> None:
    for column, table, low, high in (
        ("customer_id", "customers", 0.5, 0.75),
        ("product_id", "products", 0.4, 0.75),
    ):
        count = Counter({row[column]: 0 for row in rows(clean, table, [0])})
        count.update(row[column] for row in historical_orders)
        assert low < gini(count.values()) < high
        assert max(count.values()) < len(historical_orders) / 10


def test_customers_come_from_ten_countries(clean: Path) -> None:
    customers = rows(clean, "customers", [0])
    assert len({row["country"] for row in customers}) == 10
    assert len({row["email"] for row in customers}) == len(customers)
    assert any(not row["city"].isascii() for row in customers)
    assert all(row["email"].isascii() for row in customers)


@pytest.mark.parametrize("name", ["demand", "pools", "products", "random_streams"])
def test_examples_in_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"generators.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
