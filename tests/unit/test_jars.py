from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import EngineError
from shared.runtime import jars
from shared.runtime.jars import SERVERS, Jar, ensure_jars, is_intact, listed_jars

CONTENT = b"the listed content"


@pytest.fixture
def one_jar(monkeypatch: pytest.MonkeyPatch) -> Jar:
    import hashlib

    jar = Jar("org.example", "thing", "1.0", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    monkeypatch.setattr(jars, "listed_jars", lambda server: [jar] if server == "engine" else [])
    return jar


@pytest.fixture
def cache(settings, tmp_path):
    return settings.model_copy(update={"cache_dir": tmp_path / "cache"})


def resolver(tmp_path: Path, script: str) -> Path:
    """A Java home whose launcher is this script, which replaces the resolver."""
    home = tmp_path / "jdk"
    (home / "bin").mkdir(parents=True)
    (home / "release").write_text('JAVA_VERSION="21.0.1"\n')
    (home / "bin" / "java").write_text(f"#!/bin/sh\n{script}\n")
    (home / "bin" / "java").chmod(0o755)
    return home


# The target directory is the pattern after -retrieve, without its last part.
DELIVER = 'for last; do :; done; mkdir -p "$(dirname "$last")"; printf "%s" "{}" > "$(dirname "$last")/thing-1.0.jar"'


def test_every_listed_jar_has_exact_coordinates_and_a_checksum():
    listed = [jar for server in SERVERS for jar in listed_jars(server)]
    assert len({jar.filename for jar in listed}) == len(listed)
    for jar in listed:
        assert len(jar.sha256) == 64
        assert jar.bytes > 0
        assert jar.version[0].isdigit()


def test_what_the_resolver_brings_is_kept_if_it_is_the_listed_content(one_jar, cache, tmp_path):
    cache = cache.model_copy(update={"java_home": resolver(tmp_path, DELIVER.format(CONTENT.decode()))})
    assert [path.read_bytes() for path in ensure_jars(cache)] == [CONTENT]


def test_a_jar_with_other_content_is_refused_and_not_kept(one_jar, cache, tmp_path):
    cache = cache.model_copy(update={"java_home": resolver(tmp_path, DELIVER.format("something else"))})
    with pytest.raises(EngineError, match=r"thing-1\.0\.jar.*not the listed one.*not installed"):
        ensure_jars(cache)
    assert list((cache.cache_dir / "jars").glob("*.jar")) == []


def test_without_a_network_the_error_names_the_jar_the_cause_and_what_to_do(one_jar, cache, tmp_path):
    offline = resolver(tmp_path, "echo 'Server access error: java.net.UnknownHostException'; exit 1")
    with pytest.raises(EngineError, match=r"thing-1\.0\.jar \(missing\)(.|\n)*UnknownHost(.|\n)*make setup"):
        ensure_jars(cache.model_copy(update={"java_home": offline}))


def test_a_damaged_jar_is_noticed_named_and_left_alone_if_there_is_no_other(one_jar, cache, tmp_path):
    damaged = cache.cache_dir / "jars" / one_jar.filename
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(CONTENT[:-1] + b"?")
    assert not is_intact(damaged, one_jar)
    offline = resolver(tmp_path, "echo 'Server access error: java.net.UnknownHostException'; exit 1")
    with pytest.raises(EngineError, match=r"damaged: thing-1\.0\.jar"):
        ensure_jars(cache.model_copy(update={"java_home": offline}))


def test_a_damaged_jar_is_replaced_if_the_network_is_there(one_jar, cache, tmp_path):
    damaged = cache.cache_dir / "jars" / one_jar.filename
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half of i")
    cache = cache.model_copy(update={"java_home": resolver(tmp_path, DELIVER.format(CONTENT.decode()))})
    assert [path.read_bytes() for path in ensure_jars(cache)] == [CONTENT]


def test_a_cache_directory_that_cannot_be_made_is_named(one_jar, cache, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match=r"cannot be kept in .*file/cache/jars: Not a directory(.|\n)*CACHE_DIR"):
        ensure_jars(cache.model_copy(update={"cache_dir": tmp_path / "file" / "cache"}))


def test_while_jars_arrive_it_is_said_how_much_is_there(one_jar, cache, tmp_path):
    def told(arrived: int) -> None:
        if arrived == 5:
            (tmp_path / "told").touch()

    part = 'd="$(dirname "$(dirname "$last")")/ivy-cache"; mkdir -p "$d"; printf 12345 > "$d/thing.jar"'
    wait = f"n=0; until test -e {tmp_path}/told; do n=$((n + 1)); test $n -lt 600 || exit 1; sleep 0.1; done"
    java = resolver(tmp_path, f"for last; do :; done; {part}; {wait}; {DELIVER.format(CONTENT.decode())}")
    ensure_jars(cache.model_copy(update={"java_home": java}), told=told)


def test_intact_jars_are_used_without_asking_anybody(one_jar, cache, tmp_path):
    kept = cache.cache_dir / "jars" / one_jar.filename
    kept.parent.mkdir(parents=True)
    kept.write_bytes(CONTENT)
    called = tmp_path / "called"
    cache = cache.model_copy(update={"java_home": resolver(tmp_path, f"touch {called}; exit 1")})
    assert ensure_jars(cache) == [kept]
    assert not called.exists()
