"""``shopmetrics stream run`` in a process of its own, as a user or a schedule starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import lake
import pytest
from streaming.clickstream_cases import TABLES, Sent, Traffic, computed, event

from shared.runtime import kafka
from shared.runtime import spark as engine
from shared.runtime.kafka import Cluster
from shared.settings import get_settings
from shared.streaming.contracts import EVENTS

SHOPMETRICS = Path(sys.executable).parent / "shopmetrics"


@pytest.fixture(scope="module")
def traffic(spark, cluster: Cluster) -> Traffic:
    """The topic that the command reads, without messages or tables. Each test continues from the one before."""
    kafka.delete_topic(cluster)
    made = Traffic(spark, cluster, get_settings(), kafka.TOPIC)
    made.clear()
    return made


def told(*command: str) -> tuple[int, dict[str, dict[str, object]]]:
    """Return a command's exit status, and its report about each item."""
    ended = subprocess.run([SHOPMETRICS, *command, "--json"], capture_output=True, text=True, timeout=300)
    answer = json.loads(ended.stdout)
    return ended.returncode, {one["name"]: one for one in answer} if isinstance(answer, list) else answer


def test_up_makes_a_topic_that_is_gone_and_status_and_doctor_know_the_servers(traffic):
    kafka.delete_topic(traffic.cluster)
    status, found = told("doctor", "--kafka")
    assert status == 1
    assert found.keys() == {"Metadata"}, "without a topic there is nothing to read"
    assert "`shopmetrics up`" in found["Metadata"]["advice"]

    up = subprocess.run([SHOPMETRICS, "up"], capture_output=True, text=True, timeout=300)
    assert up.returncode == 0, up.stderr
    traffic.send(event("a", 0))
    status, found = told("doctor", "--kafka")
    assert status == 0, found
    assert {one["verdict"] for one in found.values()} == {"ok"}
    assert found["Metadata"]["found"].endswith("3 partitions, 1 records so far")
    assert found["Batch read"]["found"].startswith("1 records are there")
    assert found["Stream"]["found"] == "read 1 records and ended by itself"

    servers = told("status")[1]
    findings = told("doctor")[1]
    for name, finding, record in (
        ("engine", "Engine", engine.running(traffic.home)),
        ("broker", "Kafka", kafka.running(traffic.home)),
    ):
        assert f"{name} running: pid {record.pid}, port {record.port}, " in up.stdout
        assert servers[name]["running"]
        assert servers[name]["pid"] == record.pid
        assert findings[finding]["verdict"] == "ok"
        assert f"running, pid {record.pid}, port {record.port}, " in findings[finding]["found"]


def logged(traffic: Traffic, run_id: str) -> dict[str, dict[str, object]]:
    """Return the log's rows of a run, by table."""
    rows = lake.rows(traffic.home.lakehouse, f"SELECT * FROM ops.run_log WHERE run_id = '{run_id}'")
    return {row.table_name: row._asdict() for row in rows}


def test_what_the_command_prints_for_programs_is_what_is_in_the_log(traffic):
    twice = event("b", 40, "purchase")
    traffic.send(event("a", 0), event("a", 10), twice, twice, Sent(None, b"garbage"))
    ended = subprocess.run([SHOPMETRICS, "stream", "run", "--json"], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    log = logged(traffic, told["run_id"])
    assert [one["table_name"] for one in told["tables"]] == list(TABLES)
    assert log.keys() == set(TABLES)
    for one in told["tables"]:
        row = log[one["table_name"]]
        alike = [name for name in row if name.startswith("rows_")] + ["status", "reason", "from_version", "to_version"]
        assert {name: one[name] for name in alike} == {name: row[name] for name in alike}
    events = log[EVENTS]
    counts = ("rows_read", "rows_accepted", "rows_quarantined", "rows_duplicate")
    received = traffic.assert_complete()
    assert [events[name] for name in counts] == [len(received), len(received) - 2, 1, 1]
    traffic.assert_equal(computed(one.value for one in received if one.key))


def test_live_it_shows_how_the_streams_stand_until_it_is_interrupted(traffic, tmp_path):
    traffic.send(event("a", 0))
    shown = tmp_path / "stderr"
    with shown.open("w") as stderr:
        process = subprocess.Popen(
            [SHOPMETRICS, "stream", "run", "--live"],
            # Without these variables there would be no display, because the output is not a terminal.
            env=os.environ | {"FORCE_COLOR": "1", "COLUMNS": "120"}, text=True, stdout=subprocess.PIPE, stderr=stderr,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while not re.search(r"half within \d+\.\d s, 99 of 100 within", shown.read_text()):
            assert process.poll() is None, (process.communicate(), shown.read_text())
            assert time.monotonic() < deadline, (
                f"the message in gold was awaited for 3 minutes; {shown.read_text()[-2000:]}"
            )
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=180)
    finally:
        process.kill()
        process.wait()
    display = shown.read_text()
    assert process.returncode == 0, display
    assert re.search(r"waiting in Kafka\s+0", display)
    assert "Traceback" not in display
    assert "stalled" not in display
    assert all(table in out for table in TABLES)
    run_id = re.search(r"^run (\w+): \d+\.\d s$", out, re.MULTILINE).group(1)
    assert {row["status"] for row in logged(traffic, run_id).values()} == {"succeeded"}
    traffic.assert_equal(computed(one.value for one in traffic.assert_complete() if one.key))
