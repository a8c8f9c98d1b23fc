from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.errors import AnalysisException
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

import shared
from shared import cli, pipeline
from shared.catalog import TableState
from shared.cli import app
from shared.course import course_run
from shared.course.course_run import CourseRun, DayRun, print_run
from shared.course.days import DAYS
from shared.pipeline import PipelineRun
from shared.run_log import RuleResult, TableRun

SHOPMETRICS = Path(sys.executable).parent / "shopmetrics"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SHOPMETRICS, *arguments], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


def commands(group=None, path=()):
    group = group or get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_help_with_an_example_of_itself(path, command):
    assert command.help
    assert f"shopmetrics {' '.join(path)}" in command.epilog


def test_an_error_is_a_sentence_and_an_exit_status_not_a_traceback(tmp_path):
    answer = run("generate", "--scale", "0", SHOPMETRICS_HOME=str(tmp_path))
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert answer.stderr.startswith("error: ")
    assert "\n  -> " in answer.stderr


def test_an_unknown_setting_is_named_before_anything_is_done(tmp_path):
    answer = run("status", SHOPMETRICS_HOME=str(tmp_path), SHOPMETRICS_SEEED="1")
    assert answer.returncode == 1
    assert "did you mean SHOPMETRICS_SEED?" in answer.stderr


def test_generate_prints_json_for_programs(tmp_path):
    answer = run("generate", "--scale", "0.01", "--days", "1", "--json", SHOPMETRICS_HOME=str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    assert set(told) == {"customers", "products", "orders"}
    assert told["orders"]["rows"] > 1000


def test_status_without_an_engine_says_so_and_starts_none(tmp_path):
    answer = run("status", "--json", SHOPMETRICS_HOME=str(tmp_path / "home"))
    told = json.loads(answer.stdout)
    assert told["engine"] == told["broker"] == {"running": False}
    assert "everything together may use" in told["memory"]
    assert not (tmp_path / "home").exists()


def test_servers_that_are_elsewhere_are_named_without_their_token_and_none_is_started(tmp_path):
    elsewhere = {
        "SPARK_REMOTE": "sc://localhost:1/;token=confidential",
        "KAFKA_BOOTSTRAP_SERVERS": "broker.example:9092",
        "SHOPMETRICS_HOME": str(tmp_path / "home"),
    }
    up, status, doctor = run("up", **elsewhere), run("status", **elsewhere), run("doctor", "--json", **elsewhere)
    assert (up.returncode, status.returncode) == (0, 0), up.stderr + status.stderr
    assert "no engine started: SPARK_REMOTE names sc://localhost:1/" in up.stdout
    assert "no broker started: KAFKA_BOOTSTRAP_SERVERS names broker.example:9092" in up.stdout
    assert "sc://localhost:1/" in status.stdout
    assert "broker.example:9092" in status.stdout
    engine = next(finding for finding in json.loads(doctor.stdout) if finding["name"] == "Engine")
    assert engine["verdict"] == "problem"
    assert "SPARK_REMOTE" in engine["advice"]
    assert "confidential" not in up.stdout + status.stdout + doctor.stdout


@pytest.mark.parametrize(("code", "advice"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "make it yours")])
def test_what_the_operating_system_refuses_is_a_sentence_too(monkeypatch, capsys, code, advice):
    def refuse():
        raise OSError(code, os.strerror(code), "/somewhere")

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    told = capsys.readouterr().err
    assert told.startswith(f"error: {os.strerror(code)}: /somewhere\n  -> {advice}")


def test_a_bug_is_not_made_a_sentence(monkeypatch):
    def refuse():
        raise OSError(errno.EINVAL, "no remedy is known")

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(OSError, match="no remedy"):
        cli.main()


def test_what_the_engine_could_not_do_is_a_sentence_too(monkeypatch, capsys):
    def refuse():
        raise AnalysisException("No space left on device\n\tat java.base/java.io")

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: the engine could not do it: No space left on device\n  -> ")
    assert "engine.log" in told
    assert "java.base" not in told


