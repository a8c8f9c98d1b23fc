from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from shared.cli import app

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
    assert not (tmp_path / "home").exists()


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
