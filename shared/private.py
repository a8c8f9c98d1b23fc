"""Files and directories that only their owner may read: ports, tokens, secrets, logs."""

from __future__ import annotations

import os
from pathlib import Path

from shared.errors import EngineError


def private_directory(path: Path) -> Path:
    """Create a directory that only its owner may enter, and return it.

    Raises:
        EngineError: if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise EngineError(
            f"Cannot make the directory {path}: {error.strerror}.",
            "set SHOPMETRICS_HOME to a directory that you may write to",
        ) from error
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 so that no reader ever sees half of it."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(scratch, path)
