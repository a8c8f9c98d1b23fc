"""A stand-in for a Databricks workspace: it answers `databricks bundle validate` on the loopback interface."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

WAREHOUSE = {"id": "1", "name": "Serverless Starter Warehouse"}
USER = {"id": "1", "userName": "learner@example.com"}


def answer(url: str) -> dict[str, Any] | None:
    """Return a workspace's answer: the current user, the list of warehouses, or that a folder exists."""
    path = urlsplit(url).path
    if path.endswith("/scim/v2/Me"):
        return USER
    if path.endswith("/sql/warehouses"):
        return {"warehouses": [WAREHOUSE]}
    if path.endswith("/workspace/get-status"):
        return {"path": parse_qs(urlsplit(url).query)["path"][0], "object_type": "DIRECTORY", "object_id": 1}
    if "/permissions/" in path:
        return {"access_control_list": []}
    if path.endswith(("/workspace/mkdirs", "/databricks-config")):
        return {}
    return None


class _Workspace(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = answer(self.path)
        body = json.dumps(
            {"error_code": "ENDPOINT_NOT_FOUND", "message": self.path} if found is None else found
        ).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *arguments: Any) -> None:
        """Log nothing."""


@contextmanager
def workspace() -> Iterator[str]:
    """Start the stand-in, and provide its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Workspace)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
