"""Credentials: where they are looked up, and how they stay out of outputs and out of git.

Order: the Databricks secret scope (in a workspace), the environment variable of the same name, the file
``secrets.toml`` in the home directory, which only its owner may read. A value is a :class:`pydantic.SecretStr`:
printed, logged or shown by a notebook it reads ``**********``; ``.get_secret_value()`` is the one way to the text.
Once a library has been given the text, :mod:`shared.masking` hides it in what this process writes.
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from shared.errors import SecretError
from shared.masking import hide
from shared.private import write_private
from shared.settings import Settings, get_settings, on_databricks


def secrets_file(settings: Settings | None = None) -> Path:
    """Return the path of the local secrets file."""
    return (settings or get_settings()).home / "secrets.toml"


def find(name: str, settings: Settings | None = None, *, masked: bool = True) -> SecretStr | None:
    """Return a secret, or None if it is nowhere.

    Args:
        name: its name, which is also that of the environment variable.
        settings: the home and the scope; defaults to this process's settings.
        masked: whether to hide its text in what this process writes. False for values that are stored beside the
            secrets but are not secret: an address, a user name.

    Raises:
        SecretError: if the local file can be read by others than its owner, or is not TOML.
    """
    found = _look_up(name, settings or get_settings())
    if found is None:
        return None
    if masked:
        hide(found[1])
    return SecretStr(found[1])


def place(name: str, settings: Settings | None = None) -> str | None:
    """Return where a secret is kept, in words and without its value; None if it is nowhere.

    If a secret is in several places, this is the place in use: an environment variable hides an entry of the file.

    Raises:
        SecretError: as :func:`find`.

    Example:
        >>> secrets.place("KAFKA_API_SECRET")
        'file secrets.toml'
    """
    found = _look_up(name, settings or get_settings())
    return found[0] if found else None


def names(settings: Settings | None = None) -> set[str]:
    """Return the names of all that the local file holds.

    Raises:
        SecretError: as :func:`find`.
    """
    return set(_read(settings or get_settings()))


def get(name: str, settings: Settings | None = None, *, masked: bool = True) -> SecretStr:
    """Return a secret; the arguments are those of :func:`find`.

    Raises:
        SecretError: if it is nowhere, naming every place that was looked at.

    Example:
        >>> secrets.get("KAFKA_API_SECRET")
        SecretStr('**********')
    """
    settings = settings or get_settings()
    secret = find(name, settings, masked=masked)
    if secret is None:
        places = [f"Databricks scope {settings.secret_scope}"] if on_databricks() else []
        places += [f"environment variable {name}", str(secrets_file(settings))]
        raise SecretError(
            f"The secret {name} is nowhere. Looked at: {', '.join(places)}.",
            f"export {name}, or run `shopmetrics secret {name}`, which asks for it and keeps it in the file",
        )
    return secret


def put(name: str, value: str | SecretStr, settings: Settings | None = None) -> None:
    """Keep a secret in the local file, mode 0600, beside those already there. A value of that name is replaced.

    Raises:
        SecretError: if the file can be read by others than its owner, or is not TOML.
    """
    settings = settings or get_settings()
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    settings.home.mkdir(parents=True, exist_ok=True)
    _write(_read(settings) | {name: text}, settings)


def remove(name: str, settings: Settings | None = None) -> bool:
    """Take a secret out of the local file. Returns whether it was there.

    The server that the secret opens still accepts it: revoke it there first.

    Raises:
        SecretError: if the file can be read by others than its owner, or is not TOML.
    """
    settings = settings or get_settings()
    kept = _read(settings)
    if name not in kept:
        return False
    del kept[name]
    _write(kept, settings)
    return True


def _look_up(name: str, settings: Settings) -> tuple[str, str] | None:
    """Return where a secret is, and its text."""
    if on_databricks() and (value := _from_databricks(name, settings)):
        return f"Databricks scope {settings.secret_scope}", value
    if value := os.environ.get(name):
        return f"environment variable {name}", value
    if value := _read(settings).get(name):
        return f"file {secrets_file(settings).name}", str(value)
    return None


def _write(kept: dict[str, Any], settings: Settings) -> None:
    # A JSON string is a TOML string.
    write_private(secrets_file(settings), "".join(f"{key} = {json.dumps(str(kept[key]))}\n" for key in sorted(kept)))


def _read(settings: Settings) -> dict[str, Any]:
    path = secrets_file(settings)
    if not path.is_file():
        return {}
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SecretError(
            f"{path} can be read by others: expected mode 600, found {stat.S_IMODE(path.stat().st_mode):o}.",
            f"chmod 600 {path}, and replace the secrets in it if others were on this machine",
        )
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        # Not the line itself: it may hold a secret.
        raise SecretError(f"{path} is not TOML: {error}.", 'each line must read NAME = "value"') from None


def _from_databricks(name: str, settings: Settings) -> str | None:
    from pyspark.dbutils import DBUtils  # exists in a workspace only
    from pyspark.sql import SparkSession

    store = DBUtils(SparkSession.builder.getOrCreate()).secrets
    try:
        names = {entry.key for entry in store.list(settings.secret_scope)}
    except Exception as error:  # its class depends on the kind of compute
        if "RESOURCE_DOES_NOT_EXIST" in str(error) or "does not exist" in str(error):
            return None
        raise
    return store.get(settings.secret_scope, name) if name in names else None
