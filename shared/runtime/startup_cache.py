"""The engine's start-up cache: classes loaded and linked ahead of time by the JVM (class data sharing, JEP 483).

``engine.classes.gz`` lists what an engine loads; ``make classes`` renews it. From the list the JVM makes the cache, in
the background and with the lowest priority: nobody waits for it, and no engine has to record what it loads. One that
does (``-XX:AOTCacheOutput``) needs half as much CPU again to start, and up to a minute to end. A start without a cache
is only slower.

A cache's name is a digest of all that the JVM compares when it decides whether one fits: its own build, and path, size
and time of every jar. Neither the checkout nor its virtual environment is part of it, so that all checkouts of a user
share one cache. It gets its name when it is whole, and the JVM ignores one that does not fit.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from shared.errors import EngineError
from shared.runtime.java import Java
from shared.runtime.process import quoted
from shared.settings import Settings

CLASSES = Path(__file__).parent / "engine.classes.gz"

OLDEST_JAVA = 25
"""The oldest Java that this has been tried with."""

SCRATCH = ".startup-cache-"
"""What the directories begin with in which a cache is made."""

KEPT_DAYS = 30.0
"""A cache that no start has used for so long is removed; each takes some 250 MB."""


def cache_path(settings: Settings, java: Java, class_path: list[Path]) -> Path:
    """Return where the cache for this JVM and this class path is, or would be."""
    digest = hashlib.sha256(CLASSES.read_bytes())
    release, modules = java.home / "release", java.home / "lib" / "modules"
    digest.update(release.read_bytes() if release.is_file() else str(java.major).encode())
    digest.update(str(modules.stat().st_size if modules.is_file() else 0).encode())
    for jar in class_path:
        status = jar.stat()
        digest.update(f"{jar}:{status.st_size}:{int(status.st_mtime)}\n".encode())
    return settings.cache_dir / f"engine-{digest.hexdigest()[:16]}.jsa"


def why_not(settings: Settings, java: Java) -> str:
    """Return why the engine uses no cache here; empty if nothing is in the way."""
    if not settings.startup_cache:
        return "switched off by SHOPMETRICS_STARTUP_CACHE"
    if java.major < OLDEST_JAVA:
        return f"needs Java {OLDEST_JAVA}, this is Java {java.major}"
    return ""


def use(cache: Path) -> list[str]:
    """Return the JVM options that make use of this cache, none if it does not exist."""
    if not cache.is_file():
        return []
    with suppress(OSError):  # one in an image may be read-only
        os.utime(cache)
    return [f"-XX:SharedArchiveFile={cache}", *_QUIET]


_QUIET = ("-Xlog:aot*=off", "-Xlog:cds*=off")


def make(cache: Path, java: Java, options: list[str]) -> None:
    """Make a cache unless it exists; whoever comes second waits.

    It gets its name when it is whole and on the disk; should this process be ended before, there is none.

    Args:
        cache: where.
        java: the engine's.
        options: the engine's, its class path among them.

    Raises:
        EngineError: if the JVM could not make one, with what it said.
    """
    try:
        with _lock(cache.parent), tempfile.TemporaryDirectory(dir=cache.parent, prefix=SCRATCH) as scratch:
            if not cache.is_file():
                os.replace(_made(Path(scratch), java, options), cache)
    except OSError as error:
        raise EngineError(f"The start-up cache could not be made: {error}", _advice(cache)) from error


def _made(scratch: Path, java: Java, options: list[str]) -> Path:
    """Return a cache that has been made in this directory, and is on the disk."""
    classes, arguments, cache = scratch / "classes", scratch / "arguments", scratch / "cache"
    classes.write_bytes(gzip.decompress(CLASSES.read_bytes()))
    options = [*options, "-Xshare:dump", "-XX:+AOTClassLinking", f"-XX:SharedClassListFile={classes}"]
    options += [f"-XX:SharedArchiveFile={cache}", "-Xlog:aot*=error", "-Xlog:cds*=error"]
    arguments.write_text("\n".join(map(quoted, options)) + "\n")
    answer = subprocess.run([java.executable, f"@{arguments}"], capture_output=True, text=True)
    if answer.returncode or not cache.is_file():
        said = (answer.stdout + answer.stderr).strip()[-400:] or f"Java ended with exit code {answer.returncode}"
        raise EngineError(f"The start-up cache could not be made: {said}", _advice(scratch))
    with cache.open("rb") as file:
        os.fsync(file.fileno())
    return cache


def _advice(path: Path) -> str:
    return f"free 1 GB in {path.parent}, then run `make setup`; without the cache the engine only starts more slowly"


def is_being_made(settings: Settings) -> bool:
    """Return whether some process makes a cache at this moment."""
    lock = _lock(settings.cache_dir)
    if not Path(lock.lock_file).is_file():
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a directory that cannot be written
        return False


def _lock(directory: Path) -> FileLock:
    return FileLock(directory / ".startup-cache.lock")


def remove_unused(settings: Settings) -> None:
    """Remove caches that no start has used for a month, and what was left half-made a day ago."""
    for pattern, days in (("engine-*", KEPT_DAYS), (f"{SCRATCH}*", 1.0)):
        for path in settings.cache_dir.glob(pattern):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > days * 86_400:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
