"""Something on the loopback interface that takes connections as a SQL warehouse does, and fails: day 22 asks it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

FAULTS = ("hangs", "drips", "refuses", "gone")
"""It never answers; it sends a byte every :data:`DRIP` seconds; it refuses the token; nobody listens there."""

DRIP = 0.3


@contextmanager
def failing(fault: str) -> Iterator[str]:
    """Serve one of :data:`FAULTS` as long as the block runs, and give its address.

    Example:
        >>> with failing("refuses") as address:
        ...     urllib.request.urlopen(address)
        Traceback (most recent call last):
        urllib.error.HTTPError: HTTP Error 403: Forbidden
    """
    ended = Event()
    # Databricks' client logs what it then raises.
    logging.getLogger("databricks").addHandler(logging.NullHandler())

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if fault == "hangs":
                ended.wait()
            elif fault == "drips":
                self.send_response(200)
                self.end_headers()
                while not ended.wait(DRIP):
                    self.wfile.write(b".")
            else:
                self.send_error(403)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    # A client that gave up has closed its end: no news.
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    address = f"http://127.0.0.1:{server.server_port}/sql"
    if fault == "gone":
        server.server_close()
        yield address
        return
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
