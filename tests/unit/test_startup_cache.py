"""The start-up cache: its name, and that an incomplete cache is never used. A script takes the place of the JVM."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from shared.errors import EngineError
from shared.runtime import jars, setup, spark, startup_cache
from shared.runtime.java import Java
from shared.settings import CHECKOUT

MAKES = 'for a in $(tr -d \'"\' < "${1#@}"); do case $a in -XX:SharedArchiveFile=*) f=${a#*=};; esac; done; '
"""The beginning of the script that replaces the JVM: it finds the path of the file to make."""


def jvm(home: Path, script: str = "", version: str = "25.0.2") -> Java:
    (home / "bin").mkdir(parents=True)
    (home / "lib").mkdir()
    (home / "lib" / "modules").write_text("all of them")
    (home / "release").write_text(f'JAVA_VERSION="{version}"\n')
    (home / "bin" / "java").write_text(f"#!/bin/sh\n{MAKES}{script}\n")
    (home / "bin" / "java").chmod(0o755)
    return Java(home, 25, "a test")


@pytest.fixture
def cache(settings, tmp_path):
    directory = tmp_path / "cache"
    directory.mkdir()
    return settings.model_copy(update={"cache_dir": directory})


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Returns a function that installs a pyspark with two jars in a virtual environment of this name."""

    def install(name: str) -> Path:
        directory = tmp_path / name / "jars"
        if not directory.is_dir():
            directory.mkdir(parents=True)
            for jar in ("a.jar", "b.jar"):
                (directory / jar).write_text(f"content of {jar}")
        monkeypatch.setattr(jars, "pyspark_jars", lambda: directory)
        return directory

    return install


def name_of(settings, java: Java) -> str:
    return startup_cache.cache_path(settings, java, jars.shared_pyspark_jars(settings)).name


def test_all_checkouts_share_one_cache(cache, installed, tmp_path):
    installed("one")
    first = name_of(cache, jvm(tmp_path / "jdk1"))
    installed("two")
    os.utime(tmp_path / "two" / "jars" / "a.jar", (1, 1))
    assert name_of(cache, jvm(tmp_path / "jdk2")) == first
    assert all(path.is_relative_to(cache.cache_dir) for path in jars.shared_pyspark_jars(cache))


def test_another_jvm_or_another_jar_has_another_cache(cache, installed, tmp_path):
    installed("one")
    java = jvm(tmp_path / "jdk1")
    names = [name_of(cache, java), name_of(cache, jvm(tmp_path / "jdk2", version="25.0.3"))]
    (java.home / "lib" / "modules").write_text("fewer")
    names.append(name_of(cache, java))
    shared = jars.shared_pyspark_jars(cache)[0]
    os.utime(shared, (1, 1))
    names.append(name_of(cache, java))
    assert len(set(names)) == 4


def test_shared_jars_are_the_installed_files_themselves_and_outlive_them(cache, installed):
    directory = installed("one")
    shared = jars.shared_pyspark_jars(cache)
    assert [path.name for path in shared] == ["a.jar", "b.jar"]
    assert all(path.samefile(directory / path.name) for path in shared)
    for path in directory.iterdir():
        path.unlink()
    assert shared[0].read_text() == "content of a.jar"


