"""Day 14: secrets, where they are and where they are not."""

from __future__ import annotations

import json
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shared import secrets
from shared.course.checks.registry import Context, Finding, check
from shared.course.days import DAYS
from shared.errors import BrokerError, SecretError
from shared.masking import SHORTEST
from shared.runtime import kafka
from shared.runtime import spark as engine

KEY = "check-of-day-14"
"""A key of the broker, there for as long as it takes to look."""


@check(
    14,
    "The secrets file is for its owner only, and one that others can read is refused",
    cause="an editor or a copy has changed its mode: chmod 600 on secrets.toml in the home, and replace what is in it",
    local_only=True,
)
def _private_file(context: Context) -> Finding:
    path = secrets.secrets_file(context.settings)
    mode = f"mode {stat.S_IMODE(path.stat().st_mode):o}" if path.is_file() else "no file"
    with tempfile.TemporaryDirectory() as scratch:
        other = context.settings.model_copy(update={"home": Path(scratch)})
        secrets.put("A_NAME", "a value", other)
        secrets.secrets_file(other).chmod(0o640)
        try:
            secrets.find("A_NAME", other)
            readable = "read"
        except SecretError:
            readable = "refused"
    return Finding(f"{mode}; a copy of mode 640 is {readable}", "mode 600; a copy of mode 640 is refused")


@check(
    14,
    "The broker refuses a secret that was replaced, and a key that was revoked",
    cause="the cluster asks nobody for credentials, or is not the broker of this home",
    local_only=True,
)
def _refused(context: Context) -> Finding:
    owner = kafka.connect(context.settings)
    first = kafka.issue_key(owner, KEY)
    second = kafka.issue_key(owner, KEY)
    said = [f"the old secret is {_answer(first)}", f"the new one {_answer(second)}"]
    kafka.revoke_key(owner, KEY)
    said.append(f"after the revocation {_answer(second)}")
    return Finding(", ".join(said), "the old secret is refused, the new one accepted, after the revocation refused")


def _answer(cluster: kafka.Cluster) -> str:
    try:
        kafka.metadata(cluster)
    except BrokerError as error:
        return "refused" if "refuses the credentials" in error.problem else error.problem
    return "accepted"


@check(
    14,
    "No secret of this home is in a log, in the lineage, or in a notebook of the course",
    cause="a cell prints a secret in a form that the masking does not know: rotate the secret, then clear the output",
    local_only=True,
)
def _nowhere_else(context: Context) -> Finding:
    texts = _texts(context)
    places = [*context.settings.run.glob("*.log"), *context.settings.lineage.glob("*.jsonl")]
    places += [day.notebook for day in DAYS]
    holders = sorted(
        {path.name for path in places if path.is_file() and any(text in path.read_bytes() for text in texts)}
    )
    expected = "none"
    return Finding(", ".join(holders) or expected, expected, ok=bool(texts) and not holders)


def _texts(context: Context) -> set[bytes]:
    """Return every secret of the home as it would stand in a text: those of the file, and the engine's token."""
    return {
        spelled.encode()
        for text in _secrets(context)
        if len(text) >= SHORTEST
        for spelled in (text, json.dumps(text)[1:-1])
    }


def _secrets(context: Context) -> Iterator[str]:
    for name in secrets.names(context.settings) - {kafka.SERVERS, kafka.KEY, kafka.PROTOCOL, kafka.MECHANISM}:
        yield secrets.get(name, context.settings).get_secret_value()
    record = engine.running(context.settings)
    if record:
        yield record.token
