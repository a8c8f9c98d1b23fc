"""`make secrets-scan` finds a secret that was committed and removed again, and accepts text that is no secret."""

from __future__ import annotations

import os
import random
import subprocess
from functools import cache
from pathlib import Path

import pytest

from shared.settings import CHECKOUT

DRAWN = random.Random(14)
HEX = "".join(DRAWN.choices("0123456789abcdef", k=32))
LONG = "".join(DRAWN.choices("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789", k=43))
# The secrets are assembled here, because the scanner reads this file too.
PLANTED = {
    "databricks-api-token": ("dapi" + HEX, "DATABRICKS_TOKEN = "),
    "github-pat": ("ghp_" + LONG[:36], "TOKEN = "),
    "spark-connect-token": (LONG, "spark = connect('sc://spark.example:443/;use_ssl=true;" + "token="),
    "kafka-sasl-secret": (LONG, "jaas = 'org.apache.kafka.PlainLoginModule " + 'required username="me" password="'),
}


def run(*command: str | Path, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def commit(repository: Path, **files: str | None) -> None:
    for name, text in files.items():
        path = repository / f"{name}.py"
        path.unlink() if text is None else path.write_text(text)
    run("git", "add", "--all", cwd=repository)
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@shop.example", "-c", "commit.gpgsign=false")
    run("git", *identity, "commit", "--quiet", "--message", "a change", cwd=repository)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "a repository"
    path.mkdir()
    run("git", "init", "--quiet", cwd=path)
    commit(path, job="import os\n\ntoken = os.environ['DATABRICKS_TOKEN']\n")
    return path


@cache
def built() -> bool:
    """Whether gitleaks is installed. On GitHub's machines it must be."""
    done = subprocess.run(["make", "--silent", "gitleaks"], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0 or "GITHUB_ACTIONS" not in os.environ, done.stderr
    return done.returncode == 0


def scan(repository: Path) -> subprocess.CompletedProcess[str]:
    """Run the scan of ``make`` on another repository."""
    if not built():
        pytest.skip("gitleaks could not be built here: it needs Go, and what Go fetches")
    return subprocess.run(
        ["make", "--silent", "secrets-scan", f"REPO='{repository}'"], cwd=CHECKOUT, capture_output=True, text=True
    )


def test_a_repository_that_names_its_secrets_and_holds_none_passes(repository: Path) -> None:
    commit(repository, settings='KAFKA_API_SECRET = secrets.get("KAFKA_API_SECRET")\n')
    ended = scan(repository)
    assert ended.returncode == 0, ended.stderr
    assert "2 commits scanned" in ended.stderr


@pytest.mark.parametrize("rule", PLANTED)
def test_a_secret_of_an_old_commit_is_found_though_a_later_one_removes_it(repository: Path, rule: str) -> None:
    text, before = PLANTED[rule]
    commit(repository, job=f'{before}{text}"\n')
    commit(repository, job="token = None\n")
    commit(repository, job=None)
    ended = scan(repository)
    assert ended.returncode != 0
    assert f"RuleID:      {rule}" in ended.stdout
    assert "File:        job.py" in ended.stdout
    assert text not in ended.stdout + ended.stderr, "the report repeats the secret"


@pytest.mark.parametrize("is_staged", [True, False])
def test_a_secret_that_is_not_committed_yet_is_found(repository: Path, is_staged: bool) -> None:
    text, before = PLANTED["databricks-api-token"]
    (repository / "job.py").write_text(f'{before}"{text}"\n')
    if is_staged:
        run("git", "add", "job.py", cwd=repository)
    ended = scan(repository)
    assert ended.returncode != 0
    assert "RuleID:      databricks-api-token" in ended.stdout


def test_what_stands_for_a_secret_in_tests_is_allowed_by_its_value_and_not_by_its_file(repository: Path) -> None:
    commit(repository, job="address = 'sc://localhost:20000/;" + "token=a-token-of-the-engine'\n")
    assert scan(repository).returncode == 0
    commit(repository, job="address = 'sc://localhost:20000/;" + f"token={LONG}'\n")
    assert scan(repository).returncode != 0