@pytest.mark.parametrize(("statuses", "code"), [(("succeeded", "unchanged"), 0), (("succeeded", "failed"), 1)])
def test_the_pipelines_exit_status_is_0_only_if_every_table_is_in_order(monkeypatch, statuses, code):
    asked = []

    def pretend(spark, layers, full, on_end, is_gated):
        now = datetime(2026, 1, 1, tzinfo=UTC)
        tables = tuple(TableRun("r", f"gold.t{n}", status, now, 0.1) for n, status in enumerate(statuses))
        asked.append((layers, full))
        for table in tables:
            on_end(table)
        return PipelineRun("r", 0.2, tables, {})

    monkeypatch.setattr(pipeline, "run", pretend)
    monkeypatch.setattr(shared, "connect", lambda: None)
    result = CliRunner().invoke(app, ["pipeline", "run", "--layer", "gold", "--full", "--json"])
    assert result.exit_code == code
    assert json.loads(result.stdout)["ok"] is (code == 0)
    assert asked == [(("gold",), True)]


def test_the_courses_exit_status_says_whether_it_got_to_its_end(monkeypatch, tmp_path):
    failed = course_run.DayFailed(DAYS[3], "Day 4 stopped in cell [9]: ValueError: no", "mend it")
    monkeypatch.setattr(course_run, "run", lambda *given: course_run.CourseRun(tmp_path, tmp_path, error=failed))
    result = CliRunner().invoke(app, ["course"])
    assert result.exit_code == 1
    assert "Day 4 stopped in cell [9]: ValueError: no" in result.output


def test_the_pipelines_summary_tells_tables_reasons_and_whether_the_limit_is_met(capsys):
    started = datetime(2026, 1, 2, tzinfo=UTC)
    good = TableRun(
        "f00d", "silver.dim_products", "succeeded", started, 1.25, rows_read=1_086, rows_quarantined=19,
        rows_inserted=1_000, rows_updated=6, to_version=7,
        rules=(
            RuleResult("price_is_plausible", "warn", 1_086, 3),
            RuleResult("line_is_well_formed", "quarantine", 1_086, 19),
        ),
    )  # fmt: skip
    most = TableRun("f00d", "silver.orders_clean", "succeeded", started, 0.0, rows_read=1_000, rows_quarantined=51)
    bad = TableRun("f00d", "gold.customer_ltv", "skipped", started, 0.0, reason="silver.orders_clean failed")
    refused = {"orders/2026-01-01/b.csv": "it looks like UTF-16: save it as UTF-8"}
    ignored = {f"orders/{number}.txt": "it is in no folder of a batch date" for number in range(25)}
    extra = {"orders/2026-01-01/a.csv": ["coupon"]}
    done = PipelineRun("f00d", 75.5, (good, most, bad), extra, refused, ignored)
    assert not done.ok
    cli._print_pipeline(done)
    told = " ".join(capsys.readouterr().out.split())
    for words in (
        "silver.dim_products succeeded 1,086 19 0 1,006 7 1.2",
        "gold.customer_ltv: silver.orders_clean failed",
        "coupon of orders/2026-01-01/a.csv",
        "price_is_plausible",
        "REFUSED orders/2026-01-01/b.csv: it looks like UTF-16: save it as UTF-8",
        "not read, because it is in no folder of a batch date: orders/19.txt",
        "not read: 5 more",
        "silver.dim_products: 19 rows set aside by line_is_well_formed",
        "WARNING silver.orders_clean: 5.1% of its new rows were set aside, more than 5%",
        """shopmetrics sql "SELECT table_name, rule, reason, source FROM silver.quarantine WHERE run_id = 'f00d'\"""",
        "NFR-001",
        "f00d",
    ):
        assert words in told


def test_a_figure_is_whole_however_narrow_the_output_is():
    states = (TableState("gold.product_performance", 12, 11_013), TableState("bronze.orders_raw", 1, 1_104_473_001))
    day = DayRun(9, "09_gold", "Gold: product performance", 1234.5, 12_345.0, states, 5, Path("copy.ipynb"))
    console = Console(width=80, file=io.StringIO())
    print_run(CourseRun(Path("home"), Path("runs"), [day]), console)
    told = console.file.getvalue()
    for figure in ("1234.5", "12,345", "5 ok", "gold.product_performance", "11,013", "1,104,473,001"):
        assert figure in told
    assert max(map(len, told.splitlines())) <= 80


def test_down_without_servers_is_no_error(tmp_path):
    answer = run("down", SHOPMETRICS_HOME=str(tmp_path / "home"))
    assert (answer.returncode, answer.stdout) == (0, "no engine was running\nno broker was running\n")


