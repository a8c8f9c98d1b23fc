"""The engine's start-up cache: classes loaded and linked ahead of time by the JVM itself (JEP 483, JEP 514).

A cache belongs to one JVM build and one exact class path, so its name is a digest of both. A start without a cache
is only slower, and the JVM ignores one that does not fit: a cache can never break a start.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from shared.runtime.java import Java
from shared.settings import Settings

OLDEST_JAVA = 25
"""The first Java that makes a cache in one step."""


def cache_path(settings: Settings, java: Java, class_path: list[Path]) -> Path:
    """Return where the cache for this JVM and this class path is, or would be."""
    digest = hashlib.sha256()
    release = java.home / "release"
    digest.update(release.read_bytes() if release.is_file() else str(java.major).encode())
    digest.update(str(java.home).encode())
    for jar in class_path:
        # What the JVM itself compares when it decides whether a cache fits.
        status = jar.stat()
        digest.update(f"{jar}:{status.st_size}:{int(status.st_mtime)}\n".encode())
    return settings.cache_dir / f"engine-{digest.hexdigest()[:16]}.aot"


def use(cache: Path) -> list[str]:
    """Return the JVM options that make use of this cache, none if it does not exist."""
    return [f"-XX:AOTCache={cache}", "-Xlog:aot*=off", "-Xlog:cds*=off"] if cache.is_file() else []


def record(cache: Path) -> list[str]:
    """Return the JVM options that write this cache when the JVM ends."""
    return [f"-XX:AOTCacheOutput={cache}", "-Xlog:aot*=error", "-Xlog:cds*=error"]


def remove_others(cache: Path, class_path: list[Path]) -> None:
    """Remove caches made for class paths that are gone; each is some 200 MB.

    The class path's pyspark is noted beside each cache, so that a cache of another checkout that still exists stays.
    """
    note(cache).write_text(os.fspath(class_path[0].parent))
    for other in cache.parent.glob("engine-*.aot"):
        owner = note(other)
        if other != cache and not (owner.is_file() and Path(owner.read_text()).is_dir()):
            other.unlink()
            owner.unlink(missing_ok=True)
        elif other != cache and owner.read_text() == note(cache).read_text():
            other.unlink()  # the same environment, before its last upgrade
            owner.unlink()


def note(cache: Path) -> Path:
    """Return the file beside a cache that says which environment it belongs to."""
    return cache.with_suffix(".env")
