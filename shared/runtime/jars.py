"""Fetch the jars of engine and broker once, and verify their checksums at every start.

``jars.toml`` lists every jar by coordinates and sha256. Ivy, the resolver that pyspark ships, fetches the jars that
are missing from the cache directory. A jar enters the cache only if its content matches the list.
A normal start only compares checksums and works without a network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import subprocess
import tempfile
import time
import tomllib
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import quoteattr

from filelock import FileLock

from shared.errors import EngineError
from shared.runtime.java import Java, find_java
from shared.settings import Settings, get_settings

RESOLVE_TIMEOUT = 900
"""Seconds that Ivy may take: enough for 90 MB over a slow connection."""

Server = Literal["engine", "broker"]

SERVERS: tuple[Server, ...] = ("engine", "broker")


@dataclass(frozen=True)
class Jar:
    """One jar: Maven coordinates, the sha256 of its content and its size in bytes."""

    organisation: str
    name: str
    version: str
    sha256: str
    bytes: int

    @property
    def filename(self) -> str:
        """The file's name in the cache directory."""
        return f"{self.name}-{self.version}.jar"


def listed_jars(server: Server) -> list[Jar]:
    """Return the committed list of a server's jars."""
    text = (Path(__file__).parent / "jars.toml").read_text()
    return [Jar(**entry) for entry in tomllib.loads(text)[server]]


def pyspark_jars() -> Path:
    """Return the directory of the jars inside the installed pyspark, whatever ``SPARK_HOME`` says."""
    import pyspark

    return Path(pyspark.__file__).parent / "jars"


def shared_pyspark_jars(settings: Settings) -> list[Path]:
    """Return pyspark's own jars in a fixed order, at a path in the cache directory that all checkouts share.

    The shared jars are hard links to the installed ones, or copies where a link is not possible. Missing jars are
    added. If an installed jar differs from the shared jar of the same name, or cannot be added, the paths of the
    installed jars are returned instead.
    """
    paths = pyspark_jar_paths(settings)
    directory = _shared_directory(settings)
    if paths[0].parent != directory:
        with suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            with FileLock(directory / ".lock"):
                for jar in paths:
                    if not (directory / jar.name).exists():
                        _link_or_copy(jar, directory / jar.name)
        paths = pyspark_jar_paths(settings)
    return paths


def pyspark_jar_paths(settings: Settings) -> list[Path]:
    """Return the paths of :func:`shared_pyspark_jars` without adding a jar: the installed ones until all are shared."""
    installed = sorted(pyspark_jars().glob("*.jar"))
    directory = _shared_directory(settings)
    shared = [directory / jar.name for jar in installed]
    try:
        same = all(ours.stat().st_size == theirs.stat().st_size for ours, theirs in zip(shared, installed, strict=True))
    except FileNotFoundError:
        same = False
    return shared if same else installed


def _shared_directory(settings: Settings) -> Path:
    return settings.cache_dir / "jars" / f"pyspark-{version('pyspark')}"


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # the cache is on another disk, or another user owns the file
        scratch = target.with_suffix(".part")
        try:
            shutil.copy2(source, scratch)
            os.replace(scratch, target)
        finally:
            scratch.unlink(missing_ok=True)


def is_intact(path: Path, jar: Jar) -> bool:
    """Whether this file holds exactly the listed content."""
    if not path.is_file() or path.stat().st_size != jar.bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256


def wanting(settings: Settings, servers: tuple[Server, ...] = SERVERS) -> list[Jar]:
    """Return the listed jars of these servers that are missing or damaged."""
    directory = settings.cache_dir / "jars"
    return [jar for server in servers for jar in listed_jars(server) if not is_intact(directory / jar.filename, jar)]


def ensure_jars(
    settings: Settings | None = None, *servers: Server, told: Callable[[int], object] = lambda arrived: None
) -> list[Path]:
    """Return the paths of all listed jars of these servers, fetching those that are missing or damaged.

    ``told`` is called once a second with the number of bytes that have arrived.

    Raises:
        EngineError: if a jar cannot be fetched; the message names the jars, the cause and what to do.
    """
    settings = settings or get_settings()
    servers = servers or SERVERS
    if wanting(settings, servers):
        directory = settings.cache_dir / "jars"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / ".lock").touch()
        except OSError as error:
            raise EngineError(
                f"The jars cannot be kept in {directory}: {error.strerror}.",
                "set SHOPMETRICS_CACHE_DIR to a directory that you may write to, then run `make setup`",
            ) from error
        with FileLock(directory / ".lock"):
            before = 0
            # One server at a time: if both need different versions of a jar, one call of Ivy fetches only the newer.
            for server in servers:
                wanted = wanting(settings, (server,))
                if wanted:
                    _fetch(wanted, directory, find_java(settings), _counted_from(before, told))
                    before += sum(jar.bytes for jar in wanted)
    return [path for server in servers for path in jar_paths(settings, server)]


def jar_paths(settings: Settings, server: Server) -> list[Path]:
    """Return where a server's listed jars are kept, whether or not they are there yet."""
    return [settings.cache_dir / "jars" / jar.filename for jar in listed_jars(server)]


def _counted_from(before: int, told: Callable[[int], object]) -> Callable[[int], object]:
    return lambda arrived: told(before + arrived)


