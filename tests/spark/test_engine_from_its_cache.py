"""The real JVM uses the start-up cache if it fits, and starts without it if not. No engine is started."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from shared.runtime import setup, spark, startup_cache
from shared.runtime.java import Java, find_java
from shared.settings import get_settings


@pytest.fixture(scope="module")
def cache() -> Path:
    """This machine's cache. `make setup` starts its making in the background, so the test may have to wait for it."""
    settings = get_settings()
    setup.prepare(settings, quiet=True, wait=True)
    return startup_cache.cache_path(settings, find_java(settings), spark.class_path_if_complete(settings))


def ends_with(cache: Path, java: Java, jars: list[Path], *, insist: bool = True) -> tuple[int, str]:
    """Exit status and output of a JVM that is started like the engine's, and that may insist on the cache."""
    options = [*spark.java_options(get_settings(), java, jars), *startup_cache.use(cache)]
    if insist:
        options.append("-Xshare:on")
    answer = subprocess.run([java.executable, *options, "-version"], capture_output=True, text=True, timeout=60)
    return answer.returncode, answer.stdout + answer.stderr


@pytest.fixture(scope="module")
def jars() -> list[Path]:
    return spark.class_path_if_complete(get_settings())


def test_a_copy_of_the_jdk_in_another_checkout_takes_the_cache(cache, jars, tmp_path):
    pinned = find_java(get_settings())
    shutil.copytree(pinned.home, tmp_path / "jdk", symlinks=True)
    os.utime(tmp_path / "jdk" / "lib" / "modules", (1, 1))
    copy = Java(tmp_path / "jdk", pinned.major, "another checkout")
    assert startup_cache.cache_path(get_settings(), copy, jars) == cache
    status, said = ends_with(cache, copy, jars)
    assert status == 0, said
    assert "sharing" in said


def test_with_another_jar_the_jvm_refuses_it_and_starts_without(cache, jars, tmp_path):
    java = find_java(get_settings())
    changed = tmp_path / jars[0].name
    shutil.copy(jars[0], changed)
    assert ends_with(cache, java, [changed, *jars[1:]])[0] == 1
    status, said = ends_with(cache, java, [changed, *jars[1:]], insist=False)
    assert status == 0, said
    assert "sharing" not in said


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_of_a_half_written_one_the_jvm_takes_nothing(cache, jars, tmp_path, share):
    java, half = find_java(get_settings()), tmp_path / "half.jsa"
    with cache.open("rb") as whole, half.open("wb") as file:
        file.write(whole.read(int(cache.stat().st_size * share)))
    assert ends_with(half, java, jars)[0] == 1
    status, said = ends_with(half, java, jars, insist=False)
    assert status == 0, said
    assert "sharing" not in said
