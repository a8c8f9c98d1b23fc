"""Install the locked packages into the Python that runs this file: with uv, or with pip where uv does not work.

``make setup`` runs this file by its path, before anything else is installed, so it needs the standard library only.
uv takes a fraction of pip's time, but does not read pip's configuration. So the index and the certificates that pip is
configured with are passed to uv.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import TextIO

CHECKOUT = Path(__file__).resolve().parents[2]

PACKAGES = ["-c", "constraints.txt", "-e", ".[dev]"]

_SECTIONS = ("global", "install", ":env:")
"""Sections of pip's configuration; a later section overrides an earlier one."""


def pip_settings(listing: str) -> dict[str, str]:
    """Return the options that ``pip install`` would use, with their values, from the output of ``pip config list``."""
    found: dict[str, str] = {}
    for section in _SECTIONS:
        for line in listing.splitlines():
            name, _, value = line.partition("=")
            where, _, option = name.partition(".")
            if where == section:
                found[option] = str(ast.literal_eval(value))
    return found


def uv_environment(pip: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make uv ask the same index as pip, without those that are set already.

    Args:
        pip: pip's settings by option, such as ``index-url``.
        given: the environment.
    """
    folders = [link for link in pip.get("find-links", "").split() if "://" in link or Path(link).is_dir()]
    wanted = {
        "UV_DEFAULT_INDEX": pip.get("index-url", ""),
        "UV_INDEX": " ".join(pip.get("extra-index-url", "").split()),
        # As pip does: the best version from all indexes, not only from the first index that has the package.
        "UV_INDEX_STRATEGY": "unsafe-best-match" if pip.get("extra-index-url") else "",
        "UV_NO_INDEX": "1" if pip.get("no-index", "").lower() in ("1", "true", "yes", "on") else "",
        "UV_FIND_LINKS": ",".join(folders),
        "UV_INSECURE_HOST": " ".join(pip.get("trusted-host", "").split()),
        "UV_HTTP_TIMEOUT": pip.get("timeout", "") or pip.get("default-timeout", ""),
        "SSL_CERT_FILE": pip.get("cert", ""),
        "HTTPS_PROXY": pip.get("proxy", ""),
        "HTTP_PROXY": pip.get("proxy", ""),
    }
    # Names are compared without regard to case, because proxy variables exist in lower and in upper case.
    names = {name.upper() for name in given}
    return {name: value for name, value in wanted.items() if value and name not in names}


class Progress:
    """The current step of uv or pip in a few words, derived from the lines that it prints."""

    def __init__(self) -> None:
        self.now = "asking which packages are needed"
        self._wanted: list[str] = []
        self._pending: list[str] = []

    def take(self, line: str) -> None:
        """Read one line of the output."""
        word, _, rest = line.strip().partition(" ")
        name = rest.partition(" ")[0].partition("==")[0]
        match word:
            case "Downloading" if name.endswith((".whl", ".gz", ".metadata")):  # pip downloads one at a time
                self.now = f"downloading {name.partition('-')[0]}"
            case "Downloading" | "Building":  # uv works on several at once, and prints only the large ones
                self._wanted.append(name)
                self._pending.append(name)
            case "Downloaded" | "Built":
                self._pending = [other for other in self._pending if other != name]
            case "Prepared" | "Installing":
                self.now, self._pending = "copying files", []
            case "Installed":
                self.now = "compiling"
            case "Collecting":
                self.now = f"collecting {name}"
        if self._pending:
            done = len(self._wanted) - len(self._pending)
            self.now = f"{done} of {len(self._wanted)} large packages are here; next: {', '.join(self._pending[:3])}"


class Line:
    """One progress line with the elapsed time: rewritten in place in a terminal, else printed now and then."""

    EVERY = 5.0
    """Seconds between two different lines if the output is not a terminal."""

    AT_LEAST_EVERY = 20.0

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._begun = time.monotonic()
        self._said, self._at = "", -self.EVERY

    def say(self, text: str) -> None:
        """Show this text."""
        seconds = time.monotonic() - self._begun
        if self._out.isatty():
            print(f"\r\033[K  {seconds:3.0f} s  {text}"[:120], end="", file=self._out, flush=True)
        elif seconds - self._at >= (self.EVERY if text != self._said else self.AT_LEAST_EVERY):
            print(f"  {seconds:3.0f} s  {text}", file=self._out, flush=True)
            self._said, self._at = text, seconds

    def clear(self) -> None:
        """Remove the line, if the output is a terminal."""
        if self._out.isatty():
            print("\r\033[K", end="", file=self._out, flush=True)


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, out: TextIO | None = None) -> None:
    """Run an installer, and report its current step once a second.

    Raises:
        subprocess.CalledProcessError: if it fails; the error holds its output.
    """
    progress, line, printed = Progress(), Line(out), []
    with subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:

        def read() -> None:
            assert process.stdout
            for text in process.stdout:
                printed.append(text)
                progress.take(text)

        reader = Thread(target=read)
        reader.start()
        while reader.is_alive():
            reader.join(1.0)
            line.say(progress.now)
    line.clear()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command), "".join(printed))


def main() -> int:
    """Install, and return the exit status."""
    begun = time.monotonic()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    installer = "uv"
    try:
        run([*pip, "install", "-c", "constraints.txt", "uv"])
        listing = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=True).stdout
        environment = os.environ | uv_environment(pip_settings(listing), os.environ)
        uv = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
        if sys.dont_write_bytecode:
            # Where a later import cannot write its bytecode, every process would compile every module again.
            uv.append("--compile-bytecode")
        try:
            # Every version is locked, so packages in uv's cache need no index: some seconds instead of a minute.
            run([*uv, "--offline", *PACKAGES], environment)
        except subprocess.CalledProcessError:
            run([*uv, *PACKAGES], environment)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"  uv cannot install here ({_reason(error)}); pip does, in two to four minutes", flush=True)
        installer = "pip"
        try:
            run([*pip, "install", *PACKAGES])
        except subprocess.CalledProcessError as failure:
            print("\n".join(failure.output.splitlines()[-15:]), file=sys.stderr)
            print("error: the packages could not be installed", file=sys.stderr)
            print("  -> read the lines above: is the package index reachable, are 5 GB free?", file=sys.stderr)
            return 1
    print(f"  installed by {installer} in {time.monotonic() - begun:.0f} s", flush=True)
    return 0


def _reason(error: Exception) -> str:
    output = error.output if isinstance(error, subprocess.CalledProcessError) else ""
    lines = [line.strip(" ×╰─▶") for line in (output or str(error)).splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1])[:200]


if __name__ == "__main__":
    sys.exit(main())
