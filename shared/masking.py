"""Hides the text of known secrets in what this process writes: log records, tracebacks, and outputs of a notebook.

A secret is a :class:`pydantic.SecretStr` until a library needs its text. From there on it is a string like any other:
in the configuration of a client that a cell shows, or in the message of an error. :mod:`shared.secrets` reports each
secret that it hands out to :func:`hide`, and this module replaces the text. GitHub's runners and Databricks' notebooks
do the same to their outputs.

It is the second line of defence, against accidents. A secret that is encoded, cut into pieces or reversed is not found.
Secrets of fewer than ``SHORTEST`` characters are not replaced, because ordinary words may contain them.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import Any, TextIO
from urllib.parse import quote

MASK = "**********"
"""What stands in place of a secret; pydantic prints the same."""

SHORTEST = 8

_lock = threading.Lock()
_spellings: set[str] = set()
_pattern: re.Pattern[str] | None = None


def hide(text: str) -> None:
    """Replace this text from now on, in every spelling in which it is likely to be written.

    The first call puts the replacement into this process: into the factory of log records, the hook for uncaught
    exceptions, and, in a Jupyter kernel, into everything that the kernel sends.
    """
    global _pattern
    if len(text) < SHORTEST:
        return
    with _lock:
        if text in _spellings:
            return
        if _pattern is None:
            _install()
        _spellings.update(_spelled(text))
        # The longest first: one secret may be the beginning of another.
        _pattern = re.compile("|".join(map(re.escape, sorted(_spellings, key=len, reverse=True))))


def masked(text: str) -> str:
    """Return the text with ``MASK`` in place of each secret that was passed to :func:`hide`."""
    return _pattern.sub(MASK, text) if _pattern else text


def _spelled(text: str) -> set[str]:
    """Return the text as it is, as in Python's repr, in an address, and in JSON; and each of these within JSON."""
    once = {text, repr(text)[1:-1], quote(text, safe=""), _as_json(text), _as_json(text, ascii_only=False)}
    return once | {_as_json(one) for one in once} | {_as_json(one, ascii_only=False) for one in once}


def _as_json(text: str, ascii_only: bool = True) -> str:
    return json.dumps(text, ensure_ascii=ascii_only)[1:-1]


class MaskedStream:
    """A text stream that hides secrets in what is written to it; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text without its secrets."""
        return self._stream.write(masked(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _install() -> None:
    logging.setLogRecordFactory(_masking_records(logging.getLogRecordFactory()))
    sys.excepthook = _masking_hook(sys.excepthook)
    threading.excepthook = _masking_hook(threading.excepthook)
    # Databricks does this itself.
    if "IPython" in sys.modules and "DATABRICKS_RUNTIME_VERSION" not in os.environ:
        from IPython.core.getipython import get_ipython

        shell: Any = get_ipython()
        session = getattr(getattr(shell, "kernel", None), "session", None)
        if session is not None:
            # Every message of the kernel goes through this function: what is printed and displayed, results, errors.
            session.pack = _masking_packer(session.pack)


def _masking_packer(pack: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def packed(message: Any) -> bytes:
        return masked(pack(message).decode()).encode()

    return packed


def _masking_records(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def made(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            said = record.getMessage()
        except (TypeError, ValueError):  # its arguments do not fit; logging reports that when it writes the record
            said = ""
        hidden = masked(said)
        if hidden != said:
            record.msg, record.args = hidden, ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = masked(logging.Formatter().formatException(record.exc_info))
        return record

    return made


def _masking_hook(hook: Callable[..., Any]) -> Callable[..., Any]:
    def masking(*args: Any) -> None:
        with redirect_stderr(io.StringIO()) as written:
            hook(*args)
        sys.stderr.write(masked(written.getvalue()))

    return masking
