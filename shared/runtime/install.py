"""Install the locked packages into the Python that runs this: by uv, or by pip where uv does not work.

``make setup`` runs this file by its path, before anything else is installed, so it needs the standard library only.
uv takes a fraction of pip's time, but does not read pip's configuration: which index to ask, and which certificates to
trust, is passed on to it.
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
"""Of pip's configuration; a later one counts more."""


def pip_settings(listing: str) -> dict[str, str]:
    """Return what ``pip config list`` says that pip would use when it installs, by option."""
    found: dict[str, str] = {}
    for section in _SECTIONS:
        for line in listing.splitlines():
            name, _, value = line.partition("=")
            where, _, option = name.partition(".")
            if where == section:
                found[option] = str(ast.literal_eval(value))
    return found


def uv_environment(pip: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make uv ask the same index as pip, but for those that are given already.

    Args:
        pip: pip's settings by option, as ``index-url``.
        given: the environment.
    """
    folders = [link for link in pip.get("find-links", "").split() if "://" in link or Path(link).is_dir()]
    wanted = {
        "UV_DEFAULT_INDEX": pip.get("index-url", ""),
        "UV_INDEX": " ".join(pip.get("extra-index-url", "").split()),
        # As pip does: the best version of all indexes, not only of the first that knows the name.
        "UV_INDEX_STRATEGY": "unsafe-best-match" if pip.get("extra-index-url") else "",
        "UV_NO_INDEX": "1" if pip.get("no-index", "").lower() in ("1", "true", "yes", "on") else "",
        "UV_FIND_LINKS": ",".join(folders),
        "UV_INSECURE_HOST": " ".join(pip.get("trusted-host", "").split()),
        "UV_HTTP_TIMEOUT": pip.get("timeout", "") or pip.get("default-timeout", ""),
        "SSL_CERT_FILE": pip.get("cert", ""),
        "HTTPS_PROXY": pip.get("proxy", ""),
        "HTTP_PROXY": pip.get("proxy", ""),
    }
    # A name that differs in case only counts as given: proxies are set in both.
    names = {name.upper() for name in given}
    return {name: value for name, value in wanted.items() if value and name not in names}


class Progress:
    """What uv or pip is at, in a few words, from the lines that it prints."""

    def __init__(self) -> None:
        self.now = "asking which packages are needed"
        self._wanted: list[str] = []
        self._pending: list[str] = []

    def take(self, line: str) -> None:
        """Take in a line of the output."""
        word, _, rest = line.strip().partition(" ")
        name = rest.partition(" ")[0].partition("==")[0]
        match word:
            case "Downloading" if name.endswith((".whl", ".gz", ".metadata")):  # pip, one after the other
                self.now = f"downloading {name.partition('-')[0]}"
            case "Downloading" | "Building":  # uv, at once; the large ones only
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
    """One line that says what is going on, and for how long: rewritten in a terminal, else printed now and then."""

    EVERY = 5.0
    """Seconds between two lines in a file, if they differ."""

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
        """Take the line away, where that can be."""
        if self._out.isatty():
            print("\r\033[K", end="", file=self._out, flush=True)


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, out: TextIO | None = None) -> None:
    """Run an installer, and say once a second what it is at.

    Raises:
        subprocess.CalledProcessError: if it fails, with what it printed.
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
            # No later import may keep what it compiles, and each process would compile everything again.
            uv.append("--compile-bytecode")
        try:
            # Every version is locked, so what uv has kept needs no index; some seconds instead of a minute.
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