def test_on_another_disk_the_jars_are_copied_with_their_time(cache, installed, monkeypatch):
    def other_disk(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    directory = installed("one")
    os.utime(directory / "a.jar", (1000, 1000))
    shared = jars.shared_pyspark_jars(cache)
    assert not shared[0].samefile(directory / "a.jar")
    assert (shared[0].read_text(), shared[0].stat().st_mtime) == ("content of a.jar", 1000)


def test_without_room_for_a_copy_the_installed_jars_serve_and_nothing_half_copied_stays(cache, installed, monkeypatch):
    def full(source, target):
        Path(target).write_text("cont")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr("shutil.copy2", full)
    directory = installed("one")
    assert jars.shared_pyspark_jars(cache) == [directory / "a.jar", directory / "b.jar"]
    assert not any(
        path.suffix in (".jar", ".part") for path in jars._shared_directory(cache).iterdir() if path.stem != "a"
    )
    monkeypatch.undo()


def test_a_shared_jar_that_is_not_the_installed_one_is_not_used(cache, installed):
    directory = installed("one")
    shared = jars.shared_pyspark_jars(cache)
    shared[0].unlink()
    shared[0].write_text("of quite another build")
    assert jars.shared_pyspark_jars(cache) == sorted(directory.iterdir())
    assert shared[0].read_text() == "of quite another build", "another checkout may run on it"


def test_a_cache_gets_its_name_when_it_is_whole(cache, tmp_path):
    target = cache.cache_dir / "engine-1.jsa"
    java = jvm(tmp_path / "jdk", f'test ! -e {target} && printf whole > "$f"')
    startup_cache.make(target, java, ["-cp", "a.jar"])
    assert target.read_text() == "whole"
    assert startup_cache.use(target)[0] == f"-XX:SharedArchiveFile={target}"
    assert sorted(path.name for path in cache.cache_dir.iterdir()) == [".startup-cache.lock", "engine-1.jsa"]


def test_a_jvm_that_cannot_make_one_is_quoted_and_leaves_nothing(cache, tmp_path):
    target = cache.cache_dir / "engine-1.jsa"
    java = jvm(tmp_path / "jdk", 'printf half > "$f"; echo "No space left on device"; exit 1')
    with pytest.raises(EngineError, match=r"could not be made: No space left on device(.|\n)*free 1 GB in .*cache"):
        startup_cache.make(target, java, [])
    assert [path.name for path in cache.cache_dir.iterdir()] == [".startup-cache.lock"]
    assert startup_cache.use(target) == []


def test_one_that_was_killed_while_it_wrote_does_no_harm(cache, tmp_path):
    target = cache.cache_dir / "engine-1.jsa"
    half = jvm(tmp_path / "jdk1", 'printf half > "$f"; sleep 60')
    code = (
        "import sys; from pathlib import Path; from shared.runtime import startup_cache; "
        "from shared.runtime.java import Java; "
        "startup_cache.make(Path(sys.argv[1]), Java(Path(sys.argv[2]), 25, ''), [])"
    )
    maker = subprocess.Popen([sys.executable, "-c", code, target, half.home], cwd=CHECKOUT, start_new_session=True)
    deadline = time.monotonic() + 60
    while not any(path.read_bytes() == b"half" for path in cache.cache_dir.glob(f"{startup_cache.SCRATCH}*/cache")):
        assert time.monotonic() < deadline, "nothing was written within a minute"
        assert maker.poll() is None
        time.sleep(0.01)
    assert startup_cache.is_being_made(cache)
    os.killpg(maker.pid, 9)
    maker.wait(30)
    assert startup_cache.use(target) == []
    assert not startup_cache.is_being_made(cache)
    startup_cache.make(target, jvm(tmp_path / "jdk2", 'printf whole > "$f"'), [])
    assert target.read_text() == "whole"


def test_what_was_not_used_for_long_or_left_half_made_is_removed(cache):
    directory, now = cache.cache_dir, time.time()
    for name, days in {
        "engine-old.jsa": 31,
        "engine-used.jsa": 29,
        ".startup-cache-left": 2,
        ".startup-cache-now": 0,
    }.items():
        path = directory / name
        path.mkdir() if name.startswith(".") else path.touch()
        os.utime(path, (now - days * 86_400,) * 2)
    startup_cache.use(directory / "engine-used.jsa")
    startup_cache.remove_unused(cache)
    assert sorted(path.name for path in directory.iterdir()) == [".startup-cache-now", "engine-used.jsa"]
    assert now - (directory / "engine-used.jsa").stat().st_mtime < 3600, "a start is a use"


@pytest.fixture
def prepared(cache, installed, monkeypatch, tmp_path):
    """A machine with its jars and a JVM that makes caches; provides a list of the started processes."""
    installed("one")
    java = jvm(tmp_path / "jdk", 'printf whole > "$f"')
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(setup, "find_java", lambda settings: java)
    monkeypatch.setattr(setup, "wanting", lambda settings: [])
    monkeypatch.setattr(spark, "jar_paths", lambda settings, server: [])
    monkeypatch.setattr(setup, "launch", lambda command, log, cwd, variables: started.append((command, variables)))
    return cache, started


def test_nobody_waits_for_the_cache_and_it_is_made_once(prepared, capsys):
    settings, started = prepared
    setup.prepare(settings, quiet=True)
    [(command, variables)] = started
    assert command[1:] == ["-m", "shared.runtime.setup"]
    assert variables == {"SHOPMETRICS_CACHE_DIR": str(settings.cache_dir)}
    assert "in the background" in capsys.readouterr().out
    with startup_cache._lock(settings.cache_dir):
        setup.prepare(settings, quiet=True)
    assert len(started) == 1


def test_with_little_memory_none_is_made_beside_an_engine(prepared, monkeypatch, capsys):
    settings, started = prepared
    monkeypatch.setattr(setup, "MAKING_NEEDS", 2**60)
    setup.prepare(settings, quiet=True)
    assert started == []
    assert "`shopmetrics setup --wait` makes it" in capsys.readouterr().out
    setup.prepare(settings, quiet=True, wait=True)
    assert len(list(settings.cache_dir.glob("engine-*.jsa"))) == 1


def test_an_image_waits_for_the_cache(prepared, capsys):
    settings, started = prepared
    setup.prepare(settings, wait=True)
    [cache] = settings.cache_dir.glob("engine-*.jsa")
    assert cache.read_text() == "whole"
    assert "Start-up cache ready" in capsys.readouterr().out
    setup.prepare(settings, quiet=True)
    assert (started, capsys.readouterr().out) == ([], "")


@pytest.mark.parametrize(
    ("change", "why"),
    [({"startup_cache": False}, "switched off by SHOPMETRICS_STARTUP_CACHE"), ({}, "needs Java 25, this is Java 21")],
)
def test_where_there_is_no_cache_the_reason_is_said(prepared, monkeypatch, capsys, change, why):
    settings, started = prepared
    if not change:
        monkeypatch.setattr(setup, "find_java", lambda settings: Java(Path("/jdk"), 21, "a test"))
    setup.prepare(settings.model_copy(update=change))
    assert f"No start-up cache: {why}" in capsys.readouterr().out
    assert started == []


def test_the_list_names_what_the_jars_hold(settings):
    import gzip

    held: set[str] = set()
    for jar in spark.class_path_if_complete(settings):
        with zipfile.ZipFile(jar) as archive:
            held.update(name.removesuffix(".class") for name in archive.namelist())
    lines = gzip.decompress(startup_cache.CLASSES.read_bytes()).decode().splitlines()
    listed = {line.split()[0] for line in lines if line.startswith(("org/apache/", "io/", "com/fasterxml", "scala/"))}
    assert len(listed) > 10_000
    assert len(listed - held) < len(listed) / 100, "versions have changed: run `make classes`"
    assert not [line for line in lines if str(Path.home()) in line or "source:" in line], "paths of a machine"
