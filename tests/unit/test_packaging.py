"""Every way of installing the project installs the same."""

from __future__ import annotations

import re
import tomllib

import yaml

from shared.settings import CHECKOUT

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
LOCK = (CHECKOUT / "constraints.txt").read_text().splitlines()


def test_the_lock_has_exact_versions_and_no_address():
    assert [line for line in LOCK if not re.fullmatch(r"[a-z0-9._-]+==[^ ;]+( ; .+)?", line)] == []


def test_everything_that_is_asked_for_is_locked():
    locked = {re.split("==", line)[0] for line in LOCK}
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    assert {re.split(r"[\[<>=]", name)[0] for name in asked} <= locked


def test_conda_and_binder_install_what_make_installs():
    environment = yaml.safe_load((CHECKOUT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-c constraints.txt", "-e .[dev]"]
    assert "-c constraints.txt -e '.[dev]'" in (CHECKOUT / "Makefile").read_text()
