"""The engine's start-up cache: classes loaded and linked ahead of time by the JVM (class data sharing, JEP 483).

``engine.classes.gz`` lists the classes that an engine loads; ``make classes`` renews it. From the list the JVM makes
the cache, in the background and with the lowest priority. Nothing waits for it, and no engine has to record what it
loads: with such a record (``-XX:AOTCacheOutput``) an engine needs 50 % more CPU to start, and up to a minute to end. A
start without a cache is only slower.

The name of a cache is a digest of everything that the JVM compares to decide whether the cache fits: the JVM's build,
and the path, size and time of every jar. Neither the checkout nor its virtual environment is part of the digest, so all
checkouts of a user share one cache. A cache gets its name when it is complete. The JVM ignores one that does not fit.
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
"""The oldest Java with which the cache has been tested."""

SCRATCH = ".startup-cache-"
"""The prefix of the temporary directories in which a cache is made."""

KEPT_DAYS = 30.0
"""A cache that no start has used for this many days is removed; each takes some 250 MB."""


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
    """Return why the engine cannot use a cache here; empty if it can."""
    if not settings.startup_cache:
        return "switched off by SHOPMETRICS_STARTUP_CACHE"
    if java.major < OLDEST_JAVA:
        return f"needs Java {OLDEST_JAVA}, this is Java {java.major}"
    return ""


def use(cache: Path) -> list[str]:
    """Return the JVM options that use this cache; no options if it does not exist."""
    if not cache.is_file():
        return []
    with suppress(OSError):  # the cache in an image may be read-only
        os.utime(cache)
    return [f"-XX:SharedArchiveFile={cache}", *_QUIET]


_QUIET = ("-Xlog:aot*=off", "-Xlog:cds*=off")


def make(cache: Path, java: Java, options: list[str]) -> None:
    """Make a cache unless it exists. If another process is making it, wait for that process.

    The cache gets its name when it is complete and on the disk. If this process ends earlier, there is no cache.

    Args:
        cache: the file of the cache.
        java: the engine's Java.
        options: the engine's JVM options, including its class path.

    Raises:
        EngineError: if the JVM could not make the cache, with the JVM's output.
    """
    try:
        with _lock(cache.parent), tempfile.TemporaryDirectory(dir=cache.parent, prefix=SCRATCH) as scratch:
            if not cache.is_file():
                os.replace(_made(Path(scratch), java, options), cache)
    except OSError as error:
        raise EngineError(f"The start-up cache could not be made: {error}", _advice(cache)) from error


def _made(scratch: Path, java: Java, options: list[str]) -> Path:
    """Make a cache in this directory, write it to the disk, and return its path."""
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
    """Return whether a process is making a cache now."""
    lock = _lock(settings.cache_dir)
    if not Path(lock.lock_file).is_file():
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # the directory is not writable
        return False


def _lock(directory: Path) -> FileLock:
    return FileLock(directory / ".startup-cache.lock")


def remove_unused(settings: Settings) -> None:
    """Remove caches that no start has used for a month, and incomplete caches that are older than a day."""
    for pattern, days in (("engine-*", KEPT_DAYS), (f"{SCRATCH}*", 1.0)):
        for path in settings.cache_dir.glob(pattern):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > days * 86_400:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