def _fetch(wanted: list[Jar], directory: Path, java: Java, told: Callable[[int], object]) -> None:
    damaged = [jar.filename for jar in wanted if (directory / jar.filename).exists()]
    first, rest = wanted[0].filename, len(wanted) - 1
    what = first + (f" and {rest} more jars" if rest else "")
    what += f" ({'damaged: ' + ', '.join(damaged) if damaged else 'missing'})"
    with tempfile.TemporaryDirectory(dir=directory, prefix=".resolve-") as scratch_name:
        scratch = Path(scratch_name)
        log = _run_ivy(wanted, scratch, java, what, told)
        for jar in wanted:
            arrived = scratch / "jars" / jar.filename
            if not arrived.is_file():
                raise EngineError(f"The jar {jar.filename} could not be resolved.\n{_cause(log)}", _advice(java))
            if not is_intact(arrived, jar):
                raise EngineError(
                    f"The jar {jar.filename} that the resolver brought is not the listed one: expected "
                    f"{jar.bytes} bytes with sha256 {jar.sha256}, found {arrived.stat().st_size} bytes. "
                    "It was not installed.",
                    "check the network's proxy or mirror, then run `make setup` again",
                )
        for jar in wanted:
            os.replace(scratch / "jars" / jar.filename, directory / jar.filename)


def _run_ivy(wanted: list[Jar], scratch: Path, java: Java, what: str, told: Callable[[int], object]) -> str:
    ivy = next(pyspark_jars().glob("ivy-*.jar"), None)
    if ivy is None:
        raise EngineError(f"No ivy jar in {pyspark_jars()}.", "reinstall pyspark: `make clean setup`")
    # Not transitive: the list is complete, and with dependencies Ivy would fetch duplicates of jars that
    # Spark ships.
    dependencies = "\n".join(
        f"<dependency org={quoteattr(jar.organisation)} name={quoteattr(jar.name)} rev={quoteattr(jar.version)}"
        ' conf="default" transitive="false"/>'
        for jar in wanted
    )
    module = scratch / "ivy.xml"
    module.write_text(
        '<ivy-module version="2.0"><info organisation="shopmetrics" module="engine"/>'
        f"<dependencies>{dependencies}</dependencies></ivy-module>"
    )
    command = [str(java.executable), *_truststore(scratch), "-jar", str(ivy), "-ivy", str(module)]
    command += ["-confs", "default", "-cache", str(scratch / "ivy-cache")]
    command += ["-retrieve", str(scratch / "jars" / "[artifact]-[revision].[ext]")]
    deadline = time.monotonic() + RESOLVE_TIMEOUT
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while True:
            try:
                said, _ = process.communicate(timeout=1.0)
                break
            except subprocess.TimeoutExpired:
                told(sum(file.stat().st_size for file in (scratch / "ivy-cache").rglob("*.jar*")))
                if time.monotonic() > deadline:
                    process.kill()
                    raise EngineError(
                        f"Fetching {what} took longer than {RESOLVE_TIMEOUT} s.",
                        "run `make setup` again on a better line",
                    ) from None
    if process.returncode:
        raise EngineError(f"Cannot fetch {what}.\n{_cause(said)}", _advice(java))
    return said


def _truststore(scratch: Path) -> list[str]:
    """Let Java trust Python's certificates: the wheel's JDK does not know the certificate of an inspecting proxy."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
    from cryptography.hazmat.primitives.serialization.pkcs12 import (
        PKCS12Certificate,
        serialize_java_truststore,
    )
    from cryptography.utils import CryptographyDeprecationWarning

    context = ssl.create_default_context()
    for variable in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if os.path.isfile(os.environ.get(variable, "")):
            context.load_verify_locations(os.environ[variable])
    try:
        import certifi

        context.load_verify_locations(certifi.where())
    except ImportError:  # most clients install certifi; without it the system's certificates usually suffice
        pass
    with warnings.catch_warnings():
        # One public authority has the serial number 0, which cryptography warns about.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        certificates = [
            PKCS12Certificate(x509.load_der_x509_certificate(der), f"ca-{number}".encode())
            for number, der in enumerate(context.get_ca_certs(binary_form=True))
        ]
    if not certificates:
        return []
    # The store holds public certificates only. Java requires a password; this is its default one.
    password = "changeit"
    store = scratch / "truststore.p12"
    store.write_bytes(serialize_java_truststore(certificates, BestAvailableEncryption(password.encode())))
    return [f"-Djavax.net.ssl.trustStore={store}", f"-Djavax.net.ssl.trustStorePassword={password}"]


def _cause(log: str) -> str:
    """Return the lines of Ivy's log that name the cause."""
    telling = [
        line.strip()
        for line in log.splitlines()
        if any(word in line for word in ("not found", "error", "Error", "Exception", "UNRESOLVED"))
    ]
    return "\n".join(f"    {line}" for line in list(dict.fromkeys(telling))[:3]) or f"    {log.strip()[-400:]}"


def _advice(java: Java) -> str:
    return (
        "connect to the network once and run `make setup`; afterwards everything works without it. "
        f"(Resolved with {java.home}; behind a proxy set SHOPMETRICS_JAVA_HOME to a JDK that knows its certificate, "
        "and REQUESTS_CA_BUNDLE to its certificate file.)"
    )