def test_produce_hands_its_arguments_over_to_the_producer(tmp_path):
    answer = run("produce", "--help", SHOPMETRICS_HOME=str(tmp_path / "home"))
    assert answer.returncode == 0, answer.stderr
    assert "--speedup" in answer.stdout
    assert "shopmetrics produce --day 1" in answer.stdout
    assert run("produce", "--no-such-option", SHOPMETRICS_HOME=str(tmp_path / "home")).returncode == 2


def test_reset_removes_what_runs_made_and_nothing_else(tmp_path):
    run("generate", "--scale", "0.01", SHOPMETRICS_HOME=str(tmp_path))
    (tmp_path / "secrets.toml").write_text("")
    (tmp_path / "mine").mkdir()
    answer = run("reset", "--yes", SHOPMETRICS_HOME=str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "secrets.toml"]


def test_reset_asks_first(tmp_path):
    run("generate", "--scale", "0.01", SHOPMETRICS_HOME=str(tmp_path))
    answer = subprocess.run(
        [SHOPMETRICS, "reset"], env=os.environ | {"SHOPMETRICS_HOME": str(tmp_path)}, input="n\n",
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert answer.returncode == 1
    assert (tmp_path / "raw" / "manifest.json").is_file()


def test_doctor_finds_what_is_missing_and_says_what_to_do(tmp_path):
    answer = run("doctor", "--json", SHOPMETRICS_HOME=str(tmp_path), SHOPMETRICS_CACHE_DIR=str(tmp_path / "empty"))
    assert answer.returncode == 1
    findings = {finding["name"]: finding for finding in json.loads(answer.stdout)}
    assert findings["Jars"]["verdict"] == "problem"
    assert findings["Jars"]["advice"] == "run `make setup`"
    assert findings["Java"]["verdict"] == "ok"


def test_doctor_warns_of_a_stale_spark_home_and_names_the_java_it_passes_over(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").write_text("")
    (tmp_path / "release").write_text('JAVA_VERSION="1.8.0_1"')
    answer = run("doctor", "--json", SPARK_HOME="/opt/spark-2", JAVA_HOME=str(tmp_path))
    findings = {finding["name"]: finding for finding in json.loads(answer.stdout)}
    assert findings["SPARK_HOME"]["verdict"] == "warning"
    assert "not used: JAVA_HOME: Java 8" in findings["Java"]["found"]


def test_a_secret_is_kept_found_and_removed_and_never_printed(tmp_path):
    kept = subprocess.run(
        [SHOPMETRICS, "secret", "A_TOKEN"], env=os.environ | {"SHOPMETRICS_HOME": str(tmp_path)}, capture_output=True,
        text=True, input="the value of the token\n",
    )  # fmt: skip
    assert kept.returncode == 0, kept.stderr
    assert kept.stdout.endswith(f"kept in {tmp_path / 'secrets.toml'}\n")
    assert "the value" not in kept.stdout + kept.stderr
    assert run("secret", "A_TOKEN", "--where", SHOPMETRICS_HOME=str(tmp_path)).stdout == "file secrets.toml\n"
    there = run("secret", "A_TOKEN", "--where", SHOPMETRICS_HOME=str(tmp_path), A_TOKEN="another")
    assert there.stdout == "environment variable A_TOKEN\n"
    assert run("secret", "A_TOKEN", "--remove", SHOPMETRICS_HOME=str(tmp_path)).stdout.startswith("removed from ")
    gone = run("secret", "A_TOKEN", "--where", SHOPMETRICS_HOME=str(tmp_path))
    assert gone.returncode == 1
    assert "The secret A_TOKEN is nowhere." in gone.stderr
    both = run("secret", "A_TOKEN", "--where", "--remove", SHOPMETRICS_HOME=str(tmp_path))
    assert "exclude each other" in both.stderr


def test_a_package_that_a_job_does_not_install_is_named_with_the_extra_that_has_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    monkeypatch.setitem(sys.modules, "pyspark.errors", None)
    monkeypatch.setattr(sys, "argv", ["shopmetrics", "sql", "SELECT 1"])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert "error: the package pyspark" in said
    assert "shopmetrics[client]" in said


@pytest.mark.parametrize(("day", "runs"), [(2, True), (21, False)])
def test_the_course_says_that_the_engine_runs_on_only_if_a_day_used_one(
    day: int, runs: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(course_run, "run", lambda *_: CourseRun(Path("home"), Path("copies")))
    cli.course(first=day, through=day)
    assert ("The engine goes on running" in capsys.readouterr().out) == runs
